"""A relay's control without its socket."""

import shutil
import tempfile

import pytest
import pytest_twisted


@pytest.fixture
def rig():
    # Not above: this file is read before pytest-twisted has chosen the reactor.
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, maybeDeferred

    from peerpods.relay.control import Control
    from tests.relay.peer import Rig

    folder = tempfile.mkdtemp(prefix="pp", dir="/tmp")
    events = []
    rig = Rig(Control(reactor, folder, 2.0, lambda event, links: events.append(event)), folder, events)
    yield rig

    async def end():
        for step in reversed(rig.ends):
            await maybeDeferred(lambda step=step: Deferred.fromCoroutine(wrap(step())))
        await rig.control.close_all()

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))
    shutil.rmtree(folder)


async def wrap(awaitable):
    if awaitable is not None:
        await awaitable
