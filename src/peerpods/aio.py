"""The only place where asyncio and Deferreds meet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def from_aio(awaitable: Awaitable[T]) -> Deferred[T]:
    """A Deferred with the result of an asyncio coroutine; needs the asyncio reactor.

    Cancelling the Deferred cancels the task; a cancelled task gives Twisted's CancelledError.
    """

    def mend(failure: Failure) -> Failure:
        if failure.check(asyncio.CancelledError):
            return Failure(CancelledError())
        return failure

    deferred: Deferred[T] = Deferred.fromFuture(asyncio.ensure_future(awaitable))
    deferred.addErrback(mend)  # type: ignore[arg-type]
    return deferred


def to_aio(deferred: Deferred[T]) -> asyncio.Future[T]:
    """An asyncio future with the result of a Deferred, to await inside an asyncio task."""
    return deferred.asFuture(asyncio.get_running_loop())


def spawn(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Start a coroutine that awaits Deferreds. The caller owns the result: return it, await it or add an errback."""
    return Deferred.fromCoroutine(coroutine)
