"""One process of a container: its end, its streams, its terminal."""

# ruff: noqa: ASYNC230  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs

from peerpods.agent.console import ConsoleSocket
from peerpods.agent.stream import Input, Output, make_pipe
from peerpods.agent.wait import Child

Launch = Callable[[str | None, tuple[int, int, int]], Awaitable[Child]]
"""(console socket or None, (stdin, stdout, stderr)) -> the process."""


@attrs.define(eq=False)
class Process:
    """A process that crun has made. Its record outlives it."""

    child: Child
    stdin: Input
    stdout: Output
    stderr: Output | None
    """None with a terminal: both streams come from stdout."""

    def ended(self) -> None:
        """To be called once the process is gone."""
        self.stdin.close()
        self.stdout.process_ended()
        if self.stderr is not None:
            self.stderr.process_ended()

    def close(self) -> None:
        """Give all descriptors up; waiting reads get the end. Idempotent."""
        self.stdin.close()
        self.stdout.close()
        if self.stderr is not None:
            self.stderr.close()


async def with_pipes(reactor: Any, launch: Launch) -> Process:
    """Start a process with three pipes."""
    pipes = [make_pipe(reading=reading) for reading in (False, True, True)]
    ours = [pipe[0] for pipe in pipes]
    theirs = [pipe[1] for pipe in pipes]
    try:
        child = await launch(None, (theirs[0], theirs[1], theirs[2]))
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return _record(Process(child, Input(reactor, ours[0]), Output(reactor, ours[1]), Output(reactor, ours[2])))


async def with_terminal(reactor: Any, launch: Launch, socket_path: Path) -> Process:
    """Start a process with a terminal of its own."""
    console = ConsoleSocket(reactor, str(socket_path))
    try:
        with open(os.devnull, "r+b") as nothing:
            child = await launch(console.path, (nothing.fileno(),) * 3)
        fd = await console.receive()
    finally:
        console.close()
    return _record(Process(child, Input(reactor, os.dup(fd), terminal=True), Output(reactor, fd), None))


def _record(process: Process) -> Process:
    process.child.wait().addCallback(lambda _: process.ended())
    return process
