"""Waiting no longer than so long."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.interfaces import IReactorTime

from peerpods.aio import spawn
from peerpods.kube.client.errors import TIMEOUT, ApiError

T = TypeVar("T")


async def bounded(reactor: IReactorTime, coroutine: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
    """The coroutine's result; when it takes longer it is cancelled, and an ApiError without an answer is raised."""

    def late(_result: object, _timeout: float) -> Any:
        raise ApiError(f"cannot {what}: no answer within {seconds:g} s", reason=TIMEOUT)

    return await spawn(coroutine).addTimeout(seconds, reactor, onTimeoutCancel=late)
