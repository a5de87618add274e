"""Which key is worked on when. Pure: the time goes in, keys come out.

Rules: one worker at a time for a key; a key added while it is worked on runs once more afterwards; one added many
times waits once; a failure puts a key back, later each time; a success forgets its failures.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from peerpods.kube.client.backoff import delay_after

CALM = 1.0
"""Seconds for which at most a key that failed is held back when it is added anew: a worker that changes the very object
it is called for must not turn in circles, but a user's mending must not wait for the whole back-off."""


class Schedule:
    """Keys that wait, keys that are ready, keys in work."""

    def __init__(self, base: float, cap: float, random: Callable[[], float]) -> None:
        self._base = base
        self._cap = cap
        self._random = random
        self._ready: deque[str] = deque()
        self._dirty: set[str] = set()
        """Keys that are ready, or are to run again when their worker is done."""
        self._running: set[str] = set()
        self._due: dict[str, float] = {}
        """Key to the time at which it becomes ready; the heap may hold older entries."""
        self._heap: list[tuple[float, str]] = []
        self._failures: dict[str, int] = {}
        self._calm: dict[str, float] = {}
        """Key to the time before which it does not run again after a failure."""

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing is ready or in work; keys may wait for their time."""
        return not self._dirty and not self._running

    @property
    def running(self) -> int:
        """How many keys are in work."""
        return len(self._running)

    def failures_of(self, key: str) -> int:
        """How often in a row a key failed."""
        return self._failures.get(key, 0)

    def add(self, key: str, now: float, delay: float = 0.0) -> None:
        """Run a key, at once or after `delay` seconds; an earlier time that is set already stays."""
        at = max(now + delay, self._calm.get(key, now))
        if at <= now:
            self._mark(key)
        elif key not in self._dirty and at < self._due.get(key, at + 1):
            self._due[key] = at
            heapq.heappush(self._heap, (at, key))

    def _mark(self, key: str) -> None:
        self._due.pop(key, None)
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._running:
            self._ready.append(key)

    def next_at(self) -> float | None:
        """When the next waiting key becomes ready; None when none waits."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> str | None:
        """A key to work on, or None. Call `done` or `failed` for it afterwards."""
        while True:
            at = self.next_at()
            if at is None or at > now:
                break
            _, key = heapq.heappop(self._heap)
            self._mark(key)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._running.add(key)
        return key

    def done(self, key: str, now: float, again: float | None = None) -> None:
        """The work on a key succeeded; look again after `again` seconds."""
        self._failures.pop(key, None)
        self._calm.pop(key, None)
        self._release(key)
        if again is not None:
            self.add(key, now, max(0.0, again))

    def failed(self, key: str, now: float) -> float:
        """The work on a key failed; it runs again after the seconds returned, or soon if it was added meanwhile."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = delay_after(failures, self._base, self._cap, self._random())
        calm = min(delay, CALM)
        self._calm[key] = now + calm
        self._running.discard(key)
        again = key in self._dirty
        self._dirty.discard(key)
        self.add(key, now, calm if again else delay)
        return calm if again else delay

    def _release(self, key: str) -> None:
        self._running.discard(key)
        if key in self._dirty:
            self._ready.append(key)
