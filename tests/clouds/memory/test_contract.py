"""The provider `memory` keeps the contract."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet import reactor

from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.clouds.memory.settings import MemorySettings
from tests.contract.provider import ProviderContract, Subject


@pytest_twisted.async_yield_fixture
async def subject() -> Any:
    provider = MemoryProvider(MemorySettings(), reactor)
    await provider.start()
    made = Subject(
        provider=provider,
        end=provider.die,
        requests_seen=lambda: sum(name == "create" for name, _ in provider.store.calls),
        console_says=b"listening on port",
    )
    yield made
    await made.close()
    await provider.stop()


class TestMemory(ProviderContract):
    """All of the contract."""
