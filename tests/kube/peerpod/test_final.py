"""Our own end while the installation goes: nothing may hang on a finalizer that nobody would take off any more."""

from __future__ import annotations

from typing import Any

import pytest

from peerpods.aio import spawn
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.resources import CRDS, DEPLOYMENTS, NAMESPACES
from peerpods.kube.peerpod.facts import Ending
from peerpods.kube.peerpod.final import Around, finish, look_around
from peerpods.obs import log
from tests.kube.peerpod.fakes import World
from tests.kube.peerpod.making import SANDBOX, obj

GOING = {"deletionTimestamp": "2023-11-14T22:13:20Z", "finalizers": ["x"]}
OTHER = "f" * 64


def installed(world: World, *, namespace: bool = False, crd: bool = False, deployment: bool = False) -> World:
    name = world.settings.namespace
    world.kube.put(NAMESPACES, {"metadata": {"name": name, "uid": "ns", **(GOING if namespace else {})}})
    crd_name = "peerpods.confidentialcontainers.org"
    world.kube.put(CRDS, {"metadata": {"name": crd_name, "uid": "crd", **(GOING if crd else {})}})
    if not deployment:
        world.kube.put(DEPLOYMENTS, {"metadata": {"name": "peerpod-ctrl", "namespace": name, "uid": "d"}})
    return world


def look(world: World, *, had: bool = True) -> Around:
    found: list[Any] = []
    spawn(look_around(world.kube, world.settings, had_deployment=had)).addBoth(found.append)
    assert isinstance(found[0], Around)
    return found[0]


@pytest.mark.parametrize(
    ("going", "had", "ending"),
    [
        ({}, True, Ending.NONE),
        ({"deployment": True}, True, Ending.CONTROLLER),
        ({"deployment": True}, False, Ending.NONE),
        ({"namespace": True}, True, Ending.INSTALLATION),
        ({"crd": True}, True, Ending.INSTALLATION),
    ],
)
def test_what_goes(going: dict[str, bool], had: bool, ending: Ending) -> None:
    assert look(installed(World(), **going), had=had).ending is ending


def test_what_the_server_does_not_tell_counts_as_staying() -> None:
    world = installed(World(), namespace=True)
    world.kube.errors += [("get", ApiError("forbidden", status=403)) for _ in range(3)]
    assert look(world).ending is Ending.NONE


class Ended:
    """Runs `finish` and keeps what is logged."""

    def __init__(self, world: World, around: Around) -> None:
        self.world = world
        self.done: list[Any] = []
        self.lines: list[tuple[str, dict[str, Any]]] = []
        log.set_sink(lambda _level, event, fields: self.lines.append((event, fields)))
        work = finish(world.clock, world.controller, around, world.settings, lambda key: world.queue.add(key))
        spawn(work).addBoth(self.done.append)

    def after(self, seconds: float) -> list[str]:
        self.world.run(seconds)
        return [event for event, _ in self.lines]


@pytest.fixture(autouse=True)
def _logs() -> Any:
    yield
    log.set_sink(log.plain_sink())


def test_the_namespace_goes_every_vm_goes_first() -> None:
    world = installed(World(), namespace=True)
    running = world.add(obj(instance_id=world.instance(SANDBOX), phase="Running"))
    dying = world.add(obj(sandbox=OTHER, pod="b", uid="pp-2", instance_id=world.instance(OTHER), deleting=10))
    ended = Ended(world, Around(namespace=True))
    events = ended.after(40)
    assert ended.done == [None] and not world.cloud.records
    assert world.peer_pod(running) is None and world.peer_pod(dying) is None
    assert events[-1] == "end_finished" and "peer_pod_left" not in events


def test_only_the_controller_goes_running_pods_stay() -> None:
    world = installed(World(), deployment=True)
    vm = world.instance(SANDBOX)
    running = world.add(obj(instance_id=vm, phase="Running"))
    dying = world.add(obj(sandbox=OTHER, pod="b", uid="pp-2", instance_id=world.instance(OTHER), deleting=10))
    ended = Ended(world, Around(deployment=True))
    events = ended.after(25)
    assert ended.done == [None] and set(world.cloud.records) == {vm}
    assert world.peer_pod(running) is not None and world.peer_pod(dying) is None
    assert "peer_pods_without_controller" in events


def test_a_vm_that_cannot_be_deleted_is_named_and_its_object_let_go() -> None:
    world = installed(World(), crd=True)
    world.faults.delete_errors = 10**6
    vm = world.instance(SANDBOX)
    key = world.add(obj(instance_id=vm, deleting=0))
    ended = Ended(world, Around(crd=True))
    ended.after(239)
    assert ended.done == [] and world.peer_pod(key) is not None
    ended.after(5)
    assert ended.done == [None] and world.peer_pod(key) is None and vm in world.cloud.records
    (note,) = [note for kind, reason, note in world.told.events if reason == "VMMayBeLeft"]
    assert vm in note and SANDBOX in note


def test_only_the_controller_goes_and_a_deletion_fails() -> None:
    world = installed(World(), deployment=True)
    world.faults.delete_errors = 10**6
    vm = world.instance(SANDBOX)
    key = world.add(obj(instance_id=vm, deleting=0))
    unknown = world.add(obj(sandbox=OTHER, pod="b", uid="pp-2", provider="gcp", deleting=0))
    ended = Ended(world, Around(deployment=True))
    events = ended.after(250)
    assert ended.done == [None]
    assert world.peer_pod(key) is not None, "the cloud works: another controller will do it"
    assert world.peer_pod(unknown) is None, "no controller of ours can"
    left = [fields for event, fields in ended.lines if event == "peer_pod_left"]
    assert len(left) == 1 and vm in left[0]["vm"] and "--force" in left[0]["remedy"] and events


def test_without_the_right_to_write_it_says_what_is_left() -> None:
    world = installed(World(), namespace=True)
    key = world.add(obj(provider="gcp", deleting=0))
    world.kube.errors += [("patch", ApiError("forbidden", status=403)) for _ in range(10**4)]
    ended = Ended(world, Around(namespace=True))
    events = ended.after(250)
    assert ended.done == [None] and world.peer_pod(key) is not None
    assert {"not_released", "peer_pod_left"} <= set(events)
