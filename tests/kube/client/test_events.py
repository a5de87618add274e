"""Events: bounds, series, rates, order; and the recorder on a clock."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.kube.client import ApiError, EventRecorder, owner_reference, reference
from peerpods.kube.client.bucket import Bucket
from peerpods.kube.client.eventlog import OBJECT_BURST, QUEUE, EventLog, cut
from tests.kube.client.fakes import HandKube

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "resourceVersion": "5", "labels": {"a": "b"}},
    "spec": {},
}


def pod(number):
    return {**POD, "metadata": {**POD["metadata"], "name": f"web-{number}", "uid": f"u{number}"}}


@given(st.text(max_size=60), st.integers(3, 40))
def test_what_is_cut_is_within_the_bound_and_whole_characters(text, limit):
    found = cut(text, limit)
    encoded = text.encode("utf-8", "replace")
    assert len(found.encode()) <= limit
    assert found == encoded.decode() if len(encoded) <= limit else found.endswith("…")


def test_references():
    assert reference(POD) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "ns",
        "name": "web",
        "uid": "u1",
        "resourceVersion": "5",
    }
    assert reference({"kind": "Pod", "name": "x", "more": 1, "uid": ""}) == {"kind": "Pod", "name": "x"}
    assert owner_reference(POD) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web",
        "uid": "u1",
        "controller": True,
        "blockOwnerDeletion": True,
    }


def make(log, regarding=POD, kind="Normal", reason="Seen", note="words", action="", related=None, wall=0.0):
    return log.new_event(regarding, kind, reason, note, action, related, wall)


def test_an_event_is_within_the_bounds_of_the_api():
    log = EventLog("c" * 400, "i" * 400)
    long = {**POD, "metadata": {**POD["metadata"], "name": "n" * 253}}
    event = make(log, long, "Odd", "R" * 300, "n" * 5000, "a" * 300, related=pod(2), wall=1.5)
    assert len(event["reason"].encode()) <= 128 and len(event["action"].encode()) <= 128
    assert len(event["note"].encode()) <= 1024 and len(event["reportingInstance"].encode()) <= 128
    assert len(event["metadata"]["name"]) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", event["metadata"]["name"])
    assert event["type"] == "Normal" and event["eventTime"] == "1970-01-01T00:00:01.500000Z"
    assert event["related"]["name"] == "web-2"
    plain = make(log, {"kind": "Node", "name": "n1", "apiVersion": "v1"})
    assert plain["metadata"]["namespace"] == "default" and plain["action"] == "Seen"


def test_equal_events_are_a_series_for_a_while():
    log = EventLog("c", "i")
    assert log.add(make(log), 0, 0) == "queued"
    entry, _ = log.next(0)
    assert entry.told == 0
    log.sent(entry, 1, 0)
    assert log.next(0) == (None, None)
    for now in range(1, 4):
        assert log.add(make(log), now, now) == "merged"
    assert log.next(3) == (None, pytest.approx(7)), "a series is patched now and then only"
    again, _ = log.next(10.1)
    assert again is entry and again.patch() == {
        "series": {"count": 4, "lastObservedTime": "1970-01-01T00:00:03.000000Z"}
    }
    log.sent(entry, 4, 10.1)
    assert log.add(make(log, note="other words"), 11, 11) == "queued"
    assert log.add(make(log, pod(2)), 11, 11) == "queued"
    assert log.add(make(log), 3 + 361, 364) == "queued", "after some minutes it is a new one"


def test_an_object_with_too_much_to_say_is_cut_off_and_others_are_not():
    log = EventLog("c", "i")
    results = [log.add(make(log, note=f"n{number}"), 0, 0) for number in range(OBJECT_BURST + 5)]
    assert results.count("queued") == OBJECT_BURST and results[-1] == "dropped" and log.dropped == 5
    assert log.add(make(log, pod(2)), 0, 0) == "queued"
    assert log.add(make(log, note="later"), 61, 61) == "queued"


def test_the_whole_process_is_held_to_a_rate():
    log = EventLog("c", "i")
    for number in range(100):
        log.add(make(log, pod(number)), 0, 0)
    sent = 0
    while (entry := log.next(0)[0]) is not None:
        log.sent(entry, 1, 0)
        sent += 1
    assert sent == 50 and log.next(0)[1] == pytest.approx(0.2)
    assert log.next(0.21)[0] is not None


def test_when_too_many_wait_warnings_stay():
    log = EventLog("c", "i")
    for number in range(QUEUE):
        log.add(make(log, pod(number), kind="Warning" if number % 2 else "Normal"), 0, 0)
    for number in range(QUEUE // 2):
        log.add(make(log, pod(QUEUE + number), kind="Warning"), 0, 0)
    assert len(log) == QUEUE and log.dropped == QUEUE // 2
    assert all(entry.body["type"] == "Warning" for entry in log._queue.values())
    log.add(make(log, pod(99999), kind="Normal"), 0, 0)
    assert all(entry.body["type"] == "Warning" for entry in log._queue.values())
    log.add(make(log, pod(99998), kind="Warning"), 0, 0)
    assert len(log) == QUEUE


def test_a_bucket_waits_exactly_long_enough():
    bucket = Bucket(2, 0.5, 0)
    assert bucket.take(0) and bucket.take(0) and not bucket.take(0)
    assert bucket.wait(0) == 2 and bucket.take(2) and not bucket.take(2.1) and not bucket.full(3)
    assert bucket.full(100)


class Bench:
    def __init__(self):
        self.clock = Clock()
        self.kube = HandKube()
        self.recorder = EventRecorder(self.clock, self.kube, component="c", instance="i")

    def say(self, note="words", regarding=POD, kind="Normal", reason="Seen"):
        self.recorder.event(regarding, kind, reason, note)

    def take(self, verb):
        return self.kube.take(verb)


def test_nothing_is_sent_inside_the_call_and_one_after_another():
    bench = Bench()
    bench.say("one")
    bench.say("two")
    assert bench.kube.calls == []
    bench.clock.advance(0)
    first = bench.take("create")
    assert first.args[1]["note"] == "one" and bench.kube.calls == []
    first.answer({})
    assert bench.take("create").args[1]["note"] == "two"


def test_nonsense_never_raises():
    bench = Bench()
    for regarding in ({}, {"metadata": {}}, {"metadata": None}, None, 5):
        bench.say(regarding=regarding)
    bench.clock.advance(0)


def test_a_server_that_is_away_gets_them_later_in_order():
    bench = Bench()
    for note in ("one", "two"):
        bench.say(note)
    bench.clock.advance(0)
    for _ in range(3):
        bench.take("create").fail(ApiError("away", reason="ConnectionRefused"))
        bench.say("three")
        assert bench.kube.calls == [], "new events do not press a server that is away"
        bench.clock.advance(31)
    notes = []
    while bench.kube.calls:
        call = bench.take("create")
        notes.append(call.args[1]["note"])
        call.answer({})
    assert notes == ["one", "two", "three"]


@pytest.mark.parametrize("status", [403, 404, 422])
def test_what_is_refused_for_good_is_dropped_and_the_next_sent(status):
    bench = Bench()
    bench.say("one")
    bench.say("two")
    bench.clock.advance(0)
    bench.take("create").fail(ApiError("no", status=status))
    assert bench.take("create").args[1]["note"] == "two"


def test_a_create_that_arrived_without_an_answer_is_not_sent_twice():
    bench = Bench()
    bench.say("one")
    bench.clock.advance(0)
    call = bench.take("create")
    call.fail(ApiError("cut", reason="ConnectionLost"))
    bench.clock.advance(1)
    again = bench.take("create")
    assert again.args[1]["metadata"]["name"] == call.args[1]["metadata"]["name"]
    again.fail(ApiError("there", status=409, reason="AlreadyExists"))
    assert len(bench.recorder) == 0
    bench.say("one")
    bench.clock.pump([0, 10.1])
    assert bench.take("patch").args[1] == call.args[1]["metadata"]["name"], "it is known to be there"


def test_a_series_whose_event_the_server_forgot_is_told_anew():
    bench = Bench()
    bench.say()
    bench.clock.advance(0)
    bench.take("create").answer({})
    bench.say()
    bench.say()
    bench.clock.pump([0, 10.1])
    patch = bench.take("patch")
    assert patch.args[2]["series"]["count"] == 3
    patch.fail(ApiError("gone", status=404))
    bench.clock.advance(10.1)
    created = bench.take("create")
    assert created.args[1]["metadata"]["name"] != patch.args[1]


def test_flush_sends_series_too_and_has_a_bound():
    bench = Bench()
    bench.say()
    bench.say()
    flushed = Deferred.fromCoroutine(bench.recorder.flush())
    bench.clock.advance(0)
    bench.take("create").answer({})
    bench.take("patch").answer({})
    assert flushed.called and len(bench.recorder) == 0

    bench.say("more")
    flushed = Deferred.fromCoroutine(bench.recorder.flush(5))
    bench.clock.advance(0)
    bench.take("create")
    bench.clock.advance(5)
    assert flushed.called
    bench.recorder.stop()
    bench.say("too late")
    bench.clock.advance(100)
    assert bench.kube.calls == [] and bench.clock.getDelayedCalls() == []
