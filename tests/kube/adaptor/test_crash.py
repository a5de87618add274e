"""kill -9 of the adaptor at every step of a life in a cluster, requests to the API server included; then a restart."""

from __future__ import annotations

import pytest

from peerpods.kube.objects.names import FINALIZER
from peerpods.kube.objects.resources import PODS
from peerpods.model import Phase
from tests.adaptor.world import ID, Scene
from tests.faults.test_kill_everywhere import LIVES
from tests.kube.adaptor.fake import FakeServer, play_on


def watch_creates(scene: Scene, server: FakeServer) -> list[bool]:
    """At each create in the cloud: whether there is a PeerPod, finalizer and all."""
    seen: list[bool] = []
    provider = scene.adaptor.world.provider
    original = provider.create

    async def create(request):
        if not provider.crash.dead:
            seen.append(any(FINALIZER in obj["metadata"].get("finalizers", ()) for obj in server.peerpods()))
        return await original(request)

    provider.create = create
    return seen


def steps_of(tmp_path, play) -> list[str]:
    scene, server = play_on(tmp_path / "count")
    scene.start()
    seen = watch_creates(scene, server)
    play(scene)
    assert seen
    assert all(seen)
    steps = list(scene.adaptor.crash.steps)
    scene.kill()
    return steps


def finish(scene: Scene) -> None:
    """After the restart the pod is ended, if it still runs."""
    scene.advance(5)
    record = scene.adaptor.runner.sandboxes.get(ID)
    if record is not None and record.phase is Phase.RUNNING:
        scene.end().ok()
    elif record is not None and record.phase is Phase.PREPARED:
        scene.node.namespaces.clear()
    scene.advance(160)


@pytest.mark.parametrize("name", list(LIVES))
def test_a_kill_at_every_step_leaves_neither_vm_nor_object(tmp_path, name):
    play = LIVES[name]
    steps = steps_of(tmp_path, play)
    assert any(step.startswith("api create peerpods") for step in steps)
    for at in range(len(steps)):
        scene, server = play_on(tmp_path / f"{at}")
        scene.start(crash_at=at)
        seen = watch_creates(scene, server)
        play(scene)
        assert all(seen), (at, steps[at])
        if scene.cloud.instances:
            assert server.peerpods(), f"killed at {at}, {steps[at]}: a VM that no object names"
        scene.kill()
        scene.start()
        finish(scene)
        try:
            scene.nothing_left()
            assert not server.peerpods()
        except AssertionError as error:
            raise AssertionError(f"killed at step {at} of {name}, {steps[at]}: {error}") from error
        scene.kill()


@pytest.mark.parametrize("when", range(0, 40, 3))
def test_an_outage_at_any_moment_leaves_neither_vm_nor_object(tmp_path, when):
    scene, server = play_on(tmp_path)
    scene.start()
    for after, act in ((when / 4, lambda: setattr(server, "away", True)), (when / 4 + 7, server.come_back)):
        scene.clock.callLater(after, act)
    LIVES["slow"](scene)
    record = scene.adaptor.runner.sandboxes.get(ID)
    if record is not None and record.phase is not Phase.GONE:
        scene.end().ok()
    scene.advance(120)
    scene.nothing_left()
    assert not server.peerpods()


def test_the_end_is_caught_up_with_after_a_restart_with_the_api_server_away(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    scene.create()
    scene.advance(1)
    scene.begin()
    scene.advance(1)
    assert scene.phase() == "running"
    server.away = True
    scene.end().ok()
    scene.advance(10)
    scene.kill()
    server.watchers.clear()
    scene.start()
    scene.advance(10)
    assert scene.phase() == "gone"
    assert server.peerpods()
    server.come_back()
    scene.advance(40)
    assert not server.peerpods()


def test_a_node_whose_journal_was_lost_releases_its_objects_after_the_vms(tmp_path):
    scene, server = play_on(tmp_path / "first")
    scene.start()
    scene.create()
    scene.advance(1)
    scene.begin()
    scene.advance(1)
    scene.kill()
    server.watchers.clear()
    server.drop(PODS, "web", "lab")
    scene.state_dir = str(tmp_path / "second")
    scene.start()
    scene.advance(400)
    assert not scene.cloud.instances
    assert not server.peerpods()
