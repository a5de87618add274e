"""Watches."""

from __future__ import annotations

import queue
import time

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api
from tests.kube.conformance.gadgets import config_map, peer_pod, pod

MAPS = r.CONFIG_MAPS
ONLY = {"labelSelector": "suite=watch"}
LABEL = {"labels": {"suite": "watch"}}


async def current(api: Api) -> str:
    return str((await api.call("GET", api.path(MAPS))).meta["resourceVersion"])


@pytest_twisted.ensureDeferred
async def test_changes_after_a_version_in_order(api: Api) -> None:
    version = await current(api)
    await api.made(MAPS, config_map("a", **LABEL))
    watch = await api.watch(MAPS, resourceVersion=version, **ONLY)
    await api.patch(MAPS, "a", {"data": {"a": "2"}})
    await api.delete(MAPS, "a")
    await api.made(MAPS, config_map("b", **LABEL))
    assert await watch.take(4) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b")]


@pytest.mark.parametrize("start", ["0", None])
@pytest_twisted.ensureDeferred
async def test_without_a_version_it_begins_with_what_is(api: Api, start: str | None) -> None:
    for name in ("a", "b"):
        await api.made(MAPS, config_map(name, **LABEL))
    watch = await api.watch(MAPS, **({"resourceVersion": start} if start else {}), **ONLY)
    assert sorted(await watch.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
    await api.patch(MAPS, "b", {"data": {"a": "2"}})
    assert await watch.take(1) == [("MODIFIED", "b")]


@pytest_twisted.ensureDeferred
async def test_the_last_state_of_what_was_deleted(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod(meta={"finalizers": ["peer.pod/finalizer"]}))
    watch = await api.watch(r.PEER_PODS, resourceVersion=made.version)
    marked = await api.delete(r.PEER_PODS, "a")
    await api.patch(r.PEER_PODS, "a", [{"op": "remove", "path": "/metadata/finalizers"}], "json")
    first, second = await watch.next(), await watch.next()
    assert first and first["type"] == "MODIFIED" and first["object"] == marked.body
    assert second and second["type"] == "DELETED"
    last = second["object"]["metadata"]
    assert last["finalizers"] == ["peer.pod/finalizer"], "the state before the write that let it go"
    assert int(last["resourceVersion"]) > int(marked.version)
    assert second["object"]["kind"] == "PeerPod"


@pytest_twisted.ensureDeferred
async def test_an_object_enters_and_leaves_a_selection(api: Api) -> None:
    version = await current(api)
    watch = await api.watch(MAPS, resourceVersion=version, **ONLY)
    await api.made(MAPS, config_map("a"))
    await api.patch(MAPS, "a", {"metadata": LABEL})
    await api.patch(MAPS, "a", {"metadata": {"labels": None}, "data": {"a": "9"}})
    await api.patch(MAPS, "a", {"metadata": LABEL})
    assert await watch.take(1) == [("ADDED", "a")]
    left = await watch.next()
    assert left and left["type"] == "DELETED"
    assert left["object"]["data"] == {"a": "1"}, "the state when it was last selected"
    assert await watch.take(1) == [("ADDED", "a")]


@pytest_twisted.ensureDeferred
async def test_field_selectors(api: Api) -> None:
    watch = await api.watch(r.PODS, fieldSelector="spec.nodeName=n1")
    await api.made(r.PODS, pod("other", nodeName="n2"))
    await api.made(r.PODS, pod("mine", nodeName="n1"))
    assert await watch.take(1) == [("ADDED", "mine")]
    one = await api.watch(r.PODS, fieldSelector="metadata.name=other")
    assert await one.take(1) == [("ADDED", "other")]


@pytest_twisted.ensureDeferred
async def test_time_is_up(api: Api) -> None:
    began = time.monotonic()
    watch = await api.watch(MAPS, timeoutSeconds="1", resourceVersion=await current(api), **ONLY)
    assert await watch.next() is None
    assert time.monotonic() - began > 0.8


@pytest_twisted.ensureDeferred
async def test_a_version_to_come(api: Api) -> None:
    version = str(int(await current(api)) + 10_000)
    watch = await api.watch(MAPS, resourceVersion=version, timeoutSeconds="1", **ONLY)
    await api.made(MAPS, config_map("a", **LABEL))
    assert await watch.next() is None, "nothing until the time is up"


@pytest_twisted.ensureDeferred
async def test_a_version_that_is_none(api: Api) -> None:
    for extra in ({"watch": "1"}, {}):
        answer = await api.call("GET", api.path(MAPS, resourceVersion="abc", **extra))
        assert answer.code == 500, answer.body


@pytest_twisted.ensureDeferred
async def test_a_bookmark_before_the_end_for_those_who_ask(api: Api) -> None:
    query = {"resourceVersion": await current(api), "timeoutSeconds": "8"}
    watch = await api.watch(r.PEER_PODS, **query, allowWatchBookmarks="true")
    other = await api.watch(r.PEER_PODS, **query)
    made = await api.made(r.PEER_PODS, peer_pod())
    assert await watch.take(1) == await other.take(1) == [("ADDED", "a")]
    event = await watch.next()
    assert event and event["type"] == "BOOKMARK"
    obj = event["object"]
    assert obj["kind"] == "PeerPod" and set(obj) <= {"kind", "apiVersion", "metadata", "spec", "status"}
    assert set(obj["metadata"]) <= {"resourceVersion", "creationTimestamp"}
    assert int(obj["metadata"]["resourceVersion"]) >= int(made.version)
    assert await other.next() is None
    while event is not None:
        assert event["type"] == "BOOKMARK"
        event = await watch.next()


@pytest_twisted.ensureDeferred
async def test_a_refused_watch_is_an_http_status(api: Api) -> None:
    watch = await api.watch(MAPS, fieldSelector="spec.none=1")
    assert watch.code == 400
    with pytest.raises(queue.Empty):
        await (await api.watch(MAPS, resourceVersion=await current(api), **ONLY)).next(0.3)
