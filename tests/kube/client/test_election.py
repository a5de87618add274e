"""The election's shell on a clock: deadlines hold even when requests hang."""

from __future__ import annotations

import time

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.kube.client import ApiError, LeaderElection
from peerpods.kube.client.pause import steady
from peerpods.obs import log
from tests.kube.client.fakes import HandKube


class Server:
    """One Lease; can be switched to hang or to refuse."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.mode = "well"
        self.writes = 0

    def __call__(self, call):
        if self.mode == "refuse":
            raise ApiError("refused", reason="ConnectionRefused", sent=False)
        if call.verb == "get":
            if self.lease is None:
                raise ApiError("no", status=404)
            return self.lease
        body = call.args[1]
        known = body["metadata"].get("resourceVersion")
        current = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if known != current:
            raise ApiError("no", status=409, reason="Conflict" if known else "AlreadyExists")
        self.version += 1
        self.writes += 1
        self.lease = {"metadata": {**body["metadata"], "resourceVersion": str(self.version)}, "spec": body["spec"]}
        return self.lease


class HangingKube(HandKube):
    """Answers by the script, or never."""

    def __getattr__(self, verb):
        inner = super().__getattr__(verb)

        async def method(*args, **more):
            if self.script.mode == "hang":
                await Deferred()
            return await inner(*args, **more)

        return method


def make(server, clock, identity, stopped=lambda: None):
    log = []

    def on_stopped():
        log.append(("stopped", clock.seconds()))
        return stopped()

    election = LeaderElection(
        clock,
        HangingKube(server),
        name="lock",
        namespace="ns",
        identity=identity,
        on_started=lambda: log.append(("started", clock.seconds())),
        on_stopped=on_stopped,
    )
    return election, log


def run(clock, seconds):
    for _ in range(int(seconds * 10)):
        clock.advance(0.1)


def test_it_leads_and_renews_without_reading():
    server, clock = Server(), Clock()
    election, log = make(server, clock, "a")
    election.start()
    assert log == [("started", 0)] and election.leading and election.holder == "a"
    run(clock, 60)
    assert len(log) == 1 and 25 <= server.writes <= 32
    Deferred.fromCoroutine(election.stop())
    assert server.lease["spec"]["holderIdentity"] == "" and len(log) == 2
    assert clock.getDelayedCalls() == []


def test_it_stops_in_time_when_requests_hang_and_before_another_starts():
    server, clock = Server(), Clock()
    first, log = make(server, clock, "a")
    first.start()
    other_server_view = make(server, clock, "b")
    second, second_log = other_server_view
    second.start()
    run(clock, 5)
    renewed = clock.seconds()
    server.mode = "hang"
    run(clock, 12)
    assert log[-1][0] == "stopped" and log[-1][1] <= renewed + 10.1
    assert not first.leading
    server.mode = "well"
    first._stopped = True
    first._run.cancel()
    run(clock, 16)
    assert second_log[0][0] == "started" and second_log[0][1] > log[-1][1]


def test_a_refused_renewal_is_no_loss_until_the_deadline():
    server, clock = Server(), Clock()
    election, log = make(server, clock, "a")
    election.start()
    run(clock, 4)
    server.mode = "refuse"
    run(clock, 7)
    assert election.leading
    server.mode = "well"
    run(clock, 20)
    assert election.leading and len(log) == 1


def test_somebodys_change_to_the_lease_is_no_loss():
    server, clock = Server(), Clock()
    election, log = make(server, clock, "a")
    election.start()
    server.version += 1
    server.lease = {
        **server.lease,
        "metadata": {**server.lease["metadata"], "resourceVersion": "77", "labels": {"x": "y"}},
    }
    run(clock, 5)
    assert election.leading and len(log) == 1 and server.lease["metadata"]["labels"] == {"x": "y"}


def test_a_lease_that_another_took_is_noticed_at_the_next_renewal():
    server, clock = Server(), Clock()
    election, log = make(server, clock, "a")
    election.start()
    taken = {"holderIdentity": "thief", "leaseDurationSeconds": 15}
    server.lease = {"metadata": {**server.lease["metadata"], "resourceVersion": "99"}, "spec": taken}
    run(clock, 2.5)
    assert log[-1][0] == "stopped" and log[-1][1] <= 2.1 and election.holder == "thief"


def test_two_that_see_a_free_lease_are_one_leader():
    server, clock = Server(), Clock()
    people = [make(server, clock, name) for name in "abc"]
    for election, _ in people:
        election.start()
    run(clock, 30)
    assert sum(election.leading for election, _ in people) == 1
    assert sum(len(log) for _, log in people) == 1


def test_release_waits_for_the_work_to_end_but_not_for_ever():
    server, clock = Server(), Clock()
    ending = Deferred()
    election, _ = make(server, clock, "a", stopped=lambda: ending)
    election.start()
    run(clock, 1)
    stopped = Deferred.fromCoroutine(election.stop())
    run(clock, 5)
    assert server.lease["spec"]["holderIdentity"] == "a" and not election.leading
    ending.callback(None)
    assert server.lease["spec"]["holderIdentity"] == "" and stopped.called

    election, _ = make(server, clock, "b", stopped=lambda: Deferred())
    election.start()
    run(clock, 3)
    stopped = Deferred.fromCoroutine(election.stop())
    run(clock, 11)
    assert stopped.called and server.lease["spec"]["holderIdentity"] == ""


def test_a_callback_that_fails_is_survived():
    server, clock = Server(), Clock()

    def broken():
        raise KeyError("mine")

    election, log = make(server, clock, "a", stopped=broken)
    election._on_started = broken
    election.start()
    assert election.leading
    Deferred.fromCoroutine(election.stop())
    assert log[-1][0] == "stopped" and server.lease["spec"]["holderIdentity"] == ""


def test_a_namespace_that_is_not_there_is_said():
    said = []
    before = log._State.sink
    log.set_sink(lambda level, event, fields: said.append((level, event, fields.get("error"))))
    try:

        def nowhere(call):
            what = "leases" if call.verb == "get" else "namespaces"
            raise ApiError(f'{what} "ns" not found', status=404)

        nowhere.mode = "well"
        clock = Clock()
        election, told = make(nowhere, clock, "a")
        election.start()
        run(clock, 10)
        assert said == [("warning", "election_failed", 'namespaces "ns" not found')] and told == []
        Deferred.fromCoroutine(election.stop())
    finally:
        log.set_sink(before)


def test_stop_before_leading_writes_nothing():
    server, clock = Server(), Clock()
    make(server, clock, "a")[0].start()
    second, log = make(server, clock, "b")
    second.start()
    writes = server.writes
    Deferred.fromCoroutine(second.stop())
    assert log == [] and server.writes == writes


def test_the_clock_on_the_wall_does_not_make_a_leader(monkeypatch):
    """Twisted's reactors read the wall clock; a leader whose machine's time is set back leads no longer for that."""

    class WallReactor(Clock):
        seconds = staticmethod(time.time)

        def callLater(self, *args):
            return super().callLater(*args)

    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    election, _ = make(Server(), WallReactor(), "a")
    election.start()
    assert election.leading
    now[0] += 10.1
    assert not election.leading


def test_a_clock_of_a_test_is_taken_as_it_is():
    clock = Clock()
    clock.advance(7)
    assert steady(clock)() == 7
