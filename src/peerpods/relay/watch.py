"""Who is told what happens: bounded queues, one per watcher."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred

from peerpods.protocols import relay_pb2
from peerpods.ttrpc import Code, Status, StatusError

QUEUE = 4096
"""Events kept for a slow watcher; one more and it is cut off (it may watch anew, and list)."""
MAX_WATCHERS = 16
Event = relay_pb2.WatchEvent


class Watchers:
    """All open watches."""

    def __init__(self, limit: int = QUEUE) -> None:
        self._limit = limit
        self._open: set[_Watch] = set()

    def __len__(self) -> int:
        return len(self._open)

    def publish(self, event: Event) -> None:
        """Tell every watcher. Never blocks."""
        for watch in list(self._open):
            watch.put(event)

    async def serve(self, send: Callable[[Event], Awaitable[None]]) -> None:
        """Serve one watcher until it goes away or is too slow.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, when it is too slow or there are too many.
        """
        if len(self._open) >= MAX_WATCHERS:
            raise StatusError(Status(Code.RESOURCE_EXHAUSTED, f"more than {MAX_WATCHERS} watchers"))
        watch = _Watch(self._limit)
        self._open.add(watch)
        try:
            await send(Event(kind=Event.READY))
            while True:
                await send(await watch.get())
        finally:
            self._open.discard(watch)


class _Watch:
    """One watcher's queue."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._wanted: Deferred[None] | None = None
        self._cut = False

    def put(self, event: Event) -> None:
        """Add an event, or mark the watcher as too slow."""
        if len(self._events) >= self._limit:
            self._cut = True
            self._events.clear()
        else:
            self._events.append(event)
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.callback(None)

    async def get(self) -> Event:
        """The next event, when there is one."""
        while not self._events and not self._cut:
            self._wanted = Deferred()
            await self._wanted
        if self._cut:
            text = f"the watcher is more than {self._limit} events behind: watch anew and list"
            raise StatusError(Status(Code.RESOURCE_EXHAUSTED, text))
        return self._events.popleft()
