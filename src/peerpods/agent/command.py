"""Running a tool (crun, skopeo, umoci, cp) to its end, without blocking the reactor."""

# ruff: noqa: ASYNC230  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from peerpods.agent.wait import Child, ready
from peerpods.errors import GuestError

OUTPUT_MAX = 256 * 1024
"""Bytes of a tool's words that are kept; the rest is read and dropped."""


class CommandFailed(GuestError):
    """A tool ended with a status other than 0. `output` has its own words."""

    def __init__(self, tool: str, status: int, output: str) -> None:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
        super().__init__(f"{tool} ended with status {status}: {last.strip()}")
        self.tool = tool
        self.status = status
        self.output = output


class CommandTimeout(GuestError):
    """A tool did not end in its time and was killed."""

    code = 4


def find(tool: str) -> str:
    """Full path of a tool.

    Raises:
        GuestError: when the image lacks it.
    """
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise GuestError(f"the program {tool!r} is not installed here", remedy=f"install the package {tool}")
    return path


def spawn(argv: Sequence[str], *, stdin: int, stdout: int, stderr: int, env: Mapping[str, str] | None = None) -> int:
    """Start a program with three given descriptors and nothing else open; its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, stdout, stderr))]
    environment = dict(os.environ if env is None else env)
    # The service manager's socket is ours alone: crun hands it on to containers when it is told of one.
    environment.pop("NOTIFY_SOCKET", None)
    return os.posix_spawn(
        find(argv[0]),
        list(argv),
        environment,
        file_actions=actions,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
        setpgroup=0,
    )


async def run(reactor: Any, argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> str:
    """Run a tool and give what it said on stdout and stderr together.

    A cancelled or overlong run kills the tool.

    Raises:
        CommandFailed: on a status other than 0.
        CommandTimeout: after `timeout` seconds.
    """
    output_end, tool_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(tool_end, True)
    try:
        with open(os.devnull, "rb") as nothing:
            pid = spawn(argv, stdin=nothing.fileno(), stdout=tool_end, stderr=tool_end, env=env)
    except BaseException:
        os.close(output_end)
        raise
    finally:
        os.close(tool_end)
    child = Child(reactor, pid)
    words = bytearray()
    overdue = False

    def stop() -> None:
        nonlocal overdue
        overdue = True
        child.kill(signal.SIGKILL)

    timer = reactor.callLater(timeout, stop)
    try:
        status = await _collect(reactor, child, output_end, words)
    except CancelledError:
        child.kill(signal.SIGKILL)
        raise
    finally:
        if timer.active():
            timer.cancel()
        os.close(output_end)
    text = words.decode(errors="replace")
    if overdue:
        raise CommandTimeout(f"{argv[0]} did not end within {timeout:.0f} s and was stopped")
    if status != 0:
        raise CommandFailed(argv[0], status, text)
    return text


async def _collect(reactor: Any, child: Child, fd: int, words: bytearray) -> int:
    """Read until the tool has ended. A grandchild that keeps the pipe open does not hold us."""
    pump = Deferred.fromCoroutine(_pump(reactor, fd, words))
    pump.addErrback(_only_cancelled)
    try:
        status = await child.wait()
    finally:
        pump.cancel()
    _drain(fd, words)
    return status


def _only_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]


async def _pump(reactor: Any, fd: int, words: bytearray) -> None:
    while _drain(fd, words):
        await ready(reactor, fd)


def _drain(fd: int, words: bytearray) -> bool:
    """Take what is there. False at the end of the stream."""
    while True:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        if len(words) < OUTPUT_MAX:
            words += data[: OUTPUT_MAX - len(words)]
