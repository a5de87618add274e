"""Nothing here imports a reactor: pytest installs one after it has read this file."""

import pytest


@pytest.fixture
def world(tmp_path):
    """A forwarder on loopback with a scripted agent; see `world.World`."""
    import pytest_twisted
    from twisted.internet.defer import Deferred

    from tests.forwarder.world import World

    made = World(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
