"""The one bridge between asyncio and Deferreds."""

from __future__ import annotations

import asyncio

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from peerpods.aio import from_aio, spawn, to_aio


@pytest_twisted.ensureDeferred
async def test_results_cross_both_ways():
    inner: Deferred[int] = Deferred()

    async def asyncio_side() -> int:
        await asyncio.sleep(0)
        return await to_aio(inner) + 1

    outer = from_aio(asyncio_side())
    inner.callback(41)
    assert await outer == 42


@pytest_twisted.ensureDeferred
async def test_errors_cross():
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await from_aio(fails())


@pytest_twisted.ensureDeferred
async def test_a_cancelled_deferred_cancels_the_task_and_speaks_twisted():
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    waiting = from_aio(waits())
    await from_aio(asyncio.sleep(0))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await from_aio(asyncio.sleep(0))
    assert ended == ["cancelled"]


@pytest_twisted.ensureDeferred
async def test_spawn_gives_a_coroutines_result():
    async def work() -> str:
        return "done"

    assert await spawn(work()) == "done"
