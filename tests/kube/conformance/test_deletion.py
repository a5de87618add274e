"""Deletion: finalizers, preconditions, grace, owners, namespaces, CRDs."""

from __future__ import annotations

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api
from tests.kube.conformance.gadgets import config_map, crd, define, owner, peer_pod, pod

FINALIZER = "peer.pod/finalizer"
OTHER = "11111111-1111-1111-1111-111111111111"
HELD = {"finalizers": [FINALIZER]}


async def gone(api: Api, resource: r.Resource, name: str) -> None:
    async def look() -> bool:
        return (await api.get(resource, name)).code == 404

    await api.until(look)


async def settle(api: Api) -> None:
    """Time for controllers to do what they should not."""
    for _ in range(4):
        probe = await api.made(r.CONFIG_MAPS, {"metadata": {"generateName": "probe-", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": OTHER}
        ]}})  # fmt: skip
        await gone(api, r.CONFIG_MAPS, probe.meta["name"])


@pytest_twisted.ensureDeferred
async def test_without_finalizers_it_is_gone_at_once(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    answer = await api.delete(r.PEER_PODS, "a")
    assert answer.code == 200
    assert answer.body["status"] == "Success" and answer.body["details"]["uid"] == made.meta["uid"]
    assert (await api.get(r.PEER_PODS, "a")).code == 404


@pytest_twisted.ensureDeferred
async def test_a_finalizer_holds_the_object(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod(meta=HELD))
    answer = await api.delete(r.PEER_PODS, "a")
    assert answer.code == 200 and answer.body["kind"] == "PeerPod"
    assert answer.meta["deletionTimestamp"] and answer.meta["deletionGracePeriodSeconds"] == 0
    assert answer.meta["generation"] == 2 and answer.version != made.version
    again = await api.delete(r.PEER_PODS, "a")
    assert (again.code, again.version) == (200, answer.version)
    create = await api.create(r.PEER_PODS, peer_pod())
    assert (create.code, create.reason) == (409, "AlreadyExists")
    assert "object is being deleted" in create.body["message"]
    add = await api.patch(r.PEER_PODS, "a", {"metadata": {"finalizers": [FINALIZER, "a/b"]}})
    assert (add.code, add.reason) == (422, "Invalid")
    spec = await api.patch(r.PEER_PODS, "a", {"spec": {"instanceID": "i"}})
    assert spec.code == 200
    guarded = [
        {"op": "test", "path": "/metadata/finalizers/0", "value": FINALIZER},
        {"op": "remove", "path": "/metadata/finalizers/0"},
    ]
    assert (await api.patch(r.PEER_PODS, "a", guarded, "json")).code == 200
    assert (await api.get(r.PEER_PODS, "a")).code == 404
    assert (await api.patch(r.PEER_PODS, "a", guarded, "json")).code == 404


@pytest_twisted.ensureDeferred
async def test_put_without_finalizers_lets_go(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod(meta=HELD))
    body = (await api.delete(r.PEER_PODS, "a")).body
    del body["metadata"]["finalizers"]
    assert (await api.put(r.PEER_PODS, body)).code == 200
    assert (await api.get(r.PEER_PODS, "a")).code == 404


@pytest_twisted.ensureDeferred
async def test_removing_a_finalizer_of_a_living_object_deletes_nothing(api: Api) -> None:
    await api.made(r.PEER_PODS, peer_pod(meta=HELD))
    assert (await api.patch(r.PEER_PODS, "a", {"metadata": {"finalizers": None}})).code == 200
    assert (await api.get(r.PEER_PODS, "a")).code == 200


@pytest_twisted.ensureDeferred
async def test_preconditions(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    for name, value in (("uid", OTHER), ("resourceVersion", "1")):
        answer = await api.delete(r.PEER_PODS, "a", {"preconditions": {name: value}})
        assert (answer.code, answer.reason) == (409, "Conflict"), answer.body
    right = {"uid": made.meta["uid"], "resourceVersion": made.version}
    assert (await api.delete(r.PEER_PODS, "a", {"preconditions": right})).code == 200


@pytest_twisted.ensureDeferred
async def test_collection(api: Api) -> None:
    for name in ("a", "b"):
        await api.made(r.CONFIG_MAPS, config_map(name, labels={"x": name}))
    answer = await api.call("DELETE", api.path(r.CONFIG_MAPS, labelSelector="x=a"))
    assert answer.code == 200
    assert (await api.get(r.CONFIG_MAPS, "a")).code == 404
    assert (await api.get(r.CONFIG_MAPS, "b")).code == 200


# --- pods


@pytest_twisted.ensureDeferred
async def test_a_pod_on_a_node_waits_for_its_kubelet(api: Api) -> None:
    await api.made(r.PODS, pod(nodeName="n1"))
    answer = await api.delete(r.PODS, "p")
    assert answer.code == 200 and answer.meta["deletionGracePeriodSeconds"] == 30
    assert (await api.get(r.PODS, "p")).meta["deletionTimestamp"]
    assert (await api.delete(r.PODS, "p", {"gracePeriodSeconds": 0})).code == 200
    assert (await api.get(r.PODS, "p")).code == 404


@pytest_twisted.ensureDeferred
async def test_a_pod_on_no_node_goes_at_once(api: Api) -> None:
    await api.made(r.PODS, pod())
    assert (await api.delete(r.PODS, "p")).code == 200
    assert (await api.get(r.PODS, "p")).code == 404


@pytest_twisted.ensureDeferred
async def test_a_finished_pod_goes_at_once(api: Api) -> None:
    await api.made(r.PODS, pod(nodeName="n1"))
    assert (await api.patch(r.PODS, "p", {"status": {"phase": "Succeeded"}}, sub="status")).code == 200
    await api.delete(r.PODS, "p")
    assert (await api.get(r.PODS, "p")).code == 404


# --- owners


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_an_owner_that_never_was(api: Api) -> None:
    references = [{"apiVersion": "v1", "kind": "Pod", "name": "none", "uid": OTHER}]
    made = await api.create(r.PEER_PODS, peer_pod(meta={"ownerReferences": references}))
    assert made.code == 201
    await gone(api, r.PEER_PODS, "a")


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_an_owner_of_the_same_name_but_another_uid(api: Api) -> None:
    made = await api.made(r.PODS, pod())
    await api.made(r.PEER_PODS, peer_pod("right", meta={"ownerReferences": [owner(made.body)]}))
    wrong = owner(made.body, uid=OTHER)
    await api.made(r.PEER_PODS, peer_pod("wrong", meta={"ownerReferences": [wrong]}))
    await gone(api, r.PEER_PODS, "wrong")
    assert (await api.get(r.PEER_PODS, "right")).code == 200


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_background_deletion(api: Api) -> None:
    made = await api.made(r.PODS, pod())
    references = [owner(made.body, controller=True, blockOwnerDeletion=True)]
    await api.made(r.PEER_PODS, peer_pod(meta={**HELD, "ownerReferences": references}))
    await api.delete(r.PODS, "p", {"propagationPolicy": "Background"})
    assert (await api.get(r.PODS, "p")).code == 404

    async def marked() -> bool:
        return "deletionTimestamp" in (await api.get(r.PEER_PODS, "a")).meta

    await api.until(marked)
    assert (await api.get(r.PEER_PODS, "a")).meta["finalizers"] == [FINALIZER]


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_foreground_deletion(api: Api) -> None:
    made = await api.made(r.PODS, pod())
    references = [owner(made.body, controller=True, blockOwnerDeletion=True)]
    await api.made(r.PEER_PODS, peer_pod(meta={**HELD, "ownerReferences": references}))
    answer = await api.delete(r.PODS, "p", {"propagationPolicy": "Foreground"})
    assert answer.meta["finalizers"] == ["foregroundDeletion"]

    async def marked() -> bool:
        return "deletionTimestamp" in (await api.get(r.PEER_PODS, "a")).meta

    await api.until(marked)
    assert (await api.get(r.PODS, "p")).code == 200
    await api.patch(r.PEER_PODS, "a", {"metadata": {"finalizers": None}})
    await gone(api, r.PODS, "p")


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_orphans_lose_their_owner_and_stay(api: Api) -> None:
    made = await api.made(r.PODS, pod())
    await api.made(r.PEER_PODS, peer_pod(meta={**HELD, "ownerReferences": [owner(made.body)]}))
    await api.delete(r.PODS, "p", {"propagationPolicy": "Orphan"})
    await gone(api, r.PODS, "p")
    await settle(api)
    left = await api.get(r.PEER_PODS, "a")
    assert left.code == 200 and "ownerReferences" not in left.meta and "deletionTimestamp" not in left.meta


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_an_owner_in_another_namespace_counts_as_absent(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": api.unique("owner")}}
    there = (await api.call("POST", r.CONFIG_MAPS.path("default"), body)).body
    await api.made(r.PEER_PODS, peer_pod(meta={"ownerReferences": [owner(there)]}))
    await gone(api, r.PEER_PODS, "a")


# --- namespaces and CRDs


@pytest.mark.needs_controllers
@pytest_twisted.ensureDeferred
async def test_a_namespace_ends_when_its_content_has(api: Api) -> None:
    name = api.unique("ending")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    made = await api.call("POST", r.NAMESPACES.path(), space)
    assert made.body["status"]["phase"] == "Active" and made.body["spec"]["finalizers"] == ["kubernetes"]
    path = r.PEER_PODS.path(name)
    body = {"apiVersion": r.PEER_PODS.api_version, "kind": "PeerPod", **peer_pod(meta=HELD)}
    assert (await api.call("POST", path, body)).code == 201
    free = {"apiVersion": "v1", "kind": "ConfigMap", **config_map("free")}
    assert (await api.call("POST", r.CONFIG_MAPS.path(name), free)).code == 201
    answer = await api.call("DELETE", r.NAMESPACES.path(name=name))
    assert answer.code == 200 and answer.body["status"]["phase"] == "Terminating"
    assert answer.meta["deletionTimestamp"]

    async def refused() -> bool:  # the server knows a moment later; what slips in before goes with the rest
        answer = await api.call("POST", path, {**body, "metadata": {"name": api.unique("late")}})
        cause = answer.cause() if answer.code == 403 else None
        return cause is not None and cause["reason"] == "NamespaceTerminating"

    await api.until(refused)

    async def look() -> bool:
        found = await api.call("GET", f"{path}/a")
        return (
            "deletionTimestamp" in found.meta and (await api.call("GET", r.CONFIG_MAPS.path(name, "free"))).code == 404
        )

    await api.until(look)
    assert (await api.call("GET", r.NAMESPACES.path(name=name))).code == 200

    async def says() -> bool:
        conditions = (await api.call("GET", r.NAMESPACES.path(name=name))).body["status"].get("conditions", [])
        return {"NamespaceContentRemaining", "NamespaceFinalizersRemaining"} <= {
            each["type"] for each in conditions if each["status"] == "True"
        }

    await api.until(says)
    patch = [{"op": "remove", "path": "/metadata/finalizers"}]
    assert (await api.call("PATCH", f"{path}/a", patch, content_type="application/json-patch+json")).code == 200

    async def over() -> bool:
        return (await api.call("GET", r.NAMESPACES.path(name=name))).code == 404

    await api.until(over)


@pytest_twisted.ensureDeferred
async def test_default_namespaces_stay(api: Api) -> None:
    assert (await api.call("DELETE", r.NAMESPACES.path(name="default"))).code == 403


@pytest_twisted.ensureDeferred
async def test_a_crd_waits_for_its_objects(api: Api) -> None:
    resource = await define(api, crd("widget"))
    await api.made(resource, {"metadata": {"name": "a", **HELD}, "spec": {"size": 1}})
    name = f"widgets.{resource.group}"
    answer = await api.delete(r.CRDS, name)
    assert answer.code == 200

    async def marked() -> bool:
        return "deletionTimestamp" in (await api.get(resource, "a")).meta

    await api.until(marked)
    held = await api.get(r.CRDS, name)
    assert held.meta["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    conditions = {each["type"]: each["status"] for each in held.body["status"]["conditions"]}
    assert conditions["Terminating"] == "True"
    late = await api.create(resource, {"metadata": {"name": "late"}, "spec": {"size": 1}})
    assert (late.code, late.reason) == (405, "MethodNotAllowed"), late.body
    assert (await api.patch(resource, "a", {"metadata": {"finalizers": None}})).code == 200
    await gone(api, r.CRDS, name)

    async def unserved() -> bool:
        return (await api.call("GET", api.path(resource))).code == 404

    await api.until(unserved)
