"""Work by key, level-triggered: the worker looks at the state of now, not at what happened."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.python.failure import Failure

from peerpods.errors import PeerPodError
from peerpods.kube.client import metrics
from peerpods.kube.client.schedule import Schedule
from peerpods.obs.log import get_logger

LONGEST = 900.0
"""Seconds after which work on a key is cancelled and counts as failed."""
_log = get_logger("kube")


class WorkQueue:
    """Calls `work(key)` for each key added: never twice at once for a key, again after a failure."""

    def __init__(
        self,
        reactor: Any,
        work: Callable[[str], Awaitable[float | None]],
        *,
        workers: int = 4,
        base: float = 0.2,
        cap: float = 300.0,
        name: str = "queue",
        resync: float = 0.0,
        keys: Callable[[], Iterable[str]] | None = None,
        longest: float = LONGEST,
    ) -> None:
        """Args:
        work: its result: None is success; a number is success, look again after so many seconds; an exception is a
            failure: the key comes again after `base`, 2 `base`, ... seconds, at most `cap`, with jitter.
        workers: keys in work at once.
        name: for log and metrics.
        resync: seconds after which all of `keys()` are added, spread over a tenth of that time; 0 for never.
        longest: seconds one call may take; then it is cancelled and counts as failed.
        """
        self._reactor = reactor
        self._work = work
        self._workers = workers
        self._name = name
        self._resync = resync
        self._keys = keys
        self._longest = longest
        self._schedule = Schedule(base, cap, random.random)
        self._started = False
        self._timer: Any = None
        self._resync_timer: Any = None
        self._tasks: dict[str, Deferred[None]] = {}
        self._empty: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def idle(self) -> bool:
        """Nothing is ready or in work; keys may still wait for their time."""
        return self._schedule.idle

    def add(self, key: str, delay: float = 0.0) -> None:
        """Have a key worked on, at once or after `delay` seconds. Cheap; may be called before start."""
        self._schedule.add(key, self._reactor.seconds(), delay)
        self._turn_soon(0.0 if delay <= 0 else None)

    def start(self) -> None:
        """Begin to work."""
        self._started = True
        self._turn_soon(0.0)
        self._plan_resync()

    async def stop(self, grace: float = 10.0) -> None:
        """Begin no more work; what is under way may take `grace` seconds to end, then it is cancelled. Idempotent."""
        self._started = False
        for timer in (self._timer, self._resync_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if not self._tasks:
            return
        self._empty = Deferred()
        patience = self._reactor.callLater(grace, self._cancel_all)
        await self._empty
        if patience.active():
            patience.cancel()

    def _cancel_all(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    # -- turns

    def _turn_soon(self, delay: float | None) -> None:
        """Arm the timer for the earlier of `delay` and the schedule's next time. Work never runs inside `add`."""
        if not self._started:
            return
        now = self._reactor.seconds()
        at = self._schedule.next_at()
        waits = [each for each in (delay, None if at is None else max(0.0, at - now)) if each is not None]
        if not waits:
            return
        soon = min(waits)
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= now + soon:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(soon, self._turn)

    def _turn(self) -> None:
        while self._started and self._schedule.running < self._workers:
            key = self._schedule.take(self._reactor.seconds())
            if key is None:
                break
            task = Deferred.fromCoroutine(self._one(key))
            if not task.called:
                self._tasks[key] = task
                task.addBoth(self._ended, key)
        metrics.QUEUE_DEPTH.labels(self._name).set(len(self._schedule))
        self._turn_soon(None)

    def _ended(self, result: Any, key: str) -> None:
        self._tasks.pop(key, None)
        if isinstance(result, Failure):
            _log.error("queue_broke", queue=self._name, key=key, error=result.getTraceback())
        if not self._tasks and self._empty is not None and not self._empty.called:
            self._empty.callback(None)
        self._turn_soon(0.0)

    async def _one(self, key: str) -> None:
        work = Deferred.fromCoroutine(self._awaited(key))
        work.addTimeout(self._longest, self._reactor)
        try:
            again = await work
        except (CancelledError, TimeoutError):
            self._failed(key, "not done in time")
        except PeerPodError as error:
            self._failed(key, str(error))
        except Exception:
            self._failed(key, Failure().getTraceback())  # type: ignore[no-untyped-call]
        else:
            self._schedule.done(key, self._reactor.seconds(), again)

    async def _awaited(self, key: str) -> float | None:
        return await self._work(key)

    def _failed(self, key: str, error: str) -> None:
        delay = self._schedule.failed(key, self._reactor.seconds())
        metrics.QUEUE_RETRIES.labels(self._name).inc()
        if self._started:
            _log.warning(
                "work_failed",
                queue=self._name,
                key=key,
                failures=self._schedule.failures_of(key),
                again_in=round(delay, 1),
                error=error,
            )

    # -- resync

    def _plan_resync(self) -> None:
        if self._resync > 0 and self._keys is not None:
            self._resync_timer = self._reactor.callLater(self._resync, self._add_all)

    def _add_all(self) -> None:
        if not self._started or self._keys is None:
            return
        for key in list(self._keys()):
            self.add(key, random.random() * self._resync / 10)  # noqa: S311
        self._plan_resync()
