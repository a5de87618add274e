"""The informer against the real API server: kills, expiry, a kind that comes later."""

from __future__ import annotations

import threading

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from peerpods.kube.client import Informer, PatchKind
from peerpods.kube.objects.resources import CONFIG_MAPS, CRDS, Resource
from tests.kube.client.real import client, until

ensure = pytest_twisted.ensureDeferred
MAPS = CONFIG_MAPS


class Shadow:
    """Replays changes strictly: one that is lost, doubled or out of order fails."""

    def __init__(self):
        self.held = {}
        self.wrong = []
        self.count = 0

    def __call__(self, change):
        self.count += 1
        have = self.held.get(change.key)
        right = {"added": have is None, "modified": have == change.old, "deleted": have == change.old}[change.kind]
        if not right or (change.kind == "modified" and change.old == change.new):
            self.wrong.append(change)
        if change.kind == "deleted":
            self.held.pop(change.key, None)
        else:
            self.held[change.key] = change.new


def shrink(found):
    return found["metadata"]["uid"], found["metadata"]["resourceVersion"], (found.get("data") or {}).get("n")


def truth(cluster, namespace):
    listed = cluster.must("GET", MAPS.path(namespace))
    return {f"{namespace}/{each['metadata']['name']}": shrink(each) for each in listed["items"]}


def write_some(cluster, namespace, prefix, count):
    """Create, change, delete, make anew."""
    for number in range(count):
        name = f"{prefix}{number}"
        cluster.must("POST", MAPS.path(namespace), {"metadata": {"name": name}, "data": {"n": "0"}})
        if number % 2:
            cluster.must("PATCH", MAPS.path(namespace, name), {"data": {"n": "1"}}, PatchKind.MERGE.value)
        if number % 3 == 0:
            cluster.must("DELETE", MAPS.path(namespace, name))
        if number % 6 == 0:
            cluster.must("POST", MAPS.path(namespace), {"metadata": {"name": name}, "data": {"n": "2"}})


async def follow(cluster, namespace):
    kube = await client(cluster)
    shadow = Shadow()
    informer = Informer(reactor, kube, MAPS, namespace=namespace, shrink=shrink, on_change=shadow)
    await informer.start()
    return kube, shadow, informer


@ensure
async def test_kill_and_restart_loses_and_doubles_nothing(cluster, namespace):
    write_some(cluster, namespace, "before", 12)
    kube, shadow, informer = await follow(cluster, namespace)
    assert dict(informer.store) == truth(cluster, namespace) == shadow.held
    before = shadow.count
    await deferToThread(write_some, cluster, namespace, "live", 12)
    await until(lambda: dict(informer.store) == truth(cluster, namespace))
    assert shadow.count > before
    await deferToThread(cluster.stop_apiserver, kill=True)
    await deferToThread(cluster.start_apiserver)
    cluster.must("PATCH", MAPS.path(namespace, "before1"), {"data": {"n": "back"}}, PatchKind.MERGE.value)
    took = await until(lambda: informer.store[f"{namespace}/before1"][2] == "back")
    print(f"\ncaught up {took:.2f} s after the server was back")
    await deferToThread(write_some, cluster, namespace, "after", 12)
    wanted = truth(cluster, namespace)
    await until(lambda: dict(informer.store) == wanted)
    assert shadow.held == wanted and shadow.wrong == []
    informer.stop()
    await kube.close()


@ensure
async def test_writes_go_on_while_the_server_is_killed(cluster, namespace):
    kube, shadow, informer = await follow(cluster, namespace)
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            try:
                write_some(cluster, namespace, f"w{number}-", 3)
            except (OSError, AssertionError):
                stop.wait(0.05)

    writer = deferToThread(write)
    await until(lambda: shadow.count > 20)
    await deferToThread(cluster.restart_apiserver, kill=True)
    count = shadow.count
    await until(lambda: shadow.count > count + 20)
    stop.set()
    await writer
    wanted = truth(cluster, namespace)
    await until(lambda: dict(informer.store) == wanted)
    assert shadow.held == wanted and shadow.wrong == []
    informer.stop()
    await kube.close()


@ensure
async def test_a_watch_that_is_too_old_is_listed_anew_with_differences_only(cluster, namespace):
    write_some(cluster, namespace, "m", 6)
    kube, shadow, informer = await follow(cluster, namespace)
    count = shadow.count
    other = cluster.create_namespace(f"{namespace}-other")
    for number in range(3):
        # What others write makes our version old without telling us.
        cluster.must("POST", MAPS.path(other), {"metadata": {"name": f"x{number}"}})
    await deferToThread(cluster.expire_watches)
    cluster.must("PATCH", MAPS.path(namespace, "m1"), {"data": {"n": "new"}}, PatchKind.MERGE.value)
    await until(lambda: informer.store[f"{namespace}/m1"][2] == "new")
    assert informer._core.reason == "expired", "the watch could not be resumed"
    assert shadow.count == count + 1 and shadow.wrong == []
    informer.stop()
    await kube.close()


@ensure
async def test_a_kind_that_is_installed_later_comes_right_by_itself(cluster, namespace):
    group = f"later-{namespace}.example.org"
    kind = Resource(group, "v1", "things", "Thing")
    kube = await client(cluster)
    informer = Informer(reactor, kube, kind, on_change=lambda change: None)
    started = informer.start()
    await until(lambda: informer.last_contact is None and informer._complaint is not None)
    assert informer._complaint[0] == 404 and not started.called
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    await kube.create(
        CRDS,
        {
            "metadata": {"name": f"things.{group}"},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
            },
        },
    )
    await started
    await kube.create(kind, {"metadata": {"name": "one"}}, namespace)
    await until(lambda: f"{namespace}/one" in informer.store)
    informer.stop()
    await kube.delete(CRDS, f"things.{group}")
    await kube.close()


@ensure
async def test_selectors_show_what_enters_and_leaves_them(cluster, namespace):
    kube = await client(cluster)
    kinds = []
    informer = Informer(
        reactor,
        kube,
        MAPS,
        namespace=namespace,
        labels="watched=yes",
        on_change=lambda change: kinds.append(change.kind),
    )
    await informer.start()
    await kube.create(MAPS, {"metadata": {"name": "one", "labels": {"watched": "no"}}}, namespace)
    for value in ("yes", "no", "yes"):
        patch = {"metadata": {"labels": {"watched": value}}}
        await kube.patch(MAPS, "one", patch, namespace, kind=PatchKind.MERGE)
    await until(lambda: len(kinds) == 3)
    assert kinds == ["added", "deleted", "added"]
    informer.stop()
    await kube.close()


@ensure
async def test_stop_closes_the_watch_at_once(cluster, namespace):
    kube, _, informer = await follow(cluster, namespace)
    informer.stop()
    assert informer._run.called, "in the very turn"
    await kube.close()
