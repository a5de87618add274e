"""What is installed, as files: right by the schemas of every release, the same by kustomize and Helm, and hardened."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from peerpods.kube.objects import names
from tests.kube.install import rendered
from tests.kube.install.rendered import K8S, OVERLAYS, TOP, by_key, charted, for_overlay, kustomized

VERSIONS = tuple(f"1.{minor}" for minor in range(28, 35))
ACCOUNTS = {names.ADAPTOR, names.RELAY, names.WEBHOOK, names.PEER_POD_CTRL, names.PEER_POD_CONFIG_CTRL}
tools = pytest.mark.kube


def test_the_chart_is_what_the_base_says() -> None:
    done = subprocess.run(
        [sys.executable, TOP / "tools/manifests.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_chart_that_is_behind_is_noticed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOP / "tools"))
    import manifests  # type: ignore[import-not-found]

    text = "a: 1 # helm: .Values.a\nb: # helm-yaml: .Values.b\n  c: 1\nd: 2\n"
    assert manifests.template(text) == (
        "a: {{ .Values.a }}\n{{- with .Values.b }}\nb:\n  {{- toYaml . | nindent 2 }}\n{{- end }}\nd: 2\n"
    )
    assert "{{" not in re.sub(r'\{\{ "\{\{" \}\}', "", manifests.template("x: {{y}}\n"))


def _plain(made: rendered.Object) -> rendered.Object:
    """Without what says who installed it; text that is YAML as what it means."""
    labels = {k: v for k, v in made["metadata"].get("labels", {}).items() if k != "app.kubernetes.io/managed-by"}
    made = {**made, "metadata": {**made["metadata"], "labels": labels}}
    if made["kind"] == "ConfigMap":
        made["data"] = {k: yaml.safe_load(v) if k.endswith(".yaml") else v for k, v in made["data"].items()}
    return made


@tools
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_and_helm_make_the_same_objects(overlay: str) -> None:
    ours = {k: _plain(o) for k, o in by_key(kustomized(overlay)).items()}
    theirs = {k: _plain(o) for k, o in by_key(charted(*for_overlay(overlay))).items()}
    assert ours.keys() == theirs.keys()
    for name, made in ours.items():
        assert made == theirs[name], name


@tools
@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_right_by_the_strict_schema(version: str) -> None:
    everything = [o for overlay in OVERLAYS for o in kustomized(overlay)] + charted(hooks=True)
    assert len(everything) > 90
    for made in everything:
        kubernetes_validate.validate(made, version, strict=True)


@tools
def test_a_misspelt_field_is_found_by_that_schema() -> None:
    made = by_key(kustomized("libvirt"))["Deployment", names.INSTALL_NAMESPACE, names.PEER_POD_CTRL]
    made["spec"]["template"]["spec"]["tolerationz"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, "1.32", strict=True)


@tools
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_peer_pod_config_is_right_by_its_crd(overlay: str) -> None:
    made = by_key(kustomized(overlay))
    crd = made["CustomResourceDefinition", "", "peerpodconfigs.confidentialcontainers.org"]
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    text = made["ConfigMap", names.INSTALL_NAMESPACE, "peerpodconfig"]["data"]["peerpodconfig.yaml"]
    config = yaml.safe_load(text)
    jsonschema.validate(config, schema)
    assert config["metadata"] == {"name": names.CONFIG_NAME}
    known = schema["properties"]["spec"]["properties"]
    assert set(config["spec"]) <= set(known)


@tools
def test_every_container_is_bounded_and_has_no_rights_on_its_host() -> None:
    pods = rendered.pods([*kustomized("libvirt"), *charted(hooks=True)])
    assert {k[0] for k in pods} == {"Deployment", "Job"}
    for name, pod in pods.items():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert not [v for v in pod.get("volumes", []) if "hostPath" in v], name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["priorityClassName"] == "peerpods", name
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            if name[0] == "Deployment":
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name


@tools
def test_controllers_have_a_spare_and_time_to_undo_what_they_made() -> None:
    made = by_key(kustomized("libvirt"))
    for name in (names.PEER_POD_CTRL, names.PEER_POD_CONFIG_CTRL):
        deployment = made["Deployment", names.INSTALL_NAMESPACE, name]
        assert deployment["spec"]["replicas"] >= 2
        pod = deployment["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == 300
        budget = made["PodDisruptionBudget", names.INSTALL_NAMESPACE, name]["spec"]
        assert budget["selector"] == deployment["spec"]["selector"]
        assert budget["maxUnavailable"] < deployment["spec"]["replicas"]
        wanted = budget["selector"]["matchLabels"]
        assert wanted.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


@tools
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_labels_namespaces_and_images(overlay: str) -> None:
    for made in kustomized(overlay):
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "peerpods", rendered.key(made)
        assert labels["app.kubernetes.io/part-of"] == names.PART_OF, rendered.key(made)
        assert labels["app.kubernetes.io/managed-by"] == "kustomize", rendered.key(made)
        if made["kind"] not in CLUSTER_SCOPED:
            assert made["metadata"]["namespace"] == names.INSTALL_NAMESPACE, rendered.key(made)
    text = rendered.kustomize_text(overlay)
    images = set(re.findall(r"image: (\S+)", text))
    assert images == {"peerpods:0.1.0"}
    assert not re.search(r":latest\b|\bquay\.io|\bdocker\.io", text)


CLUSTER_SCOPED = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass"}


@tools
def test_one_image_setting_reaches_all_services(tmp_path: Any) -> None:
    (tmp_path / "k8s").mkdir()
    for name in ("base", "overlays"):
        subprocess.run(["cp", "-r", K8S / name, tmp_path / "k8s"], check=True)
    file = tmp_path / "k8s/overlays/libvirt/kustomization.yaml"
    file.write_text(file.read_text().replace("newName: peerpods", "newName: example/pp").replace("0.1.0", "9.9"))
    text = rendered.run("kubectl", "kustomize", file.parent).stdout
    assert text.count("image: example/pp:9.9") == 2
    assert re.search(r"name: RELATED_IMAGE_PEERPODS\n\s+value: example/pp:9.9", text)
    chart = charted("--set", "image.repository=example/pp", "--set", "image.tag=9.9")
    assert str(chart).count("example/pp:9.9") == 3
    digest = charted("--set", "image.repository=example/pp@sha256:ab")
    assert str(digest).count("'example/pp@sha256:ab'") == 3


@tools
def test_credentials_come_from_files_that_are_not_in_git(tmp_path: Any) -> None:
    assert not [o for o in kustomized("libvirt") + charted(hooks=True) if o["kind"] == "Secret"]
    subprocess.run(["cp", "-r", K8S, tmp_path / "k8s"], check=True)
    parts = tmp_path / "k8s/components"
    (parts / "credentials/secret.env").write_text("AWS_SECRET_ACCESS_KEY=xyz\n")
    for name in ("id_rsa", "known_hosts"):
        (parts / "ssh-key/ssh" / name).write_text(name)
    file = tmp_path / "k8s/overlays/aws/kustomization.yaml"
    file.write_text(re.sub(r"^# (components:|  - \.\./)", r"\1", file.read_text(), flags=re.M))
    made = by_key(rendered.objects(rendered.run("kubectl", "kustomize", file.parent).stdout))
    assert made["Secret", names.INSTALL_NAMESPACE, names.SECRET]["data"] == {"AWS_SECRET_ACCESS_KEY": "eHl6"}
    assert made["Secret", names.INSTALL_NAMESPACE, names.SSH_SECRET]["data"].keys() == {"id_rsa", "known_hosts"}
    for path in ("credentials/secret.env", "ssh-key/ssh/id_rsa"):
        ignored = subprocess.run(["git", "-C", TOP, "check-ignore", "-q", f"k8s/components/{path}"])
        assert ignored.returncode == 0, path


@tools
def test_each_account_is_bound_to_its_own_role_alone() -> None:
    made = by_key(kustomized("libvirt"))
    accounts = {k[2] for k in made if k[0] == "ServiceAccount"}
    assert accounts == ACCOUNTS
    for name, one in made.items():
        if name[0] in ("ClusterRoleBinding", "RoleBinding"):
            (subject,) = one["subjects"]
            assert subject["namespace"] == names.INSTALL_NAMESPACE
            assert one["roleRef"]["name"] == name[2]
            assert name[2].removeprefix("peerpods-") == subject["name"].removeprefix("peerpods-")
            assert (one["roleRef"]["kind"], name[1], name[2]) in made
        if name[0] in ("ClusterRole", "Role"):
            for rule in one["rules"]:
                assert "*" not in rule["verbs"] + rule.get("resources", []) + rule.get("apiGroups", []), name


NONSENSE = [
    ("peerPodConfig.limt=3", "'limt' not allowed"),
    ("peerPodConfig.webhook.replicas=99", "/peerPodConfig/webhook/replicas"),
    ("peerPodConfig.webhook.failurePolicy=Never", "/peerPodConfig/webhook/failurePolicy"),
    ("controllers.replicas=0", "/controllers/replicas"),
    ("controllers.replicas=two", "/controllers/replicas"),
    ("uninstall.timeout=1", "/uninstall/timeout"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("image.tag=latest", "give a version"),
    ("provider=AWS", "/provider"),
    ("namespace=Peer_Pods", "/namespace"),
    ("nmespace=x", "'nmespace' not allowed"),
    ("config.libvirt_uri=x", "'libvirt_uri' not allowed"),
    ("config.AWS_SECRET_ACCESS_KEY=x", "put it into the Secret peer-pods-secret"),
    ("config.CLOUD_PROVIDER=x", "set `provider` instead"),
]


@tools
@pytest.mark.parametrize(("setting", "words"), NONSENSE)
def test_nonsense_in_values_is_refused_in_words(setting: str, words: str) -> None:
    done = rendered.run("helm", "template", "peerpods", K8S / "chart", "--set", setting, check=False)
    assert done.returncode != 0
    assert words in done.stderr


@tools
def test_helm_lint_and_the_namespace() -> None:
    rendered.run("helm", "lint", "--strict", K8S / "chart")
    here = by_key(charted())
    assert here["Namespace", "", names.INSTALL_NAMESPACE]["metadata"]["labels"][
        "pod-security.kubernetes.io/enforce"
    ] == ("privileged")
    own = charted("--namespace", "elsewhere", "--set", "namespace=elsewhere")
    assert "Namespace" not in {o["kind"] for o in own}, "helm install --create-namespace makes it"
    assert names.INSTALL_NAMESPACE not in str(own)
    policies = charted("--set", "networkPolicies.enabled=false")
    assert "NetworkPolicy" not in {o["kind"] for o in policies}
