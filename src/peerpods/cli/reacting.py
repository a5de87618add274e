"""Runs one coroutine on the asyncio reactor for a command, and turns its end into an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_reactor(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run `work(reactor)` to its end and give its result or raise its error.

    SIGINT and SIGTERM cancel the coroutine, which then cleans up; a second one is taken by the reactor as usual.
    """
    from twisted.internet import asyncioreactor

    if "twisted.internet.reactor" not in sys.modules:
        asyncioreactor.install()
    from twisted.internet import reactor as any_reactor
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    reactor: Any = any_reactor
    results: list[Any] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(work(reactor))

        def interrupt(*_: Any) -> None:
            reactor.callFromThread(running.cancel)

        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)

        def done(result: Any) -> None:
            results.append(result)
            reactor.callLater(0, reactor.stop)

        running.addBoth(done)

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]


def fail(text: str, code: int = 125) -> None:
    """One line of reason on standard error, then the exit code of our own failures."""
    print(f"peerpods: {' '.join(text.splitlines())}", file=sys.stderr)
    sys.exit(code)
