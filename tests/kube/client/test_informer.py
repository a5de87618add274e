"""The informer's shell: timers, stop, handlers, on a clock; and once over real sockets."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.web.server import NOT_DONE_YET

from peerpods.kube.client import ApiError, Informer
from peerpods.kube.objects.resources import PODS
from peerpods.obs import log
from tests.kube.client.fakes import HandKube, page_of
from tests.kube.client.model import Collection, expired, line
from tests.kube.client.scripted import Rig, status


@pytest.fixture
def logged():
    found = []
    before = log._State.sink
    log.set_sink(lambda level, event, fields: found.append((level, event, fields)))
    yield found
    log.set_sink(before)


class Bench:
    def __init__(self, **more):
        self.clock = Clock()
        self.kube = HandKube()
        self.changes = []
        self.on_change = lambda change: self.changes.append((change.kind, change.key))
        self.informer = Informer(
            self.clock, self.kube, PODS, namespace="ns", on_change=lambda change: self.on_change(change), **more
        )
        self.ready = []
        self.started = self.informer.start()
        self.started.addBoth(self.ready.append)

    def list(self, collection):
        call = self.kube.take("page")
        items, version, token = collection.page(call.more["token"], 500)
        call.answer(page_of(PODS, items, version, token))
        self.clock.advance(0)

    def watch(self):
        call = self.kube.take("watch")
        return call, dict(call.args[2]), call.args[3]


@pytest.fixture
def collection():
    made = Collection()
    made.write("a", "put")
    made.write("b", "put")
    return made


def test_start_fires_once_all_is_there_and_changes_follow(collection):
    bench = Bench(shrink=lambda pod: pod["value"])
    assert bench.ready == [] and not bench.informer.synced
    bench.list(collection)
    assert bench.ready == [None] and bench.informer.synced
    assert dict(bench.informer.store) == {"ns/a": 2, "ns/b": 3}
    _, asked, receive = bench.watch()
    assert asked["resourceVersion"] == collection.version(3)
    collection.write("a", "put")
    (event,) = collection.events_after(collection.version(3))
    bench.clock.advance(9)
    receive(event[:20])
    receive(event[20:] + b"\n")
    assert bench.changes == [("added", "ns/a"), ("added", "ns/b"), ("modified", "ns/a")]
    assert bench.informer.last_contact == 9
    bench.informer.stop()
    assert bench.clock.getDelayedCalls() == []


def test_a_silent_watch_is_dropped_and_resumed(collection):
    bench = Bench()
    bench.list(collection)
    call, asked, _ = bench.watch()
    bench.clock.advance(int(asked["timeoutSeconds"]) + 14.9)
    assert not call.cancelled
    bench.clock.advance(0.2)
    assert call.cancelled
    bench.clock.advance(30)
    _, again, _ = bench.watch()
    assert again["resourceVersion"] == asked["resourceVersion"]
    bench.informer.stop()


def test_only_stop_ends_an_informer(collection, logged):
    bench = Bench()
    bench.kube.take("page").fail(CancelledError())
    bench.clock.advance(1)
    bench.list(collection)
    assert bench.ready == [None]
    bench.watch()[0].fail(ZeroDivisionError("a bug of ours"))
    bench.clock.advance(1)
    assert bench.kube.take("watch")
    assert [event for _, event, _ in logged] == ["informer_confused"] * 2
    bench.informer.stop()


@pytest.mark.parametrize("when", ["list", "watch", "wait"])
def test_stop_ends_at_once_in_any_state(collection, when):
    bench = Bench()
    if when == "list":
        call = bench.kube.take("page")
    else:
        bench.list(collection)
        call, _, receive = bench.watch()
    if when == "wait":
        call.fail(ApiError("refused", reason="ConnectionRefused"))
        assert len(bench.clock.getDelayedCalls()) == 1
    bench.informer.stop()
    bench.informer.stop()
    assert bench.clock.getDelayedCalls() == []
    assert call.cancelled is (when != "wait")
    if when == "list":
        assert bench.ready[0].check(CancelledError)
    if when == "watch":
        receive(line("DELETED", collection.objects["a"]) + b"\n")
        assert ("deleted", "ns/a") not in bench.changes
    assert bench.kube.calls == []


def test_nobody_hears_of_what_follows_a_stop_in_a_handler(collection):
    bench = Bench()
    heard = []

    def on_change(change):
        heard.append(change.key)
        bench.informer.stop()

    bench.on_change = on_change
    bench.list(collection)
    assert heard == ["ns/a"]


def test_a_handler_that_fails_harms_nothing(collection, logged):
    bench = Bench()

    def on_change(change):
        raise KeyError("mine")

    bench.on_change = on_change
    bench.list(collection)
    assert bench.ready == [None] and len(bench.informer.store) == 2
    assert [event for _, event, _ in logged] == ["change_handler_failed"] * 2
    bench.informer.stop()


def test_a_shrink_that_fails_keeps_the_whole_object(collection, logged):
    bench = Bench(shrink=lambda pod: pod["nothing"])
    bench.list(collection)
    assert bench.informer.store["ns/a"]["value"] == 2
    assert logged[0][1] == "shrink_failed"
    bench.informer.stop()


def test_an_object_without_a_name_is_survived(collection, logged):
    bench = Bench()
    bench.kube.take("page").answer(page_of(PODS, [{"metadata": {}}], "v1"))
    assert logged[0][1] == "informer_confused"
    bench.clock.advance(1)
    bench.list(collection)
    assert bench.ready == [None]
    bench.informer.stop()


def test_a_missing_right_is_said_once_until_mended(collection, logged):
    bench = Bench()
    forbidden = ApiError("cannot list pods: no", status=403, remedy="grant list on pods")
    for _ in range(4):
        bench.kube.take("page").fail(forbidden)
        bench.clock.advance(60)
    assert [(event, "grant list" in fields["error"]) for _, event, fields in logged] == [("list_failed", True)]
    bench.list(collection)
    assert logged[-1][1] == "watch_mended"
    bench.informer.stop()


def test_an_expired_watch_is_no_complaint(collection, logged):
    bench = Bench()
    bench.list(collection)
    call, _, receive = bench.watch()
    with pytest.raises(ApiError) as caught:
        receive(expired() + b"\n")
    call.fail(caught.value)
    bench.clock.advance(1)
    bench.list(collection)
    assert logged == [] and bench.changes == [("added", "ns/a"), ("added", "ns/b")]
    bench.informer.stop()


def wait(seconds):
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


@pytest_twisted.ensureDeferred
async def test_over_sockets_pages_events_cuts_and_stop():
    collection = Collection()
    for number in range(7):
        collection.write(f"pod{number}", "put")
    watches = []

    def answer(request):
        if b"watch" in request.args:
            version = request.args[b"resourceVersion"][0].decode()
            try:
                lines = collection.events_after(version)
            except ApiError:
                return status(410, "Expired", "too old")
            watches.append(request)
            request.write(b"".join(each + b"\n" for each in lines))
            return NOT_DONE_YET
        items, version, token = collection.page(request.args.get(b"continue", [b""])[0].decode(), 3)
        return {"metadata": {"resourceVersion": version, "continue": token}, "items": items}

    rig = Rig(reactor, answer)
    changes = []
    informer = Informer(
        reactor,
        rig.kube,
        PODS,
        shrink=lambda pod: (pod["metadata"]["uid"], pod["value"]),
        on_change=lambda change: changes.append((change.kind, change.key)),
    )
    await informer.start()
    assert dict(informer.store) == collection.truth()

    async def until(condition):
        for _ in range(300):
            if condition():
                return
            await wait(0.01)
        raise AssertionError("it did not come to that")

    await until(lambda: watches)
    collection.write("pod0", "put")
    watches[-1].write(collection.events_after(collection.version(8))[0] + b"\n")
    await until(lambda: changes[-1] == ("modified", "ns/pod0"))
    collection.write("pod1", "delete")
    watches[-1].channel.transport.abortConnection()
    await until(lambda: changes[-1] == ("deleted", "ns/pod1"))
    collection.write("pod2", "replace")
    collection.compact()
    watches[-1].channel.transport.abortConnection()
    await until(lambda: dict(informer.store) == collection.truth())
    assert changes[-2:] == [("deleted", "ns/pod2"), ("added", "ns/pod2")]
    await until(lambda: len(watches) == 3)
    informer.stop()
    await until(lambda: watches[-1].channel is None or watches[-1]._disconnected)
    await rig.stop()
