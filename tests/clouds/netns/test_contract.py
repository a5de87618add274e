"""The provider netns keeps the contract. Its instances run a stand-in for forwarder and agent."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor

from peerpods.clouds.netns.provider import NetnsProvider
from peerpods.clouds.netns.settings import NetnsSettings
from tests.contract.provider import ProviderContract, Subject
from tests.podnet.harness import Spaces

pytestmark = pytest.mark.root
STAND_IN = f"{sys.executable} -c 'import time; print(\"forwarder stands\", flush=True); time.sleep(600)'"


def settings(folder: Path) -> NetnsSettings:
    """Own folder; the network is the test's own, so the subnet cannot clash."""
    return NetnsSettings(subnet="10.118.0.0/24", instances_dir=str(folder / "i"), forwarder=STAND_IN, agent="sleep 600")


def kill(folder: Path, instance_id: str) -> None:
    """Its first process dies."""
    os.kill(json.loads((folder / "i" / instance_id / "instance.json").read_text())["pid"], signal.SIGKILL)


@pytest_twisted.async_yield_fixture
async def subject(tmp_path: Path) -> AsyncIterator[Subject]:
    spaces = Spaces(tmp_path)
    home = spaces.new("node")
    before = home.ip("-o link")
    chosen = settings(tmp_path)
    provider = NetnsProvider(chosen, reactor, home=str(home.path))
    await provider.start()

    async def end(instance_id: str) -> None:
        kill(tmp_path, instance_id)

    def wrong(**changes: Any) -> Any:
        return lambda: NetnsProvider(attrs.evolve(chosen, **changes), reactor, home=str(home.path))

    made = Subject(
        provider=provider,
        end=end,
        wrong=(("subnet", wrong(subnet="127.0.0.0/16")),),
        console_says=b"forwarder stands",
    )
    yield made
    await made.close()
    await provider.stop()
    assert home.ip("-o link") == before
    assert not (tmp_path / "i").exists()
    spaces.close()


class TestContract(ProviderContract):
    """All of it."""
