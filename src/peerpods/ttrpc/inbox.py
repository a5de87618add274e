"""Received messages of one stream, waiting for the code that reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from peerpods.ttrpc.status import StatusError

M = TypeVar("M")

MAX_MESSAGES = 64
MAX_BYTES = 1 << 20


class Inbox(Generic[M]):
    """A queue with a mark.

    It never refuses: it calls `on_full` when it is over its mark and `on_room` when it is half empty again, and whoever
    feeds it stops reading in between. What one read from the socket holds can go over the mark.

    Args:
        decode: makes a message of its bytes; what it raises is what `receive` fails with.
    """

    def __init__(
        self,
        decode: Callable[[bytes], M],
        *,
        on_full: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._on_full = on_full
        self._on_room = on_room
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._full = False
        self._waiter: Deferred[M | None] | None = None
        self._ended = False
        self._error: StatusError | None = None

    def put(self, payload: bytes) -> None:
        """A message has arrived."""
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            self._deliver(waiter, payload)
            return
        self._items.append(payload)
        self._bytes += len(payload)
        if not self._full and (len(self._items) >= MAX_MESSAGES or self._bytes >= MAX_BYTES):
            self._full = True
            self._on_full()

    def end(self) -> None:
        """No more messages will arrive; `receive` gives None after those that have."""
        self._ended = True
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)

    def fail(self, error: StatusError) -> None:
        """The stream is broken: what has not been read is thrown away."""
        if self._error is not None:
            return
        self._error = error
        self.clear()
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.errback(error)

    def fail_after(self, error: StatusError) -> None:
        """The stream ended with an error that came after its messages: they are read first."""
        if self._items:
            self._error, self._ended = error, True
        else:
            self.fail(error)

    def clear(self) -> None:
        """Throw away what has not been read."""
        self._items.clear()
        self._bytes = 0
        self._room()

    def receive(self) -> Deferred[M | None]:
        """The next message; None at the end. One caller at a time."""
        if self._items:
            payload = self._items.popleft()
            self._bytes -= len(payload)
            self._room()
            ready: Deferred[M | None] = Deferred()
            self._deliver(ready, payload)
            return ready
        if self._error is not None:
            return fail(self._error)
        if self._ended:
            return succeed(None)
        if self._waiter is not None:
            raise RuntimeError("two receive calls at once on one stream")
        self._waiter = Deferred(self._cancelled)
        return self._waiter

    def _cancelled(self, _: Deferred[M | None]) -> None:
        self._waiter = None

    def _deliver(self, waiter: Deferred[M | None], payload: bytes) -> None:
        try:
            message = self._decode(payload)
        except StatusError as error:
            waiter.errback(error)
        else:
            waiter.callback(message)

    def _room(self) -> None:
        if self._full and len(self._items) <= MAX_MESSAGES // 2 and self._bytes <= MAX_BYTES // 2:
            self._full = False
            self._on_room()
