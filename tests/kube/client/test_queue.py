"""The work queue's shell on a clock."""

from __future__ import annotations

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.errors import PeerPodError
from peerpods.kube.client import WorkQueue


class Bench:
    def __init__(self, **more):
        self.clock = Clock()
        self.open = {}
        self.calls = []
        self.queue = WorkQueue(self.clock, self.work, **more)

    async def work(self, key):
        self.calls.append(key)
        assert key not in self.open
        self.open[key] = Deferred()
        try:
            return await self.open[key]
        finally:
            del self.open[key]


def test_work_never_runs_inside_add_and_at_most_some_at_once():
    bench = Bench(workers=2)
    for key in "abc":
        bench.queue.add(key)
    bench.queue.start()
    assert bench.calls == []
    bench.clock.advance(0)
    assert bench.calls == ["a", "b"] and len(bench.queue) == 1
    bench.open["a"].callback(None)
    bench.clock.advance(0)
    assert bench.calls == ["a", "b", "c"]
    bench.open["b"].callback(None)
    bench.open["c"].callback(None)
    bench.clock.advance(0)
    assert bench.queue.idle and bench.clock.getDelayedCalls() == []


def test_a_number_means_look_again():
    bench = Bench()
    bench.queue.start()
    bench.queue.add("a")
    bench.clock.advance(0)
    bench.open["a"].callback(30.0)
    bench.clock.pump([0, 29])
    assert bench.calls == ["a"]
    bench.clock.pump([1.1, 0])
    assert bench.calls == ["a", "a"]


def test_a_failure_comes_again():
    bench = Bench(base=1.0)
    bench.queue.start()
    bench.queue.add("a")
    bench.clock.advance(0)
    bench.open["a"].errback(PeerPodError("no"))
    bench.clock.pump([0, 0.4])
    assert bench.calls == ["a"]
    bench.clock.pump([0.7, 0])
    assert bench.calls == ["a", "a"]
    bench.open["a"].errback(ZeroDivisionError())
    bench.clock.pump([0, 2.1, 0])
    assert len(bench.calls) == 3


def test_work_that_hangs_is_cancelled():
    bench = Bench(longest=60)
    bench.queue.start()
    bench.queue.add("a")
    bench.clock.advance(0)
    bench.clock.advance(61)
    assert bench.open == {}
    bench.clock.pump([0, 1, 0])
    assert bench.calls == ["a", "a"]


def test_work_that_raises_at_once_does_not_stop_the_others():
    clock = Clock()
    seen = []

    async def work(key):
        seen.append(key)
        if key == "bad":
            raise KeyError(key)

    queue = WorkQueue(clock, work, workers=1)
    queue.start()
    queue.add("bad")
    queue.add("good")
    clock.pump([0, 0, 0])
    assert seen == ["bad", "good"]


def test_resync_adds_all_keys_spread_over_time():
    bench = Bench(resync=100.0, keys=lambda: ["a", "b"], workers=8)
    bench.queue.start()
    bench.clock.advance(99)
    assert bench.calls == []
    bench.clock.pump([1.1] + [1] * 11)
    assert sorted(bench.calls) == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_stop_waits_for_work_and_then_cancels_it():
    bench = Bench()
    bench.queue.start()
    bench.queue.add("a")
    bench.queue.add("b")
    bench.clock.advance(0)
    stopped = []
    stop = Deferred.fromCoroutine(bench.queue.stop(grace=5))
    stop.addCallback(stopped.append)
    bench.queue.add("c")
    bench.open["a"].callback(None)
    bench.clock.advance(4.9)
    assert stopped == [] and "b" in bench.open
    bench.clock.advance(0.2)
    assert stopped == [None] and bench.open == {}
    bench.clock.advance(1000)
    assert bench.calls == ["a", "b"], "nothing begins after stop"
    await bench.queue.stop()
    assert bench.clock.getDelayedCalls() == []
