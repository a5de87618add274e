"""A process's streams, read and written straight on their pipes or terminal.

Nothing is read ahead: the kernel's pipe buffer is the only queue, so a container that prints faster than anybody reads
stops until somebody does. Empty data is the end of a stream (spec: ReadStdout).
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from typing import Any

from twisted.internet.defer import DeferredLock

from peerpods.agent.wait import Gate
from peerpods.errors import Refused

READ_MAX = 1 << 20
"""Most bytes of one answer, whatever was asked: far below the 4 MiB that a ttrpc message may have."""
PIPE_SIZE = 256 * 1024
DRAIN_SECONDS = 0.5
"""After the process has ended, a read waits this long for data of children that hold the pipe, then says end."""
READERS_MAX = 16


def make_pipe(*, reading: bool) -> tuple[int, int]:
    """A pipe as (ours, the process's). Ours does not block; `reading` tells which end is ours."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (read_end, write_end) if reading else (write_end, read_end)
    os.set_blocking(ours, False)
    try:
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        # The user's pipe quota is used up: the default of 64 KiB works too.
        return ours, theirs
    return ours, theirs


class Output:
    """One of stdout, stderr or a terminal, from our side."""

    def __init__(self, reactor: Any, fd: int) -> None:
        self._fd = fd
        self._turn = DeferredLock()
        self._gate = Gate(reactor)
        self._readers = 0
        self._draining = False

    async def read(self, length: int) -> bytes:
        """At most `length` bytes as soon as there are any; b"" is the end.

        Reads take turns. A cancelled read takes no data with it.

        Raises:
            Refused: when too many reads wait already.
        """
        if self._readers >= READERS_MAX:
            raise Refused(f"{READERS_MAX} reads wait on this stream already")
        self._readers += 1
        try:
            await self._turn.acquire()
            try:
                return await self._read(max(1, min(length or READ_MAX, READ_MAX)))
            finally:
                self._turn.release()
        finally:
            self._readers -= 1

    async def _read(self, length: int) -> bytes:
        while self._fd >= 0:
            try:
                return os.read(self._fd, length)
            except BlockingIOError:
                last_look = self._draining
            except OSError as error:
                if error.errno == errno.EIO:  # a terminal whose last user has gone
                    return b""
                raise
            if not await self._gate.wait(self._fd, limit=DRAIN_SECONDS if last_look else None):
                return b""
        return b""

    def process_ended(self) -> None:
        """From now on a stream without data ends soon, even when grandchildren hold it open."""
        self._draining = True
        self._gate.wake()

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size; its foreground process gets SIGWINCH."""
        termios.tcsetwinsize(self._fd, (rows & 0xFFFF, columns & 0xFFFF))

    def close(self) -> None:
        """End the stream; a waiting read gets the end. Idempotent."""
        fd, self._fd = self._fd, -1
        self._gate.wake()
        if fd >= 0:
            os.close(fd)


class Input:
    """A process's stdin from our side: a pipe, or its terminal by a descriptor that nobody else watches."""

    def __init__(self, reactor: Any, fd: int, *, terminal: bool = False) -> None:
        self._fd = fd
        self._gate = Gate(reactor)
        self._terminal = terminal
        self._turn = DeferredLock()
        self._writers = 0

    async def write(self, data: bytes) -> int:
        """Write all of it, waiting for the reader; how many bytes that was. Empty data ends the stream.

        Raises:
            Refused: when too many writes wait already.
            BrokenPipeError: when nobody reads any more.
        """
        if self._writers >= READERS_MAX:
            raise Refused(f"{READERS_MAX} writes wait on this stdin already")
        self._writers += 1
        try:
            await self._turn.acquire()
            try:
                if not data:
                    self._end()
                    return 0
                return await self._write(memoryview(data))
            finally:
                self._turn.release()
        finally:
            self._writers -= 1

    async def _write(self, rest: memoryview) -> int:
        total = len(rest)
        while rest:
            if self._fd < 0:
                raise BrokenPipeError(errno.EPIPE, "stdin is closed")
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                await self._gate.wait(self._fd, writing=True)
        return total

    def _end(self) -> None:
        if not self._terminal:
            self.close()
        elif self._fd >= 0 and termios.tcgetattr(self._fd)[3] & termios.ICANON:
            # A terminal has no end of its own; in line mode the reader takes this character for one.
            os.write(self._fd, b"\x04")

    async def end(self) -> None:
        """End the stream after what is being written. Idempotent."""
        await self.write(b"")

    def close(self) -> None:
        """Give the descriptor up now; a waiting write fails. Idempotent."""
        fd, self._fd = self._fd, -1
        self._gate.wake()
        if fd >= 0:
            os.close(fd)
