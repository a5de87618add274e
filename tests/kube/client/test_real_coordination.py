"""Leases and events on the real API server."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from peerpods.kube.client import EventRecorder, LeaderElection, PatchKind
from peerpods.kube.objects.resources import CONFIG_MAPS, EVENTS, LEASES, NAMESPACES, NODES
from tests.kube.client.real import client, until, wait

ensure = pytest_twisted.ensureDeferred


class Candidate:
    def __init__(self, kube, namespace, identity, **terms):
        self.log = []
        self.election = LeaderElection(
            reactor,
            kube,
            name="lock",
            namespace=namespace,
            identity=identity,
            on_started=lambda: self.log.append("started"),
            on_stopped=lambda: self.log.append("stopped"),
            **{"duration": 8.0, "renew": 6.0, "retry": 0.3, **terms},
        )


@ensure
async def test_one_leads_hands_over_at_stop_and_is_succeeded_when_it_dies(cluster, namespace):
    kube = await client(cluster)
    people = [Candidate(kube, namespace, f"person-{number}") for number in range(3)]
    for each in people:
        each.election.start()
    await until(lambda: any(each.election.leading for each in people))
    await wait(3.5)
    leaders = [each for each in people if each.election.leading]
    assert len(leaders) == 1 and sum(len(each.log) for each in people) == 1, "nobody else tried to lead meanwhile"
    (first,) = leaders
    lease = await kube.get(LEASES, "lock", namespace)
    assert lease["spec"]["holderIdentity"] == first.election._identity
    assert lease["spec"]["leaseTransitions"] == 0 and lease["spec"]["leaseDurationSeconds"] == 8
    await first.election.stop()
    assert first.log == ["started", "stopped"]
    rest = [each for each in people if each is not first]
    took = await until(lambda: any(each.election.leading for each in rest))
    assert took < 6.0, "a released lease is taken before its time is over"
    (second,) = [each for each in rest if each.election.leading]
    lease = await kube.get(LEASES, "lock", namespace)
    assert lease["spec"]["leaseTransitions"] == 1
    # Dies: no more renewals, no release.
    second.election._stopped = True
    second.election._run.cancel()
    (third,) = [each for each in rest if each is not second]
    took = await until(lambda: third.election.leading)
    assert took > 0.5
    assert second.log == ["started", "stopped"], "it stopped by itself before another took over"
    assert not second.election.leading
    await third.election.stop()
    await second.election.stop()
    await kube.close()


@ensure
async def test_a_leader_whose_lease_is_taken_stops_at_its_next_look(cluster, namespace):
    kube = await client(cluster)
    one = Candidate(kube, namespace, "one")
    one.election.start()
    await until(lambda: one.election.leading)
    other = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
    await kube.patch(LEASES, "lock", other, namespace, kind=PatchKind.MERGE)
    assert await until(lambda: one.log == ["started", "stopped"]) < 5.0, "not only when its time is over"
    await one.election.stop()
    assert (await kube.get(LEASES, "lock", namespace))["spec"]["holderIdentity"] == "thief"
    await kube.close()


@ensure
async def test_a_leader_cut_off_from_the_server_stops_in_time_and_leads_again_later(cluster, namespace):
    kube = await client(cluster)
    one = Candidate(kube, namespace, "one", renew=2.0)
    one.election.start()
    await until(lambda: one.election.leading)
    await deferToThread(cluster.stop_apiserver, kill=True)
    assert await until(lambda: one.log == ["started", "stopped"]) < 8.0, "before another may lead"
    await deferToThread(cluster.start_apiserver)
    await until(lambda: one.election.leading)
    await one.election.stop()
    assert (await kube.get(LEASES, "lock", namespace))["spec"]["holderIdentity"] == ""
    await kube.close()


async def events_of(kube, namespace, name):
    found, _ = await kube.list(EVENTS, namespace, limit=500)
    return [each for each in found if each["regarding"]["name"] == name]


@ensure
async def test_equal_events_become_one_series(cluster, namespace):
    kube = await client(cluster)
    pod = await kube.create(CONFIG_MAPS, {"metadata": {"name": "thing"}}, namespace)
    recorder = EventRecorder(reactor, kube, component="example.org/test", instance="node-1")
    for _ in range(7):
        recorder.event(pod, "Warning", "PeerPodSlow", "it takes long", action="Launching")
    recorder.event(pod, "Normal", "PeerPodReady", "€" * 2000)
    await recorder.flush()
    found = {each["reason"]: each for each in await events_of(kube, namespace, "thing")}
    assert set(found) == {"PeerPodSlow", "PeerPodReady"}
    slow, ready = found["PeerPodSlow"], found["PeerPodReady"]
    assert slow["series"]["count"] == 7 and slow["type"] == "Warning" and slow["action"] == "Launching"
    assert slow["regarding"]["uid"] == pod["metadata"]["uid"] and slow["regarding"]["kind"] == "ConfigMap"
    assert slow["reportingController"] == "example.org/test" and slow["reportingInstance"] == "node-1"
    assert "series" not in ready
    assert len(ready["note"].encode()) <= 1024 and ready["note"].endswith("€…")
    recorder.stop()
    await kube.close()


@pytest.mark.needs_kube(1, 23, reason="older ones want events about cluster-scoped objects in kube-system")
@ensure
async def test_events_about_nodes_are_in_default(cluster, namespace):
    kube = await client(cluster)
    recorder = EventRecorder(reactor, kube, component="example.org/test", instance="i")
    recorder.event(
        {"apiVersion": "v1", "kind": NODES.kind, "name": f"node-{namespace}", "uid": "u"}, "Normal", "Seen", "a node"
    )
    await recorder.flush()
    assert len(await events_of(kube, "default", f"node-{namespace}")) == 1
    recorder.stop()
    await kube.close()


@ensure
async def test_events_wait_for_a_server_that_is_away(cluster, namespace):
    kube = await client(cluster)
    thing = await kube.create(CONFIG_MAPS, {"metadata": {"name": "thing"}}, namespace)
    recorder = EventRecorder(reactor, kube, component="example.org/test", instance="i")
    await deferToThread(cluster.stop_apiserver, kill=True)
    for number in range(5):
        recorder.event(thing, "Warning", "PeerPodFailed", f"reason {number}")
    await wait(2)
    await deferToThread(cluster.start_apiserver)
    await recorder.flush(30)
    notes = sorted(each["note"] for each in await events_of(kube, namespace, "thing"))
    assert notes == [f"reason {number}" for number in range(5)]
    recorder.stop()
    await kube.close()


@ensure
async def test_events_of_a_namespace_that_goes_are_dropped_and_hold_nothing_up(cluster):
    kube = await client(cluster)
    name = cluster.create_namespace("events-end")
    keep = {"metadata": {"name": "keep", "finalizers": ["example.org/hold"]}}
    held = await kube.create(CONFIG_MAPS, keep, name)
    other = await kube.create(CONFIG_MAPS, {"metadata": {"name": "other-thing"}}, "default")
    await kube.delete(NAMESPACES, name)
    recorder = EventRecorder(reactor, kube, component="example.org/test", instance="i")
    recorder.event(held, "Normal", "Last", "words")
    recorder.event({**held, "metadata": {**held["metadata"], "namespace": "never-was"}}, "Normal", "Last", "words")
    recorder.event(other, "Normal", "First", "words")
    await recorder.flush()
    assert len(await events_of(kube, "default", "other-thing")) == 1
    assert len(recorder) == 0
    recorder.stop()
    await kube.patch(CONFIG_MAPS, "keep", {"metadata": {"finalizers": None}}, name, kind=PatchKind.MERGE)
    await kube.delete(CONFIG_MAPS, "other-thing", "default")
    await kube.close()
