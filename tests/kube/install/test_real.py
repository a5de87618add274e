"""Install, use, and remove on a real API server: by kustomize and by Helm, in the right and in wrong orders.

The controllers and the webhook run as processes with the tokens of their own accounts, so that a right that is missing
in k8s/ fails here. Objects of APIs that the server is too old for are left out, and named.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from peerpods.kube.objects import names
from tests.kube.cluster import MERGE_PATCH, TOP, RealCluster, client_tools
from tests.kube.install import rendered
from tests.kube.install.kubelet import NODE, Kubelet
from tests.kube.install.rendered import K8S

pytestmark = [pytest.mark.kube, pytest.mark.needs_controllers, pytest.mark.timeout(1200)]
NAMESPACE = names.INSTALL_NAMESPACE
GROUP = "/apis/confidentialcontainers.org/v1alpha1"
CONFIG = f"{GROUP}/namespaces/{NAMESPACE}/peerpodconfigs/{names.CONFIG_NAME}"
OURS = (sys.executable, "-m", "peerpods.cli.main")
NOT_OURS = {"events", "endpoints", "endpointslices", "leases", "componentstatuses", "controllerrevisions"}
"""Kinds that the cluster makes on its own, all the time."""


@pytest.fixture(scope="module")
def own() -> Iterator[RealCluster]:
    """A cluster of our own: what is left over is looked for in all of it."""
    with RealCluster() as running:
        labels = {"node.kubernetes.io/worker": "", names.KATA_NODE_LABEL: "true"}
        running.create_node(NODE, labels)
        running.create_namespace("shop")
        yield running


@pytest.fixture
def tool(own: RealCluster, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """kubectl, helm or peerpods as the admin."""
    environment = {
        "KUBECONFIG": str(own.kubeconfig()),
        "HOME": str(tmp_path),
        "PATH": f"{client_tools()}:/usr/bin:/bin",
    }

    def run(*command: str | Path, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            list(map(str, command)), input=input, capture_output=True, text=True, env=environment, timeout=380, cwd=TOP
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    return run


def everything(cluster: RealCluster) -> set[str]:
    """Each object of every kind that the server has, but what it makes itself."""
    found: set[str] = set()
    groups = ["/api/v1"]
    for group in cluster.must("GET", "/apis")["groups"]:
        groups.append("/apis/" + group["preferredVersion"]["groupVersion"])
    for path in groups:
        status, listed = cluster.request("GET", path)
        for kind in listed["resources"] if status == 200 else []:
            if "/" in kind["name"] or "list" not in kind["verbs"] or kind["name"] in NOT_OURS:
                continue
            status, objects = cluster.request("GET", f"{path}/{kind['name']}")
            for one in objects["items"] if status == 200 else []:
                metadata = one["metadata"]
                if not metadata["name"].startswith("default-token-"):
                    found.add(f"{kind['name']} {metadata.get('namespace', '')}/{metadata['name']}")
    return found


def left_of(cluster: RealCluster, before: set[str]) -> set[str]:
    """What is more than before, when garbage collection has had its time."""
    end = time.monotonic() + 90
    while (left := everything(cluster) - before) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def until(what: Callable[[], Any], why: str, seconds: float = 120.0, kubelet: Kubelet | None = None) -> Any:
    """The first result that is true."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, why + ("\n" + kubelet.logs() if kubelet else "")
        time.sleep(0.2)


def known_to(cluster: RealCluster, text: str) -> str:
    """The manifests without objects of APIs that this server is too old for."""
    groups = {"v1"} | {v["groupVersion"] for g in cluster.must("GET", "/apis")["groups"] for v in g["versions"]}
    groups |= {"confidentialcontainers.org/v1alpha1"}
    objects = rendered.objects(text)
    for one in objects:
        if one["apiVersion"] not in groups:
            print(f"not shown on {'.'.join(map(str, cluster.version))}: {one['kind']} {one['metadata']['name']}")
    return yaml.safe_dump_all([one for one in objects if one["apiVersion"] in groups])


def overlay(cluster: RealCluster, tmp_path: Path) -> Path:
    """k8s/overlays/libvirt, for the provider `memory` and this server."""
    text = rendered.kustomize_text("libvirt").replace("CLOUD_PROVIDER: libvirt", "CLOUD_PROVIDER: memory")
    text = text.replace("LIBVIRT_NET: default", "CLUSTER_ID: install-test")
    folder = tmp_path / "overlay"
    folder.mkdir(exist_ok=True)
    # The namespace's controller looks again after half the longest grace of a pod: 150 s, were it not shorter here.
    text = text.replace("terminationGracePeriodSeconds: 300", "terminationGracePeriodSeconds: 60")
    (folder / "all.yaml").write_text(known_to(cluster, text))
    (folder / "kustomization.yaml").write_text("resources: [all.yaml]\n")
    return folder


def config_is_ready_but_for_adaptors(cluster: RealCluster) -> bool:
    """What nobody here does (a kubelet's DaemonSets) aside, everything was made."""
    status, _ = cluster.request("GET", "/apis/node.k8s.io/v1/runtimeclasses/kata-remote")
    return status == 200


def webhook_is_ready(cluster: RealCluster) -> bool:
    """The registration is there with a CA."""
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{names.WEBHOOK}"
    status, found = cluster.request("GET", path)
    return status == 200 and bool(found["webhooks"][0]["clientConfig"].get("caBundle"))


def make_pod(cluster: RealCluster, name: str) -> dict[str, Any]:
    """A peer pod, as its user writes it."""
    container = {
        "name": "c", "image": "busybox",
        "resources": {"requests": {"cpu": "2", "memory": "3Gi"}, "limits": {"cpu": "3", "memory": "4Gi"}},
    }  # fmt: skip
    body = {"metadata": {"name": name}, "spec": {"runtimeClassName": "kata-remote", "containers": [container]}}
    end = time.monotonic() + 120
    while True:  # the webhook's CA reaches the API server a moment after we can read it
        status, made = cluster.request("POST", "/api/v1/namespaces/shop/pods", body)
        if status == 201:
            return made
        assert time.monotonic() < end, made
        time.sleep(0.5)


def make_peer_pod(
    cluster: RealCluster, name: str, provider: str = "memory", owner: dict[str, Any] | None = None
) -> str:
    """A PeerPod, as an adaptor writes it; its path."""
    metadata: dict[str, Any] = {
        "name": name, "finalizers": [names.FINALIZER], "annotations": {names.SANDBOX_ANNOTATION: f"sandbox-{name}"},
    }  # fmt: skip
    if owner:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        ]
    spec = {
        "cloudProvider": provider, "instanceID": f"i-{name}", "nodeName": "gone-node", "clusterName": "install-test",
        "podUID": owner["metadata"]["uid"] if owner else "", "podName": owner["metadata"]["name"] if owner else name,
    }  # fmt: skip
    body = {"apiVersion": "confidentialcontainers.org/v1alpha1", "kind": "PeerPod", "metadata": metadata, "spec": spec}
    cluster.must("POST", f"{GROUP}/namespaces/shop/peerpods", body)
    return f"{GROUP}/namespaces/shop/peerpods/{name}"


def gone(cluster: RealCluster, path: str) -> Callable[[], bool]:
    """Whether an object is not there."""
    return lambda: cluster.request("GET", path)[0] == 404


@pytest.fixture
def clean(own: RealCluster) -> Iterator[set[str]]:
    """What was there before; the test must leave just that."""
    before = everything(own)
    yield before
    left = left_of(own, before)
    path = f"{GROUP}/namespaces/shop/peerpods"
    status, found = own.request("GET", path)
    for one in found["items"] if status == 200 else []:  # so that a failed test does not fail the next
        own.request("PATCH", f"{path}/{one['metadata']['name']}", {"metadata": {"finalizers": None}}, MERGE_PATCH)
    assert not left, sorted(left)


def installed(own: RealCluster, kubelet: Kubelet) -> None:
    """Wait until the installation stands."""
    until(lambda: config_is_ready_but_for_adaptors(own), "no RuntimeClass was made", kubelet=kubelet)
    until(lambda: webhook_is_ready(own), "the webhook was not registered", kubelet=kubelet)
    until(lambda: room(own) == "10", "the node does not offer VMs", kubelet=kubelet)


def room(own: RealCluster) -> str | None:
    """VMs that the node offers."""
    found: str | None = own.must("GET", f"/api/v1/nodes/{NODE}")["status"]["capacity"].get(names.EXTENDED_RESOURCE)
    return found


def test_install_use_and_remove_in_the_right_order(
    own: RealCluster, tool: Any, clean: set[str], tmp_path: Path
) -> None:
    folder = overlay(own, tmp_path)
    with Kubelet(own, NAMESPACE, tmp_path / "kubelet") as kubelet:
        tool("kubectl", "apply", "-k", folder)  # one command, at once
        installed(own, kubelet)
        assert "PeerPodConfig" in own.must("GET", CONFIG)["kind"]
        shown = tool("kubectl", "get", "peerpodconfig", "-n", NAMESPACE).stdout
        assert shown.split()[:3] == ["NAME", "READY", "NODES"]
        # a pod is admitted
        pod = make_pod(own, "web")
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {names.EXTENDED_RESOURCE: "1"}
        assert pod["metadata"]["annotations"]["io.katacontainers.config.hypervisor.default_vcpus"] == "3"
        # its PeerPod goes with it, by the controller, for its node has no adaptor
        path = make_peer_pod(own, "web-resource-1", owner=pod)
        assert "web-resource-1" in tool("kubectl", "get", "peerpods", "-n", "shop").stdout
        own.must("DELETE", "/api/v1/namespaces/shop/pods/web")
        until(gone(own, path), "the PeerPod was not deleted", kubelet=kubelet)
        # apply again: nothing is undone, a deleted PeerPodConfig is not the installer's to bring back
        tool("kubectl", "apply", "-k", folder)
        make_peer_pod(own, "lonely-resource-2")
        tool("kubectl", "delete", "peerpodconfig", "--all", "-n", NAMESPACE, "--wait", "--timeout=200s")
        assert own.request("GET", f"{GROUP}/namespaces/shop/peerpods")[1]["items"] == []
        assert room(own) is None
        tool("kubectl", "delete", "-k", folder, "--timeout=120s")
    assert left_of(own, clean) == set(), kubelet.logs()


def test_remove_with_our_command(own: RealCluster, tool: Any, clean: set[str], tmp_path: Path) -> None:
    with Kubelet(own, NAMESPACE, tmp_path / "kubelet") as kubelet:
        tool("kubectl", "apply", "-k", overlay(own, tmp_path))
        installed(own, kubelet)
        make_peer_pod(own, "a-resource-1")
        began = time.monotonic()
        done = tool(*OURS, "uninstall", "--yes", "--timeout=200")
        assert "done, nothing is left" in done.stdout
        assert time.monotonic() - began < 200
    assert left_of(own, clean) == set(), kubelet.logs()


WRONG = {
    "all at once": ("kubectl", "delete", "-k"),
    "namespace": ("kubectl", "delete", "namespace", NAMESPACE),
}


@pytest.mark.parametrize("order", WRONG)
def test_the_wrong_order_ends_by_itself(
    order: str, own: RealCluster, tool: Any, clean: set[str], tmp_path: Path
) -> None:
    folder = overlay(own, tmp_path)
    with Kubelet(own, NAMESPACE, tmp_path / "kubelet") as kubelet:
        tool("kubectl", "apply", "-k", folder)
        installed(own, kubelet)
        make_peer_pod(own, "a-resource-1")
        if order == "all at once":
            make_peer_pod(own, "b-resource-2", provider="unheard")  # nobody can delete its VM
        began = time.monotonic()
        command = [*WRONG[order], *([folder] if order == "all at once" else [])]
        done = tool(*command, "--timeout=290s", check=False)
        assert done.returncode == 0, done.stdout + done.stderr + kubelet.logs()
        took = time.monotonic() - began
        assert took < 300
        said = kubelet.of("peerpod-ctrl").text()
        assert (order == "all at once") == ("VM i-b-resource-2 (provider unheard" in said), "named is what may be left"
        assert (order == "all at once") == ("Delete it in the cloud by hand" in said), "with the remedy"
        assert not [line for line in said.splitlines() if "vm_may_be_left" in line and "i-a-resource-1" in line]
        print(f"{order}: {took:.0f} s")
        rest = tool(*OURS, "uninstall", "--yes", "--force", "--timeout=100")
    assert left_of(own, clean) == set(), rest.stdout + kubelet.logs()


def test_the_wrong_order_without_controllers_is_undone_by_force(
    own: RealCluster, tool: Any, clean: set[str], tmp_path: Path
) -> None:
    folder = overlay(own, tmp_path)
    with Kubelet(own, NAMESPACE, tmp_path / "kubelet") as kubelet:
        tool("kubectl", "apply", "-k", folder)
        installed(own, kubelet)
        make_peer_pod(own, "a-resource-1")
        for component in ("peerpod-ctrl", "peerpodconfig-ctrl", "webhook"):
            kubelet.of(component).process.kill()
        own.must("PATCH", f"/api/v1/nodes/{NODE}", {"metadata": {"labels": {"x": "y"}}}, MERGE_PATCH)
        done = tool("kubectl", "delete", "-k", folder, "--timeout=5s", check=False)
        assert done.returncode != 0, "it hangs"
        done = tool(*OURS, "uninstall", "--yes", "--force", "--timeout=60")
        assert "a VM may be left: PeerPod shop/a-resource-1: provider memory, instance i-a-resource-1" in done.stdout
    assert left_of(own, clean) == set(), done.stdout


def test_helm_installs_upgrades_and_removes(own: RealCluster, tool: Any, clean: set[str], tmp_path: Path) -> None:
    chart = K8S / "chart"
    values = ["--set", "provider=memory", "--set", "config.CLUSTER_ID=install-test"]
    if own.version < (1, 21):
        chart = tmp_path / "chart"
        subprocess.run(["cp", "-r", K8S / "chart", chart], check=True)
        for file in (chart / "templates").glob("peerpod*-ctrl.yaml"):  # policy/v1
            file.write_text(file.read_text().replace("policy/v1", "policy/v1beta1"))
    with Kubelet(own, NAMESPACE, tmp_path / "kubelet") as kubelet:
        tool("helm", "install", "peerpods", chart, *values)
        installed(own, kubelet)
        notes = tool("helm", "get", "notes", "peerpods").stdout
        assert "get peerpodconfig -o wide" in notes
        tool("helm", "upgrade", "peerpods", chart, *values, "--set-string", "peerPodConfig.limit=3")
        until(lambda: room(own) == "3", "the upgrade did not reach the PeerPodConfig", kubelet=kubelet)
        crd = own.must(
            "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peerpods.confidentialcontainers.org"
        )
        assert crd["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        make_peer_pod(own, "a-resource-1")
        done = tool("helm", "uninstall", "peerpods", "--timeout", "5m", check=False)
        assert done.returncode == 0, done.stderr + kubelet.logs()
        until(gone(own, f"/api/v1/namespaces/{NAMESPACE}"), "the namespace hangs", kubelet=kubelet)
    assert left_of(own, clean) == set(), kubelet.logs()
