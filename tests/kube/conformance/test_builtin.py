"""Built-in kinds where our code meets their rules: nodes, leases, events, secrets, pods."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api, Json
from tests.kube.conformance.gadgets import config_map, pod

VM = "kata.peerpods.io/vm"
AT = "/status/capacity/kata.peerpods.io~1vm"


# --- nodes


async def node(api: Api, **status: Any) -> str:
    name = api.unique("node")
    await api.made(r.NODES, {"metadata": {"name": name}, **({"status": status} if status else {})})
    return name


@pytest_twisted.ensureDeferred
async def test_capacity_by_json_patch(api: Api) -> None:
    name = await node(api, capacity={"cpu": "4"}, allocatable={"cpu": "4"})
    for value in ("5", "7"):
        answer = await api.patch(r.NODES, name, [{"op": "add", "path": AT, "value": value}], "json", "status")
        assert answer.code == 200, answer.body
        assert answer.body["status"]["capacity"] == {"cpu": "4", VM: value}
        assert answer.body["status"]["allocatable"] == {"cpu": "4"}, "not touched"
    for _ in range(2):
        answer = await api.patch(r.NODES, name, [{"op": "remove", "path": AT}], "json", "status")
    assert answer.code == 422, "it is not there any more"


@pytest_twisted.ensureDeferred
async def test_capacity_by_json_patch_needs_the_map(api: Api) -> None:
    name = await node(api)
    answer = await api.patch(r.NODES, name, [{"op": "add", "path": AT, "value": "5"}], "json", "status")
    assert answer.code == 422
    answer = await api.patch(r.NODES, name, {"status": {"capacity": {VM: "5"}}}, "merge", "status")
    assert answer.code == 200 and answer.body["status"]["capacity"] == {VM: "5"}


@pytest_twisted.ensureDeferred
async def test_capacity_through_the_node_itself_is_not_taken(api: Api) -> None:
    name = await node(api, capacity={"cpu": "4"})
    answer = await api.patch(r.NODES, name, [{"op": "add", "path": AT, "value": "5"}], "json")
    assert answer.code == 200 and answer.body["status"]["capacity"] == {"cpu": "4"}


@pytest.mark.parametrize(("value", "code"), [("1.5", 422), ("-1", 422), ("many", 422), ("500m", 422), ("1k", 200)])
@pytest_twisted.ensureDeferred
async def test_amounts_of_an_extended_resource(api: Api, value: str, code: int) -> None:
    name = await node(api, capacity={"cpu": "4"})
    answer = await api.patch(r.NODES, name, [{"op": "add", "path": AT, "value": value}], "json", "status")
    assert answer.code == code, answer.body


@pytest_twisted.ensureDeferred
async def test_labels_by_node_status(api: Api) -> None:
    name = await node(api, capacity={"cpu": "4"})
    answer = await api.patch(
        r.NODES, name, {"metadata": {"labels": {"x": "y"}}, "spec": {"podCIDR": "10.0.0.0/24"}}, "merge", "status"
    )
    assert answer.code == 200
    assert answer.meta.get("labels", {}).get("x") == "y", "metadata is taken, unlike with custom resources"
    assert "podCIDR" not in answer.body["spec"]


# --- leases

TIME = "2026-01-01T00:00:00.000000Z"


def lease(**spec: Any) -> Json:
    return {"metadata": {"name": "a"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, **spec}}


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"renewTime": TIME, "acquireTime": TIME, "leaseTransitions": 0}, 201),
        ({"holderIdentity": ""}, 201),
        ({"renewTime": "2026-01-01T00:00:00Z"}, 400),
        ({"renewTime": "2026-01-01T00:00:00.123Z"}, 400),
        ({"leaseDurationSeconds": 0}, 422),
        ({"leaseDurationSeconds": -1}, 422),
        ({"leaseTransitions": -1}, 422),
    ],
)
@pytest_twisted.ensureDeferred
async def test_leases(api: Api, spec: Json, code: int) -> None:
    answer = await api.create(r.LEASES, lease(**spec))
    assert answer.code == code, answer.body


@pytest_twisted.ensureDeferred
async def test_two_writers_of_a_lease(api: Api) -> None:
    made = await api.made(r.LEASES, lease(renewTime=TIME))
    first = {**made.body, "spec": {**made.body["spec"], "holderIdentity": "one"}}
    second = {**made.body, "spec": {**made.body["spec"], "holderIdentity": "two"}}
    assert (await api.put(r.LEASES, first)).code == 200
    late = await api.put(r.LEASES, second)
    assert (late.code, late.reason) == (409, "Conflict")
    assert (await api.get(r.LEASES, "a")).body["spec"]["holderIdentity"] == "one"


# --- events


def event(namespace: str, **more: Any) -> Json:
    return {
        "metadata": {"name": "p.1"},
        "eventTime": TIME,
        "reportingController": "peerpods.io/test",
        "reportingInstance": "test-1",
        "action": "Launching",
        "reason": "PeerPodLaunching",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": namespace, "uid": "1"},
        "note": "it is launched",
        "type": "Normal",
        **more,
    }


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, 201),
        ({"series": {"count": 2, "lastObservedTime": TIME}}, 201),
        ({"related": {"apiVersion": "v1", "kind": "Node", "name": "n"}}, 201),
        ({"eventTime": None}, 422),
        ({"eventTime": "2026-01-01T00:00:00Z"}, 400),
        ({"reportingController": ""}, 422),
        ({"reportingInstance": ""}, 422),
        ({"reportingInstance": "a" * 129}, 422),
        ({"action": ""}, 422),
        ({"action": "a" * 129}, 422),
        ({"reason": ""}, 422),
        ({"reason": "a" * 129}, 422),
        ({"note": "a" * 1025}, 422),
        ({"type": "Error"}, 422),
        ({"regarding": {"kind": "Node", "name": "n"}}, 422),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
@pytest_twisted.ensureDeferred
async def test_events(api: Api, more: Json, code: int) -> None:
    answer = await api.create(r.EVENTS, event(api.namespace, **more))
    assert answer.code == code, answer.body


@pytest_twisted.ensureDeferred
async def test_a_series_is_patched(api: Api) -> None:
    await api.made(r.EVENTS, event(api.namespace))
    body = {"series": {"count": 3, "lastObservedTime": TIME}}
    for sort in ("merge", "strategic"):
        answer = await api.patch(r.EVENTS, "p.1", body, sort)
        assert answer.code == 200 and answer.body["series"]["count"] == 3, answer.body
    other = await api.patch(r.EVENTS, "p.1", {"note": "other"})
    assert (other.code, other.body["note"]) == (200, "other"), "nothing of an event is fixed"
    found = await api.call("GET", api.path(r.EVENTS, fieldSelector="regarding.name=p,regarding.kind=Pod"))
    assert [each["reason"] for each in found.body["items"]] == ["PeerPodLaunching"]


# --- secrets and config maps


@pytest_twisted.ensureDeferred
async def test_secrets(api: Api) -> None:
    made = await api.made(r.SECRETS, {"metadata": {"name": "a"}, "stringData": {"x": "y"}})
    assert made.body["data"] == {"x": "eQ=="} and made.body["type"] == "Opaque" and "stringData" not in made.body
    other = await api.patch(r.SECRETS, "a", {"type": "kubernetes.io/tls"})
    assert other.code == 422
    huge = await api.create(r.SECRETS, {"metadata": {"name": "b"}, "stringData": {"x": "y" * (1024 * 1024 + 1)}})
    assert huge.code == 422
    frozen = await api.made(r.CONFIG_MAPS, {**config_map("c"), "immutable": True})
    assert (await api.patch(r.CONFIG_MAPS, "c", {"data": {"a": "2"}})).code == 422
    assert (await api.patch(r.CONFIG_MAPS, "c", {"metadata": {"labels": {"a": "b"}}})).code == 200
    assert frozen.body["immutable"] is True


@pytest_twisted.ensureDeferred
async def test_a_role_binding_keeps_its_role(api: Api) -> None:
    subjects = [{"kind": "ServiceAccount", "name": "x", "namespace": api.namespace}]
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "a"}
    await api.made(r.ROLE_BINDINGS, {"metadata": {"name": "a"}, "roleRef": ref, "subjects": subjects})
    assert (await api.patch(r.ROLE_BINDINGS, "a", {"roleRef": {**ref, "name": "b"}})).code == 422
    assert (await api.patch(r.ROLE_BINDINGS, "a", {"subjects": []})).code == 200


# --- pods


@pytest.mark.parametrize(
    ("resources", "code", "requests"),
    [
        ({"limits": {"cpu": "1", VM: "1"}}, 201, {"cpu": "1", VM: "1"}),
        ({"limits": {VM: "1"}, "requests": {VM: "1", "cpu": "1"}}, 201, {VM: "1", "cpu": "1"}),
        ({"requests": {VM: "1"}}, 422, None),
        ({"limits": {VM: "2"}, "requests": {VM: "1"}}, 422, None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_extended_resources_of_a_container(api: Api, resources: Json, code: int, requests: Json | None) -> None:
    answer = await api.create(r.PODS, pod(resources=resources))
    assert answer.code == code, answer.body
    if requests:
        assert answer.body["spec"]["containers"][0]["resources"]["requests"] == requests


@pytest_twisted.ensureDeferred
async def test_pods(api: Api) -> None:
    assert (await api.create(r.PODS, {"metadata": {"name": "p"}, "spec": {"containers": []}})).code == 422
    assert (await api.create(r.PODS, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}})).code == 422
    made = await api.made(r.PODS, pod())
    spec = made.body["spec"]
    assert made.body["status"]["phase"] == "Pending" and "generation" not in made.meta
    assert (spec["serviceAccountName"], spec["restartPolicy"]) == ("default", "Always")
    assert {each["key"] for each in spec["tolerations"]} == {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }
    assert (await api.patch(r.PODS, "p", {"spec": {"nodeName": "n1"}})).code == 422
    bound = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    assert (await api.call("POST", api.path(r.PODS, "p", "binding"), bound)).code == 201
    assert (await api.get(r.PODS, "p")).body["spec"]["nodeName"] == "n1"
    assert (await api.patch(r.PODS, "p", {"metadata": {"annotations": {"a": "b"}}})).code == 200
    labels = await api.patch(
        r.PODS, "p", {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}}, sub="status"
    )
    assert labels.body["status"]["phase"] == "Running" and labels.meta["labels"] == {"a": "b"}


@pytest_twisted.ensureDeferred
async def test_runtime_classes(api: Api) -> None:
    name = api.unique("class")
    refused = await api.create(r.PODS, pod(runtimeClassName=name))
    assert (refused.code, refused.reason) == (403, "Forbidden")
    toleration = {"key": "k", "operator": "Exists", "effect": "NoSchedule"}
    await api.made(r.RUNTIME_CLASSES, {
        "metadata": {"name": name},
        "handler": "kata",
        "overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}},
        "scheduling": {"nodeSelector": {"kata": "true"}, "tolerations": [toleration]},
    })  # fmt: skip
    wanted = pod(runtimeClassName=name, nodeSelector={"zone": "a"})

    async def known() -> bool:  # the real server's plugin knows of it a moment later
        return (await api.create(r.PODS, wanted, dryRun="All")).code == 201

    await api.until(known)
    made = await api.made(r.PODS, wanted)
    spec = made.body["spec"]
    assert spec["overhead"] == {"cpu": "250m", "memory": "120Mi"}
    assert spec["nodeSelector"] == {"zone": "a", "kata": "true"}
    assert toleration in spec["tolerations"]
    for wrong in ({"overhead": {"cpu": "1"}}, {"nodeSelector": {"kata": "false"}}):
        refused = await api.create(r.PODS, pod("q", runtimeClassName=name, **wrong))
        assert refused.code == 403, refused.body


@pytest_twisted.ensureDeferred
async def test_pull_secrets_of_the_service_account(api: Api) -> None:
    account = {"metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "registry"}]}
    made = await api.create(r.SERVICE_ACCOUNTS, account)
    assert made.code == 201

    async def taken() -> bool:
        answer = await api.create(r.PODS, pod(api.unique("p"), serviceAccountName="puller"))
        return answer.code == 201 and answer.body["spec"].get("imagePullSecrets") == [{"name": "registry"}]

    await api.until(taken)
    own = await api.made(r.PODS, pod(serviceAccountName="puller", imagePullSecrets=[{"name": "mine"}]))
    assert own.body["spec"]["imagePullSecrets"] == [{"name": "mine"}]
