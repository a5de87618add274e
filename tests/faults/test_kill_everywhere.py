"""kill -9 of the adaptor before and after every step of create, start and stop, enumerated; then a restart.

The cloud, the relay and the network live outside the adaptor and survive. A step is a journal write, a read of secrets,
or a call to the outside; each is counted once before and once after its effect.
"""

from __future__ import annotations

import pytest

from peerpods.errors import CloudError, LinkError, LinkFailure
from peerpods.model import Phase
from tests.adaptor.world import ID, Scene


def life(scene: Scene) -> None:
    """Create, start, stop; each call is sent when the one before is answered, as a shim does."""
    create = scene.create()
    scene.advance(1)
    if not create.done:
        return
    start = scene.begin()
    scene.advance(5)
    if not start.done:
        return
    scene.end()
    scene.advance(20)


def troubled(scene: Scene) -> None:
    """A life in which things fail before they work."""
    scene.cloud.create_errors = [CloudError("throttled")]
    scene.cloud.delete_errors = [CloudError("internal error")]
    scene.node.link_errors = [LinkError("refused", kind=LinkFailure.REFUSED)]
    scene.cloud.console_text = b"panic\n"
    create = scene.create()
    scene.advance(1)
    if create.done:
        scene.begin()
        scene.advance(30)


def slow(scene: Scene) -> None:
    """A life in which everything takes its time, so that a kill leaves the cloud at work."""
    scene.cloud.create_delay = 3.0
    scene.cloud.address_delay = 2.0
    scene.cloud.delete_delay = 4.0
    scene.node.link_delay = 1.0
    create = scene.create()
    scene.advance(1)
    if not create.done:
        return
    start = scene.begin()
    scene.advance(10)
    if start.done:
        scene.end()
        scene.advance(20)


LIVES = {"plain": life, "troubled": troubled, "slow": slow}


def steps_of(tmp_path, play) -> list[str]:
    scene = Scene(str(tmp_path / "count"))
    scene.start()
    play(scene)
    steps = list(scene.adaptor.crash.steps)
    scene.kill()
    return steps


def finish(scene: Scene) -> None:
    """After a restart: nobody calls any more unless the pod runs. Then everything must end."""
    scene.advance(5)
    record = scene.adaptor.runner.sandboxes.get(ID)
    if record is not None and record.phase is Phase.RUNNING:
        # A pod whose StartVM may have been answered goes on, with all that it needs, until it is stopped.
        assert ID in scene.node.sockets
        assert ID in scene.node.links
        assert ID in scene.node.tunnels
        assert scene.cloud.instances
        scene.end().ok()
    elif record is not None and record.phase is Phase.PREPARED:
        assert ID in scene.node.sockets
        assert not scene.cloud.instances
        scene.node.namespaces.clear()
    scene.advance(150)


@pytest.mark.parametrize("name", list(LIVES))
def test_one_kill_at_every_step_leaks_nothing(tmp_path, name):
    play = LIVES[name]
    steps = steps_of(tmp_path, play)
    assert len(steps) >= 40, steps
    for at in range(len(steps)):
        scene = Scene(str(tmp_path / f"{at}"))
        scene.start(crash_at=at)
        play(scene)
        assert scene.adaptor.crash.dead, (at, steps[at])
        scene.kill()
        scene.start()
        finish(scene)
        try:
            scene.nothing_left()
            assert not scene.adaptor.runner.living()
        except AssertionError as error:
            raise AssertionError(f"killed at step {at} of {name}, {steps[at]}: {error}") from error
        assert scene.cloud.created <= 1
        scene.kill()


def test_a_second_kill_during_the_recovery_leaks_nothing(tmp_path):
    first_steps = steps_of(tmp_path, life)
    pairs = 0
    for first in range(len(first_steps)):
        second = 0
        while True:
            scene = Scene(str(tmp_path / f"{first}-{second}"))
            scene.start(crash_at=first)
            life(scene)
            scene.kill()
            scene.start(crash_at=second)
            scene.advance(30)
            reached = scene.adaptor.crash.dead
            scene.kill()
            scene.start()
            finish(scene)
            try:
                scene.nothing_left()
            except AssertionError as error:
                where = f"{first} ({first_steps[first]}) then {second}"
                raise AssertionError(f"killed at {where}: {error}") from error
            scene.kill()
            pairs += 1
            if not reached or second > 60:
                break
            second += 1
    assert pairs > 200


def test_kills_while_pods_run_touch_none_of_them(tmp_path):
    scene = Scene(str(tmp_path))
    scene.start()
    names = [f"{number:064d}" for number in range(5)]
    for name in names:
        scene.running(name)
    before = scene.leftovers()
    for _ in range(10):
        scene.kill()
        scene.start()
        scene.advance(3)
        assert scene.leftovers() == before
        assert {scene.phase(name) for name in names} == {"running"}
    for name in names:
        scene.end(name).ok()
    scene.advance(5)
    scene.nothing_left()
    scene.kill()
