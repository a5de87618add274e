"""Single objects: versions, generation, the status subresource, conflicts, names, schemas, dry run."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api, Json
from tests.kube.conformance.gadgets import GADGETS, config_map, crd, define, peer_pod

FINALIZER = "peer.pod/finalizer"


@pytest_twisted.ensureDeferred
async def test_a_new_object_has_uid_version_generation_and_time(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    assert made.meta["generation"] == 1
    assert made.meta["uid"] and made.version.isdigit()
    assert len(made.meta["creationTimestamp"]) == len("2026-01-01T00:00:00Z")
    assert made.meta["namespace"] == api.namespace
    assert (await api.get(r.PEER_PODS, "a")).body == made.body
    again = await api.create(r.PEER_PODS, peer_pod())
    assert (again.code, again.reason) == (409, "AlreadyExists")
    assert again.body["details"] == {"name": "a", "group": r.PEER_PODS.group, "kind": "peerpods"}


@pytest_twisted.ensureDeferred
async def test_status_is_not_taken_by_creation(api: Api) -> None:
    made = await api.made(r.PEER_PODS, {**peer_pod(), "status": {"phase": "Running"}})
    assert "status" not in made.body


@pytest_twisted.ensureDeferred
async def test_put_of_the_object_leaves_its_status(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    put = await api.put(r.PEER_PODS, {**made.body, "status": {"phase": "Running"}})
    assert put.code == 200
    assert "status" not in put.body
    assert put.meta["generation"] == 1
    assert put.version != made.version, "managedFields have changed"


@pytest_twisted.ensureDeferred
async def test_put_of_the_status_leaves_all_else(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    body = {
        **made.body,
        "metadata": {**made.meta, "labels": {"a": "b"}, "finalizers": [FINALIZER]},
        "spec": {"cloudProvider": "libvirt"},
        "status": {"phase": "Running"},
    }
    put = await api.put(r.PEER_PODS, body, "status")
    assert put.code == 200
    assert put.body["status"] == {"phase": "Running"}
    assert put.body["spec"] == made.body["spec"]
    assert "labels" not in put.meta and "finalizers" not in put.meta
    assert put.meta["generation"] == 1
    assert put.version != made.version


@pytest_twisted.ensureDeferred
async def test_patch_of_only_status_through_the_object_is_nothing(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    patched = await api.patch(r.PEER_PODS, "a", {"status": {"phase": "Running"}})
    assert patched.code == 200 and "status" not in patched.body
    assert patched.version != made.version, "managedFields have got f:status"
    again = await api.patch(r.PEER_PODS, "a", {"status": {"phase": "Running"}})
    assert (again.code, again.version) == (200, patched.version)


@pytest_twisted.ensureDeferred
async def test_generation_counts_the_spec_only(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod())
    steps: list[tuple[Json, str | None, int]] = [
        ({"metadata": {"labels": {"a": "b"}}}, None, 1),
        ({"spec": {"instanceID": "i-1"}}, None, 2),
        ({"status": {"phase": "Running"}}, "status", 2),
        ({"spec": {"instanceID": "i-1"}}, None, 2),
        ({"spec": {"instanceID": "i-2"}}, None, 3),
    ]
    for body, sub, generation in steps:
        patched = await api.patch(r.PEER_PODS, "a", body, sub=sub)
        assert (patched.code, patched.meta["generation"]) == (200, generation), body


@pytest_twisted.ensureDeferred
async def test_what_changes_nothing_gives_no_new_version(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    assert (await api.put(r.PEER_PODS, made.body)).version == made.version
    unknown = {**made.body, "spec": {**made.body["spec"], "neverHeardOf": 1}}
    assert (await api.put(r.PEER_PODS, unknown)).version == made.version, "pruned, so nothing is left to change"
    assert (await api.patch(r.PEER_PODS, "a", {"spec": {"cloudProvider": "aws"}})).version == made.version


@pytest_twisted.ensureDeferred
async def test_a_stale_version_is_a_conflict(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    await api.patch(r.PEER_PODS, "a", {"spec": {"instanceID": "i-1"}})
    put = await api.put(r.PEER_PODS, made.body)
    assert (put.code, put.reason) == (409, "Conflict")
    patch = await api.patch(
        r.PEER_PODS, "a", {"metadata": {"resourceVersion": made.version}, "spec": {"instanceID": "i-2"}}
    )
    assert (patch.code, patch.reason) == (409, "Conflict")
    status = await api.put(r.PEER_PODS, {**made.body, "status": {"phase": "Running"}}, "status")
    assert (status.code, status.reason) == (409, "Conflict")
    other = {**made.body, "metadata": {"name": "a", "uid": "11111111-1111-1111-1111-111111111111"}}
    patch = await api.patch(r.PEER_PODS, "a", {"metadata": {"uid": other["metadata"]["uid"]}})
    assert patch.code in (409, 422), patch.body


@pytest_twisted.ensureDeferred
async def test_put_needs_a_version_for_custom_resources_and_leases_only(api: Api) -> None:
    bodies: list[tuple[r.Resource, Json, int]] = [
        (r.PEER_PODS, peer_pod(), 422),
        (r.LEASES, {"metadata": {"name": "a"}, "spec": {}}, 422),
        (r.CONFIG_MAPS, config_map(), 200),
    ]
    for resource, body, code in bodies:
        made = await api.made(resource, body)
        about = {name: value for name, value in made.meta.items() if name != "resourceVersion"}
        put = await api.put(resource, {**made.body, "metadata": about})
        assert put.code == code, put.body
        if code == 422:
            assert "must be specified for an update" in put.body["message"]


@pytest_twisted.ensureDeferred
async def test_what_is_not_there_is_404(api: Api) -> None:
    body = {**peer_pod("none"), "apiVersion": r.PEER_PODS.api_version, "kind": "PeerPod"}
    body["metadata"]["resourceVersion"] = "1"
    for answer in (
        await api.get(r.PEER_PODS, "none"),
        await api.delete(r.PEER_PODS, "none"),
        await api.patch(r.PEER_PODS, "none", {"spec": {"instanceID": "i"}}),
        await api.put(r.PEER_PODS, body),
    ):
        assert (answer.code, answer.reason) == (404, "NotFound"), answer.body
        assert answer.body["details"]["name"] == "none"
    elsewhere = await api.call("POST", r.PEER_PODS.path("no-such-space"), {**body, "metadata": {"name": "a"}})
    assert (elsewhere.code, elsewhere.body["details"]["kind"]) == (404, "namespaces")
    for path in ("/apis/confidentialcontainers.org/v1alpha1/peerPods", "/apis/nobody.io/v1/things"):
        assert (await api.call("GET", path)).code == 404


NAMES = {
    "upper case": {"name": "Bad_Name"},
    "long": {"name": "a" * 254},
    "label value": {"name": "a", "labels": {"a": "b" * 64}},
    "label key": {"name": "a", "labels": {"a/b/c": "b"}},
    "annotations": {"name": "a", "annotations": {"a": "b" * 270_000}},
    "finalizer": {"name": "a", "finalizers": ["not a name"]},
    "owner without uid": {
        "name": "a",
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}],
    },
    "two controllers": {
        "name": "a",
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": n, "uid": n, "controller": True} for n in ("p", "q")
        ],
    },
    "no name": {},
}


@pytest.mark.parametrize("meta", NAMES.values(), ids=NAMES)
@pytest_twisted.ensureDeferred
async def test_metadata_that_is_refused(api: Api, meta: Json) -> None:
    answer = await api.create(r.PEER_PODS, {**peer_pod(), "metadata": meta})
    assert (answer.code, answer.reason) == (422, "Invalid"), answer.body
    assert answer.cause()["field"].startswith("metadata")  # type: ignore[index]


@pytest_twisted.ensureDeferred
async def test_the_longest_names_are_taken(api: Api) -> None:
    meta = {"name": "a" * 253, "labels": {"a": "b" * 63, "c": ""}}
    assert (await api.create(r.PEER_PODS, {**peer_pod(), "metadata": meta})).code == 201
    long = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a" * 64}}
    assert (await api.call("POST", r.NAMESPACES.path(), long)).code == 422


@pytest_twisted.ensureDeferred
async def test_generate_name(api: Api) -> None:
    body = {**config_map(), "metadata": {"generateName": "x-"}}
    first, second = [(await api.made(r.CONFIG_MAPS, body)).meta["name"] for _ in range(2)]
    assert first != second and len(first) == len("x-12345") and first.startswith("x-")


# spec, field of the cause
WRONG: dict[str, tuple[Any, str]] = {
    "type": ({"size": "much"}, "spec.size"),
    "too small": ({"size": 0}, "spec.size"),
    "too large": ({"size": 11}, "spec.size"),
    "enum": ({"colour": "blue"}, "spec.colour"),
    "pattern": ({"code": "A1"}, "spec.code"),
    "length": ({"code": "abcdefghi"}, "spec.code"),
    "item": ({"tags": [1]}, "spec.tags"),
    "items": ({"tags": ["a", "b", "c", "d"]}, "spec.tags"),
    "value of a map": ({"map": {"a": 1}}, "spec.map"),
    "required": ({"parts": [{"count": 1}]}, "spec.parts"),
    "double key": ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts"),
    "whole": ("text", "spec"),
}


@pytest.mark.parametrize(("spec", "field"), WRONG.values(), ids=WRONG)
@pytest_twisted.ensureDeferred
async def test_what_a_schema_refuses(api: Api, spec: Any, field: str) -> None:
    await define(api, crd())
    answer = await api.create(GADGETS, {"metadata": {"name": "a"}, "spec": spec})
    assert (answer.code, answer.reason) == (422, "Invalid"), answer.body
    causes = answer.body["details"]["causes"]
    assert any(each["field"].startswith(field) for each in causes), causes


@pytest_twisted.ensureDeferred
async def test_what_a_schema_prunes_and_fills(api: Api) -> None:
    await define(api, crd())
    spec = {
        "unknown": 1,
        "free": {"any": {"thing": 1}},
        "map": {"a": "b"},
        "nested": {"x": 1},
        "maybe": None,
        "code": None,
    }
    made = await api.made(GADGETS, {"metadata": {"name": "a"}, "spec": spec, "more": 1})
    assert made.body["spec"] == {
        "size": 3,
        "free": {"any": {"thing": 1}},
        "map": {"a": "b"},
        "nested": {"on": True},
        "maybe": None,
    }
    assert "more" not in made.body


@pytest_twisted.ensureDeferred
async def test_dry_run_stores_nothing(api: Api) -> None:
    made = await api.create(r.PEER_PODS, peer_pod(), dryRun="All")
    assert made.code == 201 and made.meta["uid"]
    assert (await api.get(r.PEER_PODS, "a")).code == 404
    real = await api.made(r.PEER_PODS, peer_pod())
    patched = await api.patch(r.PEER_PODS, "a", {"spec": {"instanceID": "i"}}, dryRun="All")
    assert patched.code == 200 and patched.body["spec"]["instanceID"] == "i"
    assert (await api.delete(r.PEER_PODS, "a", dryRun="All")).code == 200
    assert (await api.get(r.PEER_PODS, "a")).body == real.body


@pytest_twisted.ensureDeferred
async def test_the_body_must_fit_the_path(api: Api) -> None:
    made = await api.made(r.CONFIG_MAPS, config_map())
    other = {**made.body, "metadata": {**made.meta, "name": "b"}}
    assert (await api.call("PUT", api.path(r.CONFIG_MAPS, "a"), other)).code == 400
    elsewhere = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}}
    assert (await api.call("POST", api.path(r.CONFIG_MAPS), elsewhere)).code == 400
    assert (
        await api.call("POST", api.path(r.CONFIG_MAPS), {**elsewhere, "kind": "Secret", "metadata": {"name": "x"}})
    ).code == 400
    assert (await api.call("POST", api.path(r.CONFIG_MAPS), "text")).code == 400
    with_version = {**config_map("y"), "metadata": {"name": "y", "resourceVersion": "5"}}
    answer = await api.create(r.CONFIG_MAPS, with_version)
    assert answer.code in (400, 500), answer.body


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"nodeSelector": {"matchLabels": {"node.kubernetes.io/worker": ""}}}, "spec.nodeSelector.matchLabels"),
        ({"limit": 10}, "spec.limit"),
    ],
    ids=["a selector as of a Deployment", "a number as limit"],
)
@pytest_twisted.ensureDeferred
async def test_settings_that_look_right(api: Api, spec: Json, field: str) -> None:
    answer = await api.create(r.PEER_POD_CONFIGS, {"metadata": {"name": "a"}, "spec": spec})
    assert (answer.code, answer.reason) == (422, "Invalid"), answer.body
    assert answer.cause(field), answer.body["details"]
