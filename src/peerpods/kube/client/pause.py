"""Waiting on the reactor, cancellable."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")
SLICE = 0.01
"""Seconds of work after which others get a turn."""


def steady(reactor: Any) -> Callable[[], float]:
    """A clock that nobody sets.

    Twisted's reactors read the wall clock (`time.time`) unless told otherwise: when that is set back, they believe that
    time has stood still. A test's clock is taken as it is.
    """
    seconds: Callable[[], float] = reactor.seconds
    return time.monotonic if seconds is time.time else seconds


def sleep(reactor: Any, seconds: float) -> Deferred[None]:
    """A Deferred that fires after so many seconds; cancelling it stops the timer."""
    slept: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = reactor.callLater(seconds, slept.callback, None)
    return slept


async def in_slices(reactor: Any, items: Iterable[T]) -> AsyncIterator[T]:
    """The items, with a turn of the reactor in between whenever 10 ms have gone."""
    until = time.perf_counter() + SLICE
    for item in items:
        yield item
        if time.perf_counter() >= until:
            await sleep(reactor, 0)
            until = time.perf_counter() + SLICE
