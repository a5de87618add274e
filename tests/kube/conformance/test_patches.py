"""The four sorts of patch."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import SORTS, Api
from tests.kube.conformance.gadgets import GADGETS, config_map, crd, define, peer_pod, pod

FINALIZER = "peer.pod/finalizer"


def op(name: str, path: str, value: Any = None, **more: Any) -> dict[str, Any]:
    return {"op": name, "path": path, **({} if value is None else {"value": value}), **more}


UNFIT = {
    "test of another value": [op("test", "/spec/cloudProvider", "libvirt"), op("add", "/spec/instanceID", "i")],
    "test of an absent path": [op("test", "/spec/none", "x")],
    "remove of an absent path": [op("remove", "/spec/instanceID")],
    "add below an absent path": [op("add", "/status/capacity/x", "1")],
    "index out of range": [op("add", "/metadata/finalizers/5", "a/b")],
}


@pytest.mark.parametrize("operations", UNFIT.values(), ids=UNFIT)
@pytest_twisted.ensureDeferred
async def test_a_json_patch_that_does_not_fit_is_422(api: Api, operations: list[dict[str, Any]]) -> None:
    made = await api.made(r.PEER_PODS, peer_pod(meta={"finalizers": [FINALIZER]}))
    answer = await api.patch(r.PEER_PODS, "a", operations, "json")
    assert answer.code == 422, answer.body
    assert (await api.get(r.PEER_PODS, "a")).version == made.version


@pytest_twisted.ensureDeferred
async def test_replace_of_an_absent_member_adds_it(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod())
    answer = await api.patch(r.PEER_PODS, "a", [op("replace", "/spec/instanceID", "i")], "json")
    assert answer.code == 200 and answer.body["spec"]["instanceID"] == "i"


@pytest_twisted.ensureDeferred
async def test_json_patch(api: Api) -> None:
    made = await api.made(r.CONFIG_MAPS, config_map(labels={"x/y": "1"}))
    operations = [
        op("test", "/metadata/uid", made.meta["uid"]),
        op("test", "/metadata/resourceVersion", made.version),
        op("add", "/data/b", "2"),
        op("replace", "/data/a", "3"),
        op("copy", "/data/c", **{"from": "/data/a"}),
        op("move", "/data/d", **{"from": "/data/b"}),
        op("remove", "/metadata/labels/x~1y"),
    ]
    answer = await api.patch(r.CONFIG_MAPS, "a", operations, "json")
    assert answer.code == 200, answer.body
    assert answer.body["data"] == {"a": "3", "c": "3", "d": "2"}
    assert not answer.meta.get("labels")
    stale = await api.patch(r.CONFIG_MAPS, "a", operations[:2], "json")
    assert stale.code == 422, "the test of the version fails"


@pytest_twisted.ensureDeferred
async def test_merge_patch(api: Api) -> None:
    await api.made(r.CONFIG_MAPS, config_map(labels={"a": "1", "b": "2"}))
    answer = await api.patch(r.CONFIG_MAPS, "a", {"metadata": {"labels": {"a": None, "c": "3"}}, "data": None})
    assert answer.code == 200
    assert answer.meta["labels"] == {"b": "2", "c": "3"}
    assert "data" not in answer.body


@pytest_twisted.ensureDeferred
async def test_a_merge_patch_replaces_lists(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod(meta={"finalizers": [FINALIZER, "a/b"]}))
    answer = await api.patch(r.PEER_PODS, "a", {"metadata": {"finalizers": ["a/b"]}})
    assert answer.meta["finalizers"] == ["a/b"]


@pytest_twisted.ensureDeferred
async def test_strategic_merge_patch(api: Api) -> None:
    await api.made(r.PODS, pod())
    answer = await api.patch(
        r.PODS, "p", {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "image:2"}]}},
        "strategic",
    )  # fmt: skip
    assert answer.code == 200, answer.body
    assert [(each["name"], each["image"]) for each in answer.body["spec"]["containers"]] == [("c", "image:2")]
    refused = await api.patch(r.PEER_PODS, "none", {}, "strategic")
    assert refused.code in (404, 415)
    await api.made(r.PEER_PODS, peer_pod())
    refused = await api.patch(r.PEER_PODS, "a", {"spec": {"instanceID": "i"}}, "strategic")
    assert (refused.code, refused.reason) == (415, "UnsupportedMediaType")
    for sort in ("json", "merge", "apply"):
        assert SORTS[sort] in refused.body["message"]


# --- server-side apply


@pytest_twisted.ensureDeferred
async def test_apply_creates_changes_and_removes(api: Api) -> None:
    made = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "1", "b": "2"}, "metadata": {"labels": {"x": "y"}}}, "me")
    assert made.code == 201, made.body
    (entry,) = made.meta["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("me", "Apply")
    assert entry["fieldsV1"]["f:data"]["f:a"] == {}
    again = await api.apply(
        r.CONFIG_MAPS, "a", {"data": {"a": "1", "b": "2"}, "metadata": {"labels": {"x": "y"}}}, "me"
    )
    assert (again.code, again.version) == (200, made.version), "nothing to do"
    less = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "3"}}, "me")
    assert less.code == 200
    assert less.body["data"] == {"a": "3"}
    assert not less.meta.get("labels")


@pytest_twisted.ensureDeferred
async def test_apply_conflicts_with_another_manager(api: Api) -> None:
    await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "1"}}, "first")
    other = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "2"}}, "second")
    assert (other.code, other.reason) == (409, "Conflict")
    cause = other.cause()
    assert cause and (cause["reason"], cause["field"]) == ("FieldManagerConflict", ".data.a")
    assert "first" in cause["message"]
    same = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "1", "b": "1"}}, "second")
    assert same.code == 200, "the same value is shared"
    dropped = await api.apply(r.CONFIG_MAPS, "a", {"data": {}}, "first")
    assert dropped.body["data"] == {"a": "1", "b": "1"}, "the other manager still wants it"
    forced = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "3"}}, "third", force="true")
    assert forced.code == 200 and forced.body["data"] == {"a": "3", "b": "1"}
    owners = [e["manager"] for e in forced.meta["managedFields"] if "f:a" in e["fieldsV1"].get("f:data", {})]
    assert owners == ["third"]


@pytest_twisted.ensureDeferred
async def test_apply_and_update_know_of_each_other(api: Api) -> None:
    await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "1", "b": "1"}}, "me")
    await api.patch(r.CONFIG_MAPS, "a", {"data": {"a": "2"}}, fieldManager="hand")
    clash = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "1", "b": "1"}}, "me")
    assert clash.code == 409 and "hand" in clash.body["message"]
    yielded = await api.apply(r.CONFIG_MAPS, "a", {"data": {"b": "1"}}, "me")
    assert yielded.code == 200 and yielded.body["data"] == {"a": "2", "b": "1"}


@pytest_twisted.ensureDeferred
async def test_apply_needs_a_manager(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    answer = await api.patch(r.CONFIG_MAPS, "a", body, "apply")
    assert (answer.code, answer.reason) in ((422, "Invalid"), (400, "BadRequest")), answer.body
    other = {**body, "metadata": {"name": "a", "managedFields": [{}]}}
    assert (await api.patch(r.CONFIG_MAPS, "a", other, "apply", fieldManager="me")).code == 400


@pytest_twisted.ensureDeferred
async def test_apply_merges_lists_with_keys(api: Api) -> None:
    await define(api, crd())
    await api.apply(GADGETS, "a", {"spec": {"size": 1, "parts": [{"name": "x", "count": 1}], "tags": ["a"]}}, "one")
    both = await api.apply(GADGETS, "a", {"spec": {"parts": [{"name": "y", "count": 2}]}}, "two")
    assert both.code == 200, both.body
    assert both.body["spec"]["parts"] == [{"name": "x", "count": 1}, {"name": "y", "count": 2}]
    clash = await api.apply(GADGETS, "a", {"spec": {"parts": [{"name": "x", "count": 5}]}}, "two")
    assert clash.code == 409 and clash.cause('.spec.parts[name="x"].count')
    gone = await api.apply(GADGETS, "a", {"spec": {"size": 1}}, "one")
    assert gone.body["spec"] == {"size": 1, "parts": [{"name": "y", "count": 2}]}


@pytest_twisted.ensureDeferred
async def test_apply_of_finalizers_and_owners_adds_up(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod(meta={"finalizers": ["a/b"]}))
    answer = await api.apply(r.PEER_PODS, "a", {"metadata": {"finalizers": [FINALIZER]}}, "me")
    assert answer.code == 200 and sorted(answer.meta["finalizers"]) == ["a/b", FINALIZER]
    answer = await api.apply(r.PEER_PODS, "a", {"metadata": {}}, "me")
    assert answer.meta["finalizers"] == ["a/b"]


@pytest_twisted.ensureDeferred
async def test_apply_of_the_status(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod())
    body = {"status": {"phase": "Running"}}
    whole = {"apiVersion": r.PEER_PODS.api_version, "kind": "PeerPod", "metadata": {"name": "a"}, **body}
    answer = await api.patch(r.PEER_PODS, "a", whole, "apply", sub="status", fieldManager="me")
    assert answer.code == 200 and answer.body["status"] == {"phase": "Running"}
    through_main = await api.apply(r.PEER_PODS, "a", {"status": {"phase": "Failed"}}, "other")
    assert through_main.code in (200, 409)
    assert (await api.get(r.PEER_PODS, "a")).body["status"] == {"phase": "Running"}


@pytest_twisted.ensureDeferred
async def test_apply_in_a_dry_run(api: Api) -> None:
    answer = await api.apply(r.CONFIG_MAPS, "a", {"data": {"a": "1"}}, "me", dryRun="All")
    assert answer.code == 201
    assert (await api.get(r.CONFIG_MAPS, "a")).code == 404
