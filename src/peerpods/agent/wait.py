"""Waiting for file descriptors and child processes on any reactor with descriptors (epoll, asyncio)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from zope.interface import implementer


@implementer(IReadDescriptor, IWriteDescriptor)
class Watch:
    """One descriptor watched once. The descriptor stays the caller's."""

    def __init__(self, reactor: Any, fd: int, writing: bool, fire: Callable[[], None]) -> None:
        self._reactor = reactor
        self._fd = fd
        self._writing = writing
        self._fire: Callable[[], None] | None = fire
        (reactor.addWriter if writing else reactor.addReader)(self)

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "agent"

    def stop(self) -> None:
        """Watch no more."""
        if self._fire is not None:
            self._fire = None
            (self._reactor.removeWriter if self._writing else self._reactor.removeReader)(self)

    def doRead(self) -> None:
        fire = self._fire
        self.stop()
        if fire is not None:
            fire()

    doWrite = doRead

    def connectionLost(self, reason: Any) -> None:
        # Hang-up without data: the next read or write says what it means.
        self.doRead()


def ready(reactor: Any, fd: int, *, writing: bool = False) -> Deferred[None]:
    """Fires once when the descriptor can be read (or written), or has hung up. Cancellable."""
    deferred: Deferred[None] = Deferred(lambda _: watch.stop())
    watch = Watch(reactor, fd, writing, lambda: deferred.callback(None))
    return deferred


class Gate:
    """One place at a time where somebody waits for a descriptor, and that others may open early."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._open: Callable[[bool], None] | None = None

    async def wait(self, fd: int, *, writing: bool = False, limit: float | None = None) -> bool:
        """Until the descriptor is ready or `wake` is called. False when `limit` seconds have passed first."""
        gate: Deferred[bool] = Deferred(lambda _: watch.stop())
        watch = Watch(self._reactor, fd, writing, lambda: gate.callback(True))

        def open_gate(worth: bool) -> None:
            if not gate.called:
                watch.stop()
                gate.callback(worth)

        self._open = open_gate
        timer = None if limit is None else self._reactor.callLater(limit, open_gate, False)
        try:
            return await gate
        finally:
            self._open = None
            if timer is not None and timer.active():
                timer.cancel()

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._open is not None:
            self._open(True)


def exit_status(result: Any) -> int:
    """Exit status as a shell shows it: the code, or 128 + signal for one that was killed."""
    if result.si_code == os.CLD_EXITED:
        return int(result.si_status)
    return 128 + int(result.si_status)


_watched: set[int] = set()
"""Children that have a `Child`; process ids, of this process."""
_adoptions = 0


@contextmanager
def adoption() -> Iterator[None]:
    """While a tool runs that leaves us a process: nothing is reaped that has no `Child` yet."""
    global _adoptions
    _adoptions += 1
    try:
        yield
    finally:
        _adoptions -= 1


def reap_strays() -> None:
    """Reap children that nobody waits for: what a failed exec, or a tool that ended early, left to its subreaper.

    A zombie inside a container's pid namespace would keep the container's first process from ending.
    """
    if _adoptions:
        return
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(word) for word in file.read_text().split()]
        except OSError:
            continue  # the thread has ended
        for pid in pids:
            if pid not in _watched:
                with suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


class Child:
    """A child process (our own, or adopted as its subreaper), from now to its end.

    `ended` fires once with the exit status; `pidfd` stays valid for signals until then. Twisted reaps only processes it
    started itself, so nobody takes the status away.
    """

    def __init__(self, reactor: Any, pid: int) -> None:
        self.pid = pid
        _watched.add(pid)
        self.status: int | None = None
        self._waiters: list[Deferred[int]] = []
        self.pidfd = os.pidfd_open(pid)
        Watch(reactor, self.pidfd, False, self._end)

    def _end(self) -> None:
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            self.status = exit_status(result)
        except ChildProcessError:
            self.status = 255  # not our child: its end is known, its status is not
        _watched.discard(self.pid)
        os.close(self.pidfd)
        self.pidfd = -1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(self.status)

    def wait(self) -> Deferred[int]:
        """The exit status, now or later. Any number may wait; each may cancel its own wait."""
        deferred: Deferred[int] = Deferred(lambda d: self._waiters.remove(d))
        if self.status is not None:
            deferred.callback(self.status)
        else:
            self._waiters.append(deferred)
        return deferred

    def kill(self, number: int) -> bool:
        """Send a signal; False when the process has ended."""
        if self.status is not None:
            return False
        try:
            # By pidfd: never a stranger that got the number.
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True
