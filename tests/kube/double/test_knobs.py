"""What tests turn at the double."""

from __future__ import annotations

import http.client
import queue
import time
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api
from tests.kube.conformance.gadgets import config_map
from tests.kube.double import Double

MAPS = r.CONFIG_MAPS


@pytest.fixture
def client(double: Double) -> Iterator[Api]:
    """A client of the double alone."""
    double.seed(r.NAMESPACES, {"metadata": {"name": "test"}})
    api = Api(double.url)
    api.double, api.namespace = double, "test"
    yield api
    api.close()


@pytest_twisted.ensureDeferred
async def test_the_next_requests_fail(client: Api, double: Double) -> None:
    double.fail_next(2, 503, retry_after=7)
    for _ in range(2):
        failed = await client.get(MAPS, "a")
        assert (failed.code, failed.reason) == (503, "ServiceUnavailable")
        assert failed.headers["retry-after"] == ["7"]
    assert (await client.get(MAPS, "a")).code == 404


@pytest_twisted.ensureDeferred
async def test_only_those_with_method_and_path_fail(client: Api, double: Double) -> None:
    double.fail_next(1, 403, method="POST", path=client.path(MAPS), reason="Because")
    await client.made(r.SECRETS, {"metadata": {"name": "a"}})
    assert (await client.get(MAPS, "a")).code == 404
    failed = await client.create(MAPS, config_map())
    assert (failed.code, failed.reason) == (403, "Because")
    assert double.store.get(MAPS, "a", "test") is None, "nothing was done"
    await client.made(MAPS, config_map())


@pytest_twisted.ensureDeferred
async def test_a_request_is_cut(client: Api, double: Double) -> None:
    double.fail_next(1, 0)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        await client.get(MAPS, "a")
    assert (await client.get(MAPS, "a")).code == 404


@pytest.mark.parametrize("clean", [True, False])
@pytest_twisted.ensureDeferred
async def test_watches_are_dropped(client: Api, double: Double, clean: bool) -> None:
    watches = [await client.watch(MAPS) for _ in range(2)]
    assert double.watches == 2
    double.drop_watches(clean=clean)
    assert [await watch.next() for watch in watches] == [None, None]
    assert double.watches == 0
    made = await client.made(MAPS, config_map())
    again = await client.watch(MAPS, resourceVersion=str(int(made.version) - 1))
    assert await again.take(1) == [("ADDED", "a")], "nothing is forgotten"


@pytest_twisted.ensureDeferred
async def test_while_paused_nothing_is_answered_nor_told(client: Api, double: Double) -> None:
    watch = await client.watch(MAPS)
    double.pause()
    getting = client.call("GET", client.path(MAPS, "a"))
    double.seed(MAPS, {**config_map(), "metadata": {"name": "a", "namespace": "test"}})
    with pytest.raises(queue.Empty):
        await watch.next(0.2)
    assert not getting.called
    double.resume()
    assert (await getting).code == 200
    assert await watch.take(1) == [("ADDED", "a")]


@pytest_twisted.ensureDeferred
async def test_latency(client: Api, double: Double) -> None:
    double.knobs.latency = 0.2
    began = time.monotonic()
    await client.get(MAPS, "a")
    assert 0.2 <= time.monotonic() - began < 5


@pytest_twisted.ensureDeferred
async def test_stopped_and_started_again(client: Api, double: Double) -> None:
    made = await client.made(MAPS, config_map())
    watch = await client.watch(MAPS)
    assert await watch.take(1) == [("ADDED", "a")]
    await double.stop()
    assert await watch.next() is None
    with pytest.raises(ConnectionError):
        await client.call("GET", client.path(MAPS, "a"))
    await double.start()
    assert double.url == client.url
    assert (await client.get(MAPS, "a")).body == made.body


@pytest_twisted.ensureDeferred
async def test_stopped_while_paused(client: Api, double: Double) -> None:
    double.pause()
    making = Deferred.fromCoroutine(client.create(MAPS, config_map()))
    await deferToThread(time.sleep, 0.1)
    await double.stop()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        await making
    await double.start()
    assert (await client.get(MAPS, "a")).code == 404


@pytest_twisted.ensureDeferred
async def test_a_bookmark_now_for_those_who_ask(client: Api, double: Double) -> None:
    version = (await client.call("GET", client.path(MAPS))).version
    asking = await client.watch(MAPS, resourceVersion=version, allowWatchBookmarks="true")
    other = await client.watch(MAPS, resourceVersion=version)
    double.bookmark()
    made = await client.made(r.SECRETS, {"metadata": {"name": "a"}})
    double.bookmark()
    event = await asking.next()
    assert event and event["type"] == "BOOKMARK", "one only: nothing had changed at the first"
    assert event["object"]["metadata"]["resourceVersion"] == made.version
    for watch in (asking, other):
        with pytest.raises(queue.Empty):
            await watch.next(0.1)


@pytest_twisted.ensureDeferred
async def test_bookmarks_by_themselves(client: Api, double: Double) -> None:
    double.knobs.bookmark_every = 0.05
    version = (await client.call("GET", client.path(MAPS))).version
    watch = await client.watch(MAPS, resourceVersion=version, allowWatchBookmarks="true")
    await client.made(r.SECRETS, {"metadata": {"name": "a"}})
    event = await watch.next()
    assert event and event["type"] == "BOOKMARK"


@pytest_twisted.ensureDeferred
async def test_requests_are_seen(client: Api, double: Double) -> None:
    await client.patch(MAPS, "a", {"data": {}}, fieldManager="me")
    seen = double.seen[-1]
    assert (seen.method, seen.path) == ("PATCH", client.path(MAPS, "a"))
    assert seen.query == {"fieldManager": "me"} and seen.content_type == "application/merge-patch+json"
    assert seen.user_agent == "conformance/1"


@pytest_twisted.ensureDeferred
async def test_history_is_forgotten(client: Api, double: Double) -> None:
    made = await client.made(MAPS, config_map())
    watch = await client.watch(MAPS, resourceVersion=made.version)
    double.expire()
    await client.patch(MAPS, "a", {"data": {"a": "2"}})
    assert await watch.take(1) == [("MODIFIED", "a")], "an open watch goes on"
    event = await (await client.watch(MAPS, resourceVersion=made.version)).next()
    assert event and (event["type"], event["object"]["code"]) == ("ERROR", 410)
