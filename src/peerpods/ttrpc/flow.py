"""When a connection reads and when writers wait: the part of both shells that deals with slow peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

STALL = 1.0  # seconds that a full inbox may hold its connection before its stream is given up


class Flow:
    """Counts the reasons not to read, and keeps those who wait to write.

    Args:
        transport: a Twisted stream transport.
        reactor: for the bound on a stalled stream.
    """

    def __init__(self, transport: Any, reactor: IReactorTime) -> None:
        self._transport = transport
        self._reactor = reactor
        self._holds: set[object] = set()
        self._stalls: dict[object, IDelayedCall] = {}
        self._writers: list[Deferred[None]] = []
        self.choked = False
        """The transport's buffer is over its mark."""
        self.over = False

    def hold(self, reason: object) -> None:
        """Stop reading until `release(reason)`."""
        if not self._holds and not self.over:
            self._transport.pauseProducing()
        self._holds.add(reason)

    def release(self, reason: object) -> None:
        """Take back one reason; with none left, read again."""
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds and not self.over:
                self._transport.resumeProducing()

    def stall(self, stream: object, give_up: Callable[[], None]) -> None:
        """A stream's inbox is full: stop reading, and after STALL seconds without room call `give_up`."""
        self.hold(stream)
        self._stalls[stream] = self._reactor.callLater(STALL, give_up)

    def unstall(self, stream: object) -> None:
        """The stream has room, or is gone."""
        timer = self._stalls.pop(stream, None)
        if timer is not None and timer.active():
            timer.cancel()
        self.release(stream)

    def choke(self) -> None:
        """The transport has more to write than its mark."""
        self.choked = True

    def unchoke(self) -> None:
        """The transport has written what it had; those who wait go on."""
        self.choked = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.called:
                writer.callback(None)

    def ready(self) -> Deferred[None]:
        """Fires when the transport takes more, at once if it does now."""
        if not self.choked:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._writers.append(waiter)
        return waiter

    def end(self) -> None:
        """The connection is gone: stop every timer and let every writer see it."""
        self.over = True
        for timer in self._stalls.values():
            if timer.active():
                timer.cancel()
        self._stalls.clear()
        self.unchoke()
