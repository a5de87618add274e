"""What is rendered: golden files, schema checks, and the rules that a golden file does not name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import kubernetes_validate
import pytest

from peerpods.cli.services.common import options_class
from peerpods.kube.objects.resources import PDBS, Resource
from peerpods.kube.peerpodconfig.render import Facts, render, resource_of
from peerpods.kube.peerpodconfig.spec import parse_config
from peerpods.kube.webhook.settings import WebhookSettings
from tests.kube.peerpodconfig.samples import RICH, stored

GOLDEN = Path(__file__).parents[2] / "fixtures" / "kube"
OLD_PDBS = Resource("policy", "v1beta1", "poddisruptionbudgets", "PodDisruptionBudget")
NEW = Facts(version=(1, 32), image="peerpods:0.1.0", checksum="c0ffee")
OLD = Facts(version=(1, 20), pdbs=OLD_PDBS, image="peerpods:0.1.0", checksum="c0ffee")
CASES: dict[str, tuple[dict[str, Any], Facts]] = {
    "plain-1.32": ({}, NEW),
    "plain-1.20": ({}, OLD),
    "rich-1.32": (RICH, NEW),
}
VERSIONS = ["1.28", "1.29", "1.30", "1.31", "1.32", "1.33", "1.34"]


def made(name: str) -> list[dict[str, Any]]:
    spec, facts = CASES[name]
    return render(parse_config(stored(**spec)), facts)


def one(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    found = [obj for obj in objects if obj["kind"] == kind and name in ("", obj["metadata"]["name"])]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", CASES)
def test_objects_are_as_in_the_golden_file(name: str) -> None:
    path = GOLDEN / f"peerpodconfig-{name}.json"
    text = json.dumps(made(name), indent=1) + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "if this is wanted: WRITE_GOLDEN=1, and read the diff"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["plain-1.32", "rich-1.32"])
def test_every_object_passes_the_strict_schema(name: str, version: str) -> None:
    core = [obj for obj in made(name) if "cert-manager" not in obj["apiVersion"]]
    assert len(core) >= 8
    for obj in core:
        kubernetes_validate.validate(obj, version, strict=True)


def test_the_schema_check_can_fail() -> None:
    broken = one(made("plain-1.32"), "DaemonSet", "peerpods-relay")
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolize"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.32", strict=True)


def test_order_relay_before_adaptor_and_classes_after_the_registration() -> None:
    kinds = [f"{obj['kind']}/{obj['metadata']['name']}" for obj in made("rich-1.32")]
    assert kinds == [
        "DaemonSet/peerpods-relay",
        "DaemonSet/peerpods-adaptor",
        "Service/peerpods-webhook",
        "Certificate/peerpods-webhook",
        "NetworkPolicy/peerpods-webhook",
        "PodDisruptionBudget/peerpods-webhook",
        "Deployment/peerpods-webhook",
        "MutatingWebhookConfiguration/peerpods-webhook",
        "RuntimeClass/kata-remote",
        "RuntimeClass/kata-remote-gpu",
    ]


def test_old_servers_get_only_fields_they_know() -> None:
    objects = made("plain-1.20")
    assert "maxSurge" not in json.dumps(one(objects, "DaemonSet", "peerpods-adaptor")["spec"]["updateStrategy"])
    assert "matchConditions" not in one(objects, "MutatingWebhookConfiguration")["webhooks"][0]
    budget = one(objects, "PodDisruptionBudget")
    assert budget["apiVersion"] == "policy/v1beta1"
    assert resource_of(budget, OLD) is OLD_PDBS
    assert resource_of(one(made("plain-1.32"), "PodDisruptionBudget"), NEW) is PDBS
    none = render(parse_config(stored()), Facts(version=(1, 20), pdbs=None))
    assert not [obj for obj in none if obj["kind"] == "PodDisruptionBudget"]


def test_a_single_webhook_replica_gets_no_budget_that_would_block_every_drain() -> None:
    objects = render(parse_config(stored(webhook={"replicas": 1})), NEW)
    assert not [obj for obj in objects if obj["kind"] == "PodDisruptionBudget"]


def test_privileges_are_exactly_those_that_are_explained() -> None:
    for name, objects in ((name, made(name)) for name in CASES):
        for obj in objects:
            if obj["kind"] not in ("DaemonSet", "Deployment"):
                continue
            pod = obj["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            security = container["securityContext"]
            added = security["capabilities"].get("add", [])
            assert added == (["NET_ADMIN", "SYS_ADMIN"] if container["name"] == "adaptor" else []), name
            assert security["capabilities"]["drop"] == ["ALL"]
            assert security["privileged"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security.get("allowPrivilegeEscalation", "unset") == (
                "unset" if container["name"] == "adaptor" else False
            )
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "hostPID" not in pod
            assert "hostIPC" not in pod
            assert pod.get("hostNetwork", False) == (container["name"] != "webhook")


def test_every_mount_has_its_volume_and_secrets_are_for_root_alone() -> None:
    for obj in made("rich-1.32"):
        if obj["kind"] not in ("DaemonSet", "Deployment"):
            continue
        pod = obj["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]]
        assert sorted(mounts) == sorted(volumes)
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] in (0o600, 0o440)


def test_a_selector_never_has_a_label_that_may_change() -> None:
    for obj in made("rich-1.32"):
        if obj["kind"] in ("DaemonSet", "Deployment"):
            labels = obj["spec"]["selector"]["matchLabels"]
            assert sorted(labels) == ["app.kubernetes.io/component", "app.kubernetes.io/name"]
            assert labels.items() <= obj["spec"]["template"]["metadata"]["labels"].items()


def test_the_checksum_is_on_the_adaptors_pods_and_not_on_the_relays() -> None:
    objects = made("plain-1.32")
    pods = {n: one(objects, "DaemonSet", n)["spec"]["template"] for n in ("peerpods-adaptor", "peerpods-relay")}
    assert pods["peerpods-adaptor"]["metadata"]["annotations"] == {
        "confidentialcontainers.org/config-checksum": "c0ffee"
    }
    assert "annotations" not in pods["peerpods-relay"]["metadata"]


def test_ownership() -> None:
    for obj in made("rich-1.32"):
        meta = obj["metadata"]
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "peerpodconfig-ctrl"
        if "namespace" in meta:
            (owner,) = meta["ownerReferences"]
            assert owner["uid"] == "5f0c3b1e-0000-4000-8000-000000000001"
            assert owner["controller"]
        else:
            assert "ownerReferences" not in meta, "an owner in a namespace counts as absent"
            assert meta["annotations"]["confidentialcontainers.org/peerpodconfig"] == "peerpods-system/peerpods"


def test_what_the_webhook_is_told() -> None:
    def arguments(max_user_data: int, **webhook: Any) -> list[str]:
        facts = attrs.evolve(NEW, max_user_data=max_user_data)
        objects = render(parse_config(stored(webhook=webhook)), facts)
        found: list[str] = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
        return found

    assert "--max-user-data=16384" in arguments(16384)
    assert not [flag for flag in arguments(0) if flag.startswith(("--max-user-data", "--deny"))]
    told = arguments(16384, denyHopeless=True, machineTypes=["small"])
    assert {"--deny-hopeless=true", "--machine-types=small"} <= set(told)
    options = options_class("webhook", ((WebhookSettings, "webhook"),))()
    options.parseOptions(told)
    (settings,) = options.settings
    assert (settings.deny_hopeless, settings.max_user_data) == (True, 16384)


def test_what_the_webhook_is_shown() -> None:
    (hook,) = one(made("rich-1.32"), "MutatingWebhookConfiguration")["webhooks"]
    names, label = hook["namespaceSelector"]["matchExpressions"]
    assert names["values"] == ["peerpods-system", "kube-system", "kube-public", "kube-node-lease", "monitoring"]
    assert label == {
        "key": "peerpods.confidentialcontainers.org/webhook",
        "operator": "NotIn",
        "values": ["disabled"],
    }
    assert "caBundle" not in hook["clientConfig"]
    assert (
        "object.spec.runtimeClassName in ['kata-remote', 'kata-remote-gpu']"
        in (hook["matchConditions"][0]["expression"])
    )
    assert hook["rules"][0]["operations"] == ["CREATE"]


def test_an_own_issuer_is_made_only_when_none_is_named() -> None:
    def issuers(**webhook: Any) -> list[str]:
        objects = render(parse_config(stored(webhook=webhook)), NEW)
        return [obj["kind"] for obj in objects if "cert-manager" in obj["apiVersion"]]

    assert issuers(certManager={}) == ["Issuer", "Certificate"]
    assert issuers(certManager={"issuerRef": {"name": "corporate"}}) == ["Certificate"]
    assert issuers() == []


def test_a_certificate_from_elsewhere_is_mounted() -> None:
    def deployment(**webhook: Any) -> str:
        return json.dumps(one(render(parse_config(stored(webhook=webhook)), NEW), "Deployment"))

    assert "--cert-dir=" in deployment(certManager={})
    assert "--cert-dir=" in deployment(selfManaged=False)
    assert "--cert-dir=" not in deployment()


def test_no_names_mean_no_references() -> None:
    config = parse_config(stored(cloudSecretName="", configMapName="", sshKeySecretName=""))
    pod = one(render(config, NEW), "DaemonSet", "peerpods-adaptor")["spec"]["template"]["spec"]
    assert "envFrom" not in pod["containers"][0]
    assert [volume["name"] for volume in pod["volumes"]] == ["run-peerpod", "run-netns", "state", "tmp"]
