"""Out-of-memory events: who was hit, told once a kill, to whoever polls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred

EVENTS_MAX = 64
WAITERS_MAX = 64


class OomQueue:
    """Events that nobody has fetched yet, and polls that nothing has answered yet. Never both."""

    def __init__(self) -> None:
        self._events: deque[str] = deque(maxlen=EVENTS_MAX)
        self._waiters: deque[Deferred[str]] = deque()
        self._seen: dict[str, int] = {}

    def look(self, container_id: str, count: Callable[[], int]) -> None:
        """Compare the kernel's count of kills with the last one; a higher one is an event."""
        kills = count()
        if kills > self._seen.get(container_id, 0):
            self._seen[container_id] = kills
            self._tell(container_id)

    def forget(self, container_id: str) -> None:
        """The container is gone; its untold events stay."""
        self._seen.pop(container_id, None)

    def _tell(self, container_id: str) -> None:
        if self._waiters:
            self._waiters.popleft().callback(container_id)
        else:
            self._events.append(container_id)

    def next(self) -> Deferred[str]:
        """Id of the next container hit. A cancelled poll takes no event with it; the oldest of too many polls fails."""
        waiter: Deferred[str] = Deferred(lambda d: self._waiters.remove(d))
        if self._events:
            waiter.callback(self._events.popleft())
            return waiter
        if len(self._waiters) >= WAITERS_MAX:
            self._waiters.popleft().errback(InterruptedError("another poll took this one's place"))
        self._waiters.append(waiter)
        return waiter

    def close(self, error: Exception) -> None:
        """Fail all polls."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.errback(error)
        self._events.clear()
