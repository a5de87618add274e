"""Writes to an object that others write too: read again, never another object, never for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peerpods.aio import spawn
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.conditions import condition
from peerpods.kube.objects.peerpod import DELETED, READY, PeerPodPhase, PeerPodView, parse
from peerpods.kube.objects.resources import PEER_PODS
from peerpods.kube.peerpod.facts import WriteStatus
from peerpods.kube.peerpod.writing import TRIES, delete_object, release, write_status
from tests.kube.peerpod.fakes import FakeKube
from tests.kube.peerpod.making import NOW, obj

WHAT = WriteStatus(phase=PeerPodPhase.DELETING, deleted=False, reason="CloudError", message="no", last_error="no")


class Room:
    """One object on a server, and our view of it as it was."""

    def __init__(self, **changes: Any) -> None:
        self.kube = FakeKube()
        stored = self.kube.put(PEER_PODS, obj(**{"deleting": 1, **changes}))
        self.view: PeerPodView = parse(stored)

    def now(self) -> PeerPodView | None:
        found = self.kube.objects.get((PEER_PODS.plural, self.view.key))
        return parse(found) if found else None

    def change(self, edit: Callable[[dict[str, Any]], Any]) -> None:
        found = self.kube.objects[PEER_PODS.plural, self.view.key]
        changed = {**found, "metadata": {**found["metadata"]}}
        edit(changed)
        self.kube.put(PEER_PODS, changed)

    def drop(self) -> None:
        self.kube.drop(PEER_PODS, self.view.name, self.view.namespace)

    def replace(self) -> None:
        self.drop()
        self.kube.put(PEER_PODS, obj(uid="another"))

    def fail(self, status: int, times: int = 1) -> None:
        self.kube.errors += [("patch", ApiError("x", status=status)) for _ in range(times)]


def result(coroutine: Any) -> Any:
    out: list[Any] = []
    spawn(coroutine).addBoth(lambda r: out.append(getattr(r, "value", r)))
    return out[0]


def test_a_status_over_anothers_change() -> None:
    ready = condition(READY, True, "Running", "", NOW - 9)
    room = Room()
    room.change(lambda o: o.update(status={"phase": "Running", "conditions": [ready]}))
    assert result(write_status(room.kube, room.view, WHAT, NOW)) is True
    seen = room.now()
    assert seen is not None and seen.phase == "Deleting" and seen.last_error == "no"
    assert (seen.condition(READY) or {})["status"] == "False" and (seen.condition(DELETED) or {})["status"] == "False"


def test_a_status_that_always_changes_is_given_up() -> None:
    room = Room()
    room.fail(409, TRIES)
    assert isinstance(result(write_status(room.kube, room.view, WHAT, NOW)), ApiError)
    assert not room.kube.errors


@pytest.mark.parametrize("how", ["drop", "replace"])
def test_a_status_of_an_object_that_is_gone(how: str) -> None:
    room = Room()
    getattr(room, how)()
    assert result(write_status(room.kube, room.view, WHAT, NOW)) is False
    seen = room.now()
    assert seen is None or seen.phase == ""


@pytest.mark.parametrize("status", [409, 422])
def test_a_release_that_meets_another_hand(status: int) -> None:
    room = Room()
    room.fail(status)
    assert result(release(room.kube, room.view)) is True and room.now() is None


def test_a_release_from_an_old_view() -> None:
    room = Room(finalizers=["peer.pod/finalizer", "theirs"])
    room.change(lambda o: o["metadata"].update(finalizers=["new", "theirs", "peer.pod/finalizer"]))
    assert result(release(room.kube, room.view)) is True
    seen = room.now()
    assert seen is not None and seen.finalizers == ("new", "theirs")


def test_a_release_that_another_has_done() -> None:
    room = Room(finalizers=["peer.pod/finalizer", "theirs"])
    room.change(lambda o: o["metadata"].update(finalizers=["theirs"]))
    assert result(release(room.kube, room.view)) is False


@pytest.mark.parametrize("how", ["drop", "replace"])
def test_a_release_of_an_object_that_is_gone(how: str) -> None:
    room = Room()
    getattr(room, how)()
    assert result(release(room.kube, room.view)) is False
    seen = room.now()
    assert seen is None or seen.held


@pytest.mark.parametrize(("status", "times"), [(403, 1), (0, 1), (422, TRIES)])
def test_a_release_that_the_server_does_not_take(status: int, times: int) -> None:
    room = Room()
    room.fail(status, times)
    assert isinstance(result(release(room.kube, room.view)), ApiError)
    assert not room.kube.errors


def test_a_look_that_fails_between_two_tries() -> None:
    room = Room()
    room.fail(422)
    room.kube.errors.append(("get", ApiError("away")))
    assert isinstance(result(release(room.kube, room.view)), ApiError)


@pytest.mark.parametrize("how", ["drop", "replace"])
def test_a_deletion_of_an_object_that_is_gone(how: str) -> None:
    room = Room(deleting=None)
    getattr(room, how)()
    assert result(delete_object(room.kube, room.view)) is None
    seen = room.now()
    assert seen is None or not seen.deleting


def test_a_deletion_that_the_server_does_not_take() -> None:
    room = Room(deleting=None)
    room.kube.errors.append(("delete", ApiError("no", status=403)))
    assert isinstance(result(delete_object(room.kube, room.view)), ApiError)
