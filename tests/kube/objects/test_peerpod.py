"""The PeerPod object: names, shape, reading what others wrote, and taking off our finalizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.objects import peerpod
from peerpods.kube.objects.conditions import condition, time_text
from peerpods.kube.objects.names import FINALIZER, NODE_LABEL, SANDBOX_ANNOTATION
from peerpods.model import Phase

CRD = yaml.safe_load((Path(__file__).parents[3] / "k8s/base/crds/peerpods.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SANDBOX = "0a1b2c3d" + "e" * 56
DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


def made(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sandbox": SANDBOX,
        "pod": "web-0",
        "namespace": "shop",
        "pod_uid": "u-1",
        "provider": "libvirt",
        "instance_id": "",
        "node": "worker-1",
        "cluster": "blue",
        "token": f"{SANDBOX}-1",
    }
    return peerpod.new_peer_pod(**{**facts, **changes})


@pytest.mark.parametrize(
    ("pod", "sandbox", "name"),
    [
        ("web-0", SANDBOX, "web-0-resource-0a1b2c3d"),
        ("a" * 253, SANDBOX, "a" * 235 + "-resource-0a1b2c3d"),
        ("a" * 234 + ".b", SANDBOX, "a" * 234 + "-resource-0a1b2c3d"),
        ("web", "short", "web-resource-short"),
        ("web", "A_b.c-d.x", "web-resource-a-b-c-d"),
        ("web", "---", "web-resource-0"),
        ("...", SANDBOX, "pod-resource-0a1b2c3d"),
    ],
)
def test_name_of(pod: str, sandbox: str, name: str) -> None:
    assert peerpod.name_of(pod, sandbox) == name


@given(st.from_regex(DNS, fullmatch=True).filter(lambda s: len(s) <= 253), st.text(min_size=1, max_size=70))
def test_every_name_is_a_dns_subdomain_and_leads_back(pod: str, sandbox: str) -> None:
    name = peerpod.name_of(pod, sandbox)
    assert len(name) <= 253 and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name)
    if len(pod) <= 200:
        view = peerpod.parse({"metadata": {"name": name}})
        assert view.pod == pod.rstrip("-.")


@given(st.text(max_size=300))
def test_every_label_value_is_one(text: str) -> None:
    value = peerpod.label_value(text)
    assert len(value) <= 63 and re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", value)


def test_long_nodes_differ_in_their_labels() -> None:
    one, two = peerpod.label_value("n" * 70 + "a"), peerpod.label_value("n" * 70 + "b")
    assert one != two and len(one) == 63
    assert peerpod.label_value("worker-1.example") == "worker-1.example"


def test_new_peer_pod_round_trip() -> None:
    obj = made()
    jsonschema.validate(obj, SCHEMA)
    assert obj["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "peerpods", NODE_LABEL: "worker-1"}
    assert obj["metadata"]["annotations"] == {SANDBOX_ANNOTATION: SANDBOX}
    (owner,) = obj["metadata"]["ownerReferences"]
    assert owner["controller"] and owner["blockOwnerDeletion"] and owner["apiVersion"] == "v1"
    view = peerpod.parse(obj)
    assert (view.sandbox, view.provider, view.instance_id) == (SANDBOX, "libvirt", "")
    assert (view.pod, view.pod_uid, view.node, view.cluster) == ("web-0", "u-1", "worker-1", "blue")
    assert (view.token, view.held, view.deleting, view.key) == (
        f"{SANDBOX}-1",
        True,
        False,
        "shop/web-0-resource-0a1b2c3d",
    )


def test_without_a_uid_there_is_no_owner() -> None:
    obj = made(pod_uid="")
    assert "ownerReferences" not in obj["metadata"]
    assert peerpod.parse(obj).pod == "web-0"


def test_status_is_valid_and_read_back() -> None:
    ready = condition("Ready", True, "Running", "", 1000, generation=2)
    status = peerpod.status_of(
        phase=peerpod.phase_of(Phase.RUNNING),
        instance_name="podvm-web",
        addresses=("10.0.0.7",),
        last_error="",
        pod_uid="u-1",
        started_at=1000.7,
        conditions=[ready],
        observed_generation=2,
    )
    obj = {**made(), "status": status}
    jsonschema.validate(obj, SCHEMA)
    assert status["startedAt"] == time_text(1000) and status["lastError"] == ""
    view = peerpod.parse(obj)
    assert (view.phase, view.instance_name, view.addresses) == ("Running", "podvm-web", ("10.0.0.7",))
    assert view.condition(peerpod.READY) == ready and view.condition(peerpod.DELETED) is None


def test_every_phase_has_a_word_that_the_schema_knows() -> None:
    words = set(SCHEMA["properties"]["status"]["properties"]["phase"]["enum"])
    assert {str(peerpod.phase_of(phase)) for phase in Phase} <= words
    assert {str(phase) for phase in peerpod.PeerPodPhase} == words
    with pytest.raises(ValueError, match="Resting"):
        peerpod.status_of(phase="Resting")


OLD = {
    "apiVersion": "confidentialcontainers.org/v1alpha1",
    "kind": "PeerPod",
    "metadata": {
        "name": "nginx-7d-resource-x7k2p",
        "namespace": "default",
        "uid": "pp-1",
        "resourceVersion": "77",
        "generation": 1,
        "creationTimestamp": "2023-11-14T22:13:20Z",
        "finalizers": ["peer.pod/finalizer"],
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": "nginx-7d",
                "uid": "u-9",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    },
    "spec": {"cloudProvider": "aws", "instanceID": "i-0abc"},
}


def test_an_object_of_the_existing_system() -> None:
    jsonschema.validate(OLD, SCHEMA)
    view = peerpod.parse(OLD)
    assert (view.pod, view.pod_uid, view.sandbox, view.node) == ("nginx-7d", "u-9", "", "")
    assert (view.provider, view.instance_id, view.created) == ("aws", "i-0abc", 1_700_000_000)


ARM = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/podvm-web"


@pytest.mark.parametrize("spec", [{}, {"instanceID": ARM}, {"cloudProvider": "ibmcloud-powervs"}])
def test_the_schema_requires_nothing(spec: dict[str, str]) -> None:
    jsonschema.validate({**OLD, "spec": spec, "status": {"cleand": True}}, SCHEMA)
    jsonschema.validate({"metadata": {}}, SCHEMA)
    assert peerpod.parse({**OLD, "status": {"cleand": True}}).cleaned


def test_an_orphan_still_leads_to_its_pod() -> None:
    orphan = {**OLD, "metadata": {k: v for k, v in OLD["metadata"].items() if k != "ownerReferences"}}  # type: ignore[attr-defined]
    view = peerpod.parse({**orphan, "status": {"podUID": "u-9"}})
    assert (view.pod, view.pod_uid, view.owners) == ("nginx-7d", "u-9", ())


def owned(*owners: dict[str, Any]) -> peerpod.PeerPodView:
    return peerpod.parse({"metadata": {"name": "plain", "ownerReferences": list(owners)}})


def test_of_several_owners_the_pod_counts_and_the_controller_first() -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u-j"}
    first = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u-a"}
    second = {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "u-b", "controller": True}
    view = owned(job, first, second)
    assert (view.pod, view.pod_uid, len(view.owners)) == ("b", "u-b", 3)
    assert owned(job, first).pod_uid == "u-a"
    assert (owned(job).pod, owned(job).pod_uid) == ("", "")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["name", "namespace", "uid", "finalizers", "ownerReferences", "annotations", "creationTimestamp", "generation"]


@given(
    st.dictionaries(
        st.sampled_from(["metadata", "spec", "status"]), JUNK | st.dictionaries(st.sampled_from(KEYS), JUNK)
    )
)
def test_reading_never_fails(obj: dict[str, Any]) -> None:
    view = peerpod.parse(obj)
    assert view.deleting is False
    assert peerpod.release_patch(obj) == [] or view.held


@given(st.lists(st.sampled_from([FINALIZER, "other/one", "foregroundDeletion"]), max_size=6))
def test_release_takes_only_ours(finalizers: list[str]) -> None:
    patch = peerpod.release_patch({"metadata": {"uid": "u", "finalizers": finalizers}})
    left = list(finalizers)
    for step in patch:
        index = step["path"].removeprefix("/metadata/finalizers/")
        if step["op"] == "remove":
            del left[int(index)]
        elif step["path"] == "/metadata/uid":
            assert step["value"] == "u"
        else:
            assert left[int(index)] == step["value"] == FINALIZER
    assert left == [one for one in finalizers if one != FINALIZER]
    assert bool(patch) == (FINALIZER in finalizers)


def at(name: str, second: int, started: str = "") -> peerpod.PeerPodView:
    created = f"2023-11-14T22:13:{second:02}Z"
    status = {"startedAt": started} if started else {}
    return peerpod.parse({"metadata": {"name": name, "creationTimestamp": created}, "status": status})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (at("b", 19), at("a", 20)),
        (at("a", 20), at("b", 20)),
        (at("b", 20, "2023-11-14T22:13:25Z"), at("a", 20, "2023-11-14T22:13:26Z")),
        (at("a", 20, "2023-11-14T22:13:26Z"), at("b", 20)),
    ],
)
def test_age_of_the_peer_pods_of_one_pod(one: peerpod.PeerPodView, other: peerpod.PeerPodView) -> None:
    assert one.older_than(other) and not other.older_than(one) and not one.older_than(one)


def _nodes(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [schema]
    for child in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        found += _nodes(child)
    return found


def test_the_crd_is_structural_and_compatible() -> None:
    version = CRD["spec"]["versions"][0]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}} and CRD["spec"]["scope"] == "Namespaced"
    assert all("type" in node for node in _nodes(SCHEMA))
    assert not any("x-kubernetes-validations" in node for node in _nodes(SCHEMA)), "1.20 knows no CEL"
    assert "required" not in SCHEMA and "required" not in SCHEMA["properties"]["spec"]
    columns = [column["name"] for column in version["additionalPrinterColumns"] if not column.get("priority")]
    assert columns == ["Phase", "Provider", "Instance", "Node", "Age"]
