"""Lists: shape, pages, selectors, versions."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Answer, Api
from tests.kube.conformance.gadgets import config_map, peer_pod, pod

MAPS = r.CONFIG_MAPS


def names(answer: Answer) -> list[str]:
    assert answer.code == 200, answer.body
    return [each["metadata"]["name"] for each in answer.body["items"]]


async def fill(api: Api, count: int = 5) -> None:
    for number in range(count):
        await api.made(MAPS, config_map(f"m{number}", labels={"suite": "lists", "n": str(number)}))


async def listed(api: Api, resource: r.Resource = MAPS, **query: Any) -> Answer:
    return await api.call("GET", api.path(resource, **query))


@pytest_twisted.ensureDeferred
async def test_what_a_list_looks_like(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    answer = await listed(api, r.PEER_PODS)
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("PeerPodList", r.PEER_PODS.api_version)
    assert answer.body["items"] == [made.body], "items of custom resources say what they are"
    assert int(answer.version) >= int(made.version)
    await api.made(MAPS, config_map())
    answer = await listed(api, fieldSelector="metadata.name=a")
    assert answer.body["kind"] == "ConfigMapList"
    assert set(answer.body["items"][0]) == {"metadata", "data"}, "those of built-in kinds do not"
    empty = await listed(api, r.LEASES)
    assert empty.body["items"] == []
    everywhere = await api.call("GET", r.PEER_PODS.path())
    assert any(each["metadata"]["uid"] == made.meta["uid"] for each in everywhere.body["items"])


@pytest_twisted.ensureDeferred
async def test_pages_show_one_version(api: Api) -> None:
    await fill(api)
    first = await listed(api, r.CONFIG_MAPS, labelSelector="suite=lists", limit=2)
    assert names(first) == ["m0", "m1"] and first.meta["continue"]
    await api.delete(MAPS, "m3")
    await api.made(MAPS, config_map("m9", labels={"suite": "lists"}))
    query = {"labelSelector": "suite=lists", "limit": 2, "continue": first.meta["continue"]}
    second = await listed(api, **query)
    assert names(second) == ["m2", "m3"] and second.version == first.version
    last = await listed(api, **{**query, "continue": second.meta["continue"]})
    assert names(last) == ["m4"] and not last.meta.get("continue")
    assert names(await listed(api, labelSelector="suite=lists")) == ["m0", "m1", "m2", "m4", "m9"]


@pytest_twisted.ensureDeferred
async def test_a_forgotten_page_is_410_with_a_way_on(api: Api) -> None:
    await fill(api, 3)
    first = await listed(api, limit=1)
    if api.cluster:
        await deferToThread(api.cluster.compact)
        await api.made(MAPS, config_map("later"))
        await deferToThread(api.cluster.compact)
    if api.double:
        api.double.expire()
    query = {"limit": 1, "continue": first.meta["continue"]}
    gone = await listed(api, **query)
    assert (gone.code, gone.reason) == (410, "Expired"), gone.body
    on = await listed(api, MAPS, limit=500, **{"continue": gone.meta["continue"]})
    assert {"m0", "m1", "m2"} <= {*names(first), *names(on)} and len(names(first)) == 1
    exact = await listed(api, resourceVersion=first.version, resourceVersionMatch="Exact")
    assert (exact.code, exact.reason) == (410, "Expired")


@pytest_twisted.ensureDeferred
async def test_a_version_to_come_is_a_timeout(api: Api) -> None:
    version = int((await listed(api)).version) + 10_000
    answer = await listed(api, resourceVersion=version)
    assert (answer.code, answer.reason) == (504, "Timeout")
    cause = answer.cause()
    assert cause and cause["reason"] == "ResourceVersionTooLarge"


@pytest_twisted.ensureDeferred
async def test_version_zero_is_any(api: Api) -> None:
    await fill(api, 3)

    async def all_there() -> bool:
        found = names(await listed(api, resourceVersion=0, labelSelector="suite=lists", limit=1))
        return sorted(found) == ["m0", "m1", "m2"]  # a cache, which has no order of its own

    await api.until(all_there)  # the limit is not regarded


LABELS = {
    "suite=lists,n=1": ["m1"],
    "suite=lists,n!=1": ["m0", "m2"],
    "suite=lists,n in (0, 2)": ["m0", "m2"],
    "suite=lists,n notin (0,1)": ["m2"],
    "suite=lists,!n": [],
    "suite==lists,n": ["m0", "m1", "m2"],
}


@pytest.mark.parametrize(("selector", "found"), LABELS.items(), ids=LABELS)
@pytest_twisted.ensureDeferred
async def test_label_selectors(api: Api, selector: str, found: list[str]) -> None:
    await fill(api, 3)
    assert names(await listed(api, labelSelector=selector)) == found


@pytest_twisted.ensureDeferred
async def test_field_selectors(api: Api) -> None:
    await api.made(r.PODS, pod("a", nodeName="n1"))
    await api.made(r.PODS, pod("b"))
    await api.patch(r.PODS, "a", {"status": {"phase": "Running"}}, sub="status")
    for selector, found in {
        "spec.nodeName=n1": ["a"],
        "spec.nodeName!=n1": ["b"],
        "status.phase=Running": ["a"],
        "metadata.name=b,status.phase=Pending": ["b"],
        f"metadata.namespace={api.namespace}": ["a", "b"],
    }.items():
        assert names(await listed(api, r.PODS, fieldSelector=selector)) == found, selector
    for resource in (r.PODS, r.PEER_PODS):
        refused = await listed(api, resource, fieldSelector="spec.none=1")
        assert (refused.code, refused.reason) == (400, "BadRequest")
    assert (await listed(api, labelSelector="a===")).code == 400
    assert (await listed(api, r.CONFIG_MAPS, **{"continue": "nonsense"})).code == 400
