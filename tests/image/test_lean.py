"""The imports of the VM's two services, as boot.py does them: lean, whole, and without a reactor."""

from __future__ import annotations

import subprocess
import sys

from peerpods.image.tree import GUEST

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import boot, lean
lean.install()
lean.install()
import podnetwork
boot.share_imports()
assert "twisted.internet.reactor" not in sys.modules, "a reactor was made before the fork"
import peerpods.agent.service
heavy = {"asyncio.events", "http.client", "email", "zipfile", "concurrent.futures._base", "pyroute2", "structlog"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from twisted.internet import defer, reactor
assert type(reactor).__name__ == "EPollReactor", reactor
async def answer():
    await defer.succeed(None)
    return 42
found = []
defer.ensureDeferred(answer()).addCallback(found.append)
defer.Deferred.fromCoroutine(answer()).addCallback(found.append)
assert found == [42, 42], found
"""


def test_the_vms_imports_are_lean_and_work() -> None:
    """Nothing that a VM never uses comes along, and coroutines run on Twisted as they should."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(GUEST)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_broken_network_child_is_told() -> None:
    """What the child says, or its silent end, becomes the forwarder's error."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import podnetwork\n"
        "from peerpods.errors import GuestError\n"
        "podnetwork.CONFIG = '/nonexistent/apf.json'\n"
        "try:\n    podnetwork.PodNetwork('/nonexistent/ns').wait(None, '')\n"
        "except GuestError as error:\n    assert 'not built' in str(error) and 'apf.json' in str(error), error\n"
        "else:\n    raise AssertionError('no error')\n"
        "podnetwork.os.write = lambda *_: 0\n"
        "try:\n    podnetwork.PodNetwork('/nonexistent/ns').wait(None, '')\n"
        "except GuestError as error:\n    assert 'was ended' in str(error), error\n"
        "else:\n    raise AssertionError('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(GUEST)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
