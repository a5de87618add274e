"""The adaptor on a real API server, with the rights of its service account and no others; provider `memory`."""

from __future__ import annotations

import base64
import itertools
import json
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import yaml
from twisted.internet import reactor
from twisted.internet.task import deferLater

from peerpods.adaptor.kube.connect import open_cluster
from peerpods.adaptor.kube.rights import reviews, rules
from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.adaptor.service import AdaptorService
from peerpods.config.settings import GuestSettings
from peerpods.kube.client import KubeSettings
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.names import ADAPTOR, FINALIZER, PULL_SECRETS_ROLE
from peerpods.ttrpc import StatusError
from peerpods.userdata import parse
from tests.adaptor.test_service import ID, Idle, Machine
from tests.adaptor.world import FakeNetwork
from tests.kube.cluster import RealCluster

TOP = Path(__file__).parents[3]
_numbers = itertools.count(1)


def install_crd(cluster: RealCluster) -> None:
    """Make the PeerPod kind, if it is not there."""
    crd = yaml.safe_load((TOP / "k8s/base/crds/peerpods.yaml").read_text())
    status, answer = cluster.request("POST", r.CRDS.path(), crd)
    assert status in (201, 409), answer
    for _ in range(600):
        if cluster.request("GET", r.PEER_PODS.path())[0] == 200:
            return
        time.sleep(0.1)
    raise AssertionError("the kind PeerPod is not served")


def install_account(cluster: RealCluster, namespace: str) -> Path:
    """The adaptor's service account with its ClusterRole as in `rights.py`; a kubeconfig with its token."""
    meta = {"name": ADAPTOR}
    cluster.must("POST", r.SERVICE_ACCOUNTS.path(namespace), {"metadata": meta})
    name = f"{ADAPTOR}-{namespace}"
    cluster.must("POST", r.CLUSTER_ROLES.path(), {"metadata": {"name": name}, "rules": rules()})
    subject = {"kind": "ServiceAccount", "name": ADAPTOR, "namespace": namespace}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": ref, "subjects": [subject]}
    cluster.must("POST", r.CLUSTER_ROLE_BINDINGS.path(), binding)
    return cluster.token_kubeconfig(cluster.service_account_token(namespace, ADAPTOR))


def lend(cluster: RealCluster, namespace: str, *secrets: str) -> None:
    """What peerpodconfig-ctrl does in a namespace with pull secrets."""
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(secrets), "verbs": ["get"]}
    cluster.must("POST", r.ROLES.path(namespace), {"metadata": {"name": PULL_SECRETS_ROLE}, "rules": [rule]})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": PULL_SECRETS_ROLE}
    subject = {"kind": "ServiceAccount", "name": ADAPTOR, "namespace": namespace}
    binding = {"metadata": {"name": PULL_SECRETS_ROLE}, "roleRef": ref, "subjects": [subject]}
    cluster.must("POST", r.ROLE_BINDINGS.path(namespace), binding)


class KubeMachine(Machine):
    """A node of a real cluster."""

    def __init__(self, cluster: RealCluster, namespace: str, **memory: Any) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.name = f"node-{next(_numbers)}-{namespace}"
        self.kubeconfig = str(install_account(cluster, namespace))
        cluster.create_node(self.name)
        super().__init__(**memory)

    def make(self, guest: GuestSettings | None = None, **changes: Any) -> AdaptorService:
        settings = attrs.evolve(self.settings, node=self.name, cluster=self.namespace, **changes)
        kube = KubeSettings(kubeconfig=self.kubeconfig)

        async def cluster(place, limit):
            return await open_cluster(reactor, settings, kube, place, "memory", limit)

        network = FakeNetwork(self.node, Idle())
        guest = guest or GuestSettings()
        return AdaptorService(settings, guest, self.provider, reactor, network=network, open_cluster=cluster)

    def pod(self, name: str = "web", **spec: Any) -> dict:
        """A pod that the scheduler has put on this node."""
        containers = [{"name": "c", "image": "i"}]
        body = {"metadata": {"name": name}, "spec": {"nodeName": self.name, "containers": containers, **spec}}
        return self.cluster.must("POST", r.PODS.path(self.namespace), body)

    async def create_pod(self, sandbox: str = ID, name: str = "web") -> str:
        return await self.create(sandbox, **{NAME: name, NAMESPACE: self.namespace})

    def peerpods(self) -> list[dict]:
        return self.cluster.must("GET", r.PEER_PODS.path(self.namespace))["items"]

    def peerpod(self) -> dict:
        (obj,) = self.peerpods()
        return obj

    def events(self) -> dict[str, dict]:
        """Events in the namespace by reason, as `kubectl describe` finds them: in the core group."""
        items = self.cluster.must("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return {one["reason"]: one for one in items if one["reason"].startswith("PeerPod")}


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A loaded machine's API server may take longer to answer than a VM's start shall wait."""
    monkeypatch.setattr("peerpods.adaptor.kube.cluster.FACTS", 20.0)
    monkeypatch.setattr("peerpods.adaptor.kube.pullsecrets.ANSWER", 20.0)


async def on_node(cluster: RealCluster, namespace: str, test, **memory: Any) -> None:
    install_crd(cluster)
    machine = KubeMachine(cluster, namespace, **memory)
    await machine.up()
    try:
        await test(machine)
    finally:
        await machine.down()
        for obj in machine.peerpods():
            path = r.PEER_PODS.path(namespace, obj["metadata"]["name"])
            patch = {"metadata": {"finalizers": None}}
            cluster.request("PATCH", path, patch, "application/merge-patch+json")
            cluster.request("DELETE", path)


@pytest_twisted.ensureDeferred
async def test_a_life(cluster, namespace):
    async def play(machine: KubeMachine) -> None:
        pod = machine.pod()
        await machine.create_pod()
        await machine.start()
        await machine.until(lambda: machine.peerpod().get("status", {}).get("phase") == "Running")
        obj = machine.peerpod()
        assert obj["metadata"]["name"] == f"web-resource-{ID[:8]}"
        assert obj["metadata"]["finalizers"] == [FINALIZER]
        assert obj["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
        assert obj["spec"]["instanceID"].startswith("mem-")
        await machine.until(lambda: {"PeerPodLaunching", "PeerPodReady"} <= set(machine.events()))
        ready = machine.events()["PeerPodReady"]
        assert ready["involvedObject"]["uid"] == pod["metadata"]["uid"]
        assert ready["type"] == "Normal"
        assert obj["spec"]["instanceID"] in ready["message"]
        await machine.stop()
        await machine.until(lambda: not machine.peerpods())
        asked = cluster.audit(f"system:serviceaccount:{namespace}:{ADAPTOR}")
        assert asked
        assert not [one for one in asked if one["responseStatus"]["code"] == 403]

    await on_node(cluster, namespace, play)


@pytest_twisted.ensureDeferred
async def test_a_cloud_error_is_an_event_within_five_seconds(cluster, namespace):
    async def play(machine: KubeMachine) -> None:
        machine.pod()
        await machine.create_pod()
        with pytest.raises(StatusError):
            await machine.start(timeout=12.0)
        failed = time.time()
        await machine.until(lambda: "PeerPodFailed" in machine.events(), 5.0)
        assert time.time() - failed < 5
        assert "phase link" in machine.events()["PeerPodFailed"]["message"]

    await on_node(cluster, namespace, play, guest="refuses")


@pytest_twisted.ensureDeferred
async def test_the_api_server_is_killed_and_comes_back(cluster, namespace):
    async def play(machine: KubeMachine) -> None:
        machine.pod()
        await machine.create_pod()
        cluster.stop_apiserver(kill=True)
        await machine.start()  # with no API server at all
        await deferLater(reactor, 1)
        cluster.start_apiserver()
        await machine.until(lambda: [o.get("status", {}).get("phase") for o in machine.peerpods()] == ["Running"], 60)
        await machine.until(lambda: {"PeerPodLaunching", "PeerPodReady"} <= set(machine.events()), 60)
        cluster.stop_apiserver(kill=True)
        await machine.stop()
        await machine.until(lambda: machine.phase() == "gone")
        cluster.start_apiserver()
        await machine.until(lambda: not machine.peerpods(), 60)

    await on_node(cluster, namespace, play)


@pytest_twisted.ensureDeferred
async def test_a_restart_goes_on_with_the_same_object(cluster, namespace):
    async def play(machine: KubeMachine) -> None:
        machine.pod()
        await machine.create_pod()
        await machine.start()
        await machine.until(lambda: machine.peerpod().get("status", {}).get("phase") == "Running")
        uid = machine.peerpod()["metadata"]["uid"]
        await machine.adaptor.stopService()
        path = r.PEER_PODS.path(namespace, machine.peerpod()["metadata"]["name"], "status")
        spoilt = {"status": {"phase": "Failed"}}
        cluster.must("PATCH", path, spoilt, "application/merge-patch+json")
        machine.adaptor = machine.make()
        await machine.adaptor.startService()
        await machine.until(lambda: machine.peerpod()["status"]["phase"] == "Running")
        assert machine.peerpod()["metadata"]["uid"] == uid
        await machine.stop()
        await machine.until(lambda: not machine.peerpods())

    await on_node(cluster, namespace, play)


def config(host: str, pair: str) -> dict[str, str]:
    auth = base64.b64encode(pair.encode()).decode()
    return {
        ".dockerconfigjson": base64.b64encode(json.dumps({"auths": {host: {"auth": auth}}}).encode()).decode(),
    }


@pytest_twisted.ensureDeferred
async def test_the_service_account_s_pull_secret_and_the_pod_s(cluster, namespace, monkeypatch):
    monkeypatch.setattr("peerpods.adaptor.kube.pullsecrets.PATIENCE", 30.0)

    async def play(machine: KubeMachine) -> None:
        for name, host in (("mine", "mine.example"), ("accounts", "accounts.example")):
            body = {"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "data": config(host, "u:p")}
            cluster.must("POST", r.SECRETS.path(namespace), body)
        account = {"metadata": {"name": "with-secret"}, "imagePullSecrets": [{"name": "accounts"}]}
        cluster.must("POST", r.SERVICE_ACCOUNTS.path(namespace), account)
        await machine.until(lambda: _usable(cluster, namespace, "with-secret"))
        by_account = machine.pod("by-account", serviceAccountName="with-secret")
        assert by_account["spec"]["imagePullSecrets"] == [{"name": "accounts"}]  # admission has copied it
        machine.pod("by-pod", imagePullSecrets=[{"name": "mine"}, {"name": "absent"}])
        reactor.callLater(1.0, lend, cluster, namespace, "accounts", "mine", "absent")  # a moment late, as it may be
        first, second = ID, "b" * 64
        await machine.create_pod(first, "by-account")
        await machine.create_pod(second, "by-pod")
        for sandbox, host in ((first, "accounts.example"), (second, "mine.example")):
            secrets = await machine.adaptor._journal.secrets(sandbox)
            assert list(json.loads(secrets.auth_json)["auths"]) == [host]
        await machine.until(lambda: "PeerPodPullSecret" in machine.events())
        assert "absent does not exist" in machine.events()["PeerPodPullSecret"]["message"]
        await machine.start(first)
        (record,) = machine.provider.store.records.values()
        sent = json.loads(parse(record.user_data)["/run/peerpod/auth.json"])
        assert sent == json.loads((await machine.adaptor._journal.secrets(first)).auth_json)

    await on_node(cluster, namespace, play)


def _usable(cluster: RealCluster, namespace: str, account: str) -> bool:
    """Until 1.23 admission wants a token secret of the account before a pod may use it."""
    found = cluster.must("GET", r.SERVICE_ACCOUNTS.path(namespace, account))
    return cluster.version >= (1, 24) or bool(found.get("secrets"))


@pytest_twisted.ensureDeferred
async def test_without_the_role_the_pod_starts_and_is_told(cluster, namespace):
    async def play(machine: KubeMachine) -> None:
        body = {"metadata": {"name": "mine"}, "type": "kubernetes.io/dockerconfigjson", "data": config("r", "u:p")}
        cluster.must("POST", r.SECRETS.path(namespace), body)
        machine.pod(imagePullSecrets=[{"name": "mine"}])
        await machine.create_pod()
        await machine.until(lambda: "PeerPodPullSecret" in machine.events())
        text = machine.events()["PeerPodPullSecret"]["message"]
        assert "may not read pull secret mine" in text
        assert PULL_SECRETS_ROLE in text
        await machine.start()

    await on_node(cluster, namespace, play)


@pytest_twisted.ensureDeferred
async def test_a_pod_that_is_deleted_by_force_takes_its_vm_along(cluster, namespace, monkeypatch):
    monkeypatch.setattr("peerpods.adaptor.kube.podwatch.GRACE", 1.0)

    async def play(machine: KubeMachine) -> None:
        machine.pod()
        await machine.create_pod()
        await machine.start()
        await machine.until(lambda: machine.peerpod().get("status", {}).get("phase") == "Running")
        path = r.PODS.path(namespace, "web")
        cluster.must("DELETE", path, {"gracePeriodSeconds": 0})
        machine.pod()  # one of the same name follows at once
        await machine.until(lambda: machine.phase() == "gone")
        await machine.until(lambda: not machine.peerpods())

    await on_node(cluster, namespace, play)


@pytest_twisted.ensureDeferred
async def test_the_node_s_capacity_limits_it(cluster, namespace):
    async def play(machine: KubeMachine) -> None:
        status = {"status": {"capacity": {"kata.peerpods.io/vm": "1"}}}
        cluster.must("PATCH", r.NODES.path(None, machine.name, "status"), status, "application/merge-patch+json")
        await machine.until(lambda: machine.adaptor._cluster.limit() is not None)
        machine.pod()
        machine.pod("second")
        await machine.create_pod()
        with pytest.raises(StatusError) as caught:
            await machine.create_pod("c" * 64, "second")
        assert "its limit is 1" in str(caught.value)
        await machine.until(lambda: "PeerPodLimitReached" in machine.events())
        found = machine.events()["PeerPodLimitReached"]["involvedObject"]
        assert (found["name"], bool(found["uid"])) == ("second", True)

    await on_node(cluster, namespace, play)


@pytest_twisted.ensureDeferred
async def test_a_namespace_that_is_going_gets_no_vm(cluster, namespace, monkeypatch):
    monkeypatch.setattr("peerpods.adaptor.kube.peerpods.ANNOUNCE", 30.0)

    async def play(machine: KubeMachine) -> None:
        machine.pod(terminationGracePeriodSeconds=0)
        await machine.create_pod()
        finalizer = {"metadata": {"name": "hold", "finalizers": ["test.example/hold"]}}
        cluster.must("POST", r.CONFIG_MAPS.path(namespace), finalizer)
        cluster.must("DELETE", r.NAMESPACES.path(None, namespace))
        await machine.until(
            lambda: cluster.must("GET", f"/api/v1/namespaces/{namespace}")["status"]["phase"] != "Active"
        )
        with pytest.raises(StatusError) as caught:
            await machine.start()
        assert "is being deleted" in str(caught.value)
        path = r.CONFIG_MAPS.path(namespace, "hold")
        cluster.must("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")

    await on_node(cluster, namespace, play)


def test_the_account_may_do_what_is_listed_and_nothing_with_secrets(cluster, namespace):
    install_crd(cluster)
    install_account(cluster, namespace)
    me = cluster.as_user(f"system:serviceaccount:{namespace}:{ADAPTOR}")

    def allowed(review: dict) -> bool:
        status, answer = me.request("POST", r.ACCESS_REVIEWS.path(), review)
        assert status == 201, answer
        return answer["status"]["allowed"]

    for name, review in reviews():
        assert allowed(review), name
    for group, resource, verb in [
        ("", "secrets", "get"),
        ("", "secrets", "list"),
        ("", "pods", "delete"),
        ("", "nodes", "patch"),
        ("confidentialcontainers.org", "peerpods", "update"),
        ("confidentialcontainers.org", "peerpodconfigs", "get"),
        ("", "events", "create"),
    ]:
        attributes = {"group": group, "resource": resource, "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        assert not allowed(review), f"{verb} {resource}"
