"""The calls of crun, the OCI runtime. One object knows its flags; everything runs off the reactor."""

# ruff: noqa: ASYNC240  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError

from peerpods.agent.command import CommandFailed, CommandTimeout, run, spawn
from peerpods.agent.spec import Json
from peerpods.agent.wait import Child, adoption, reap_strays
from peerpods.errors import GuestError

SECONDS = 55.0
"""Longest run of crun: within the shim's 60 s, so that it hears the reason."""


class Crun:
    """crun with its state below one folder."""

    def __init__(self, reactor: Any, state: Path, *, cgroups: bool, prefix: Sequence[str] = ()) -> None:
        self._reactor = reactor
        self._prefix = list(prefix)
        self._root = state / "crun"
        self._manager = "cgroupfs" if cgroups else "disabled"

    def _argv(self, *words: str, options: Sequence[str] = ()) -> list[str]:
        own = ["crun", "--root", str(self._root), f"--cgroup-manager={self._manager}", *options]
        return [*self._prefix, *own, *words]

    async def _run(self, *words: str) -> None:
        try:
            await run(self._reactor, self._argv(*words), timeout=SECONDS)
        except CommandFailed as error:
            raise GuestError(f"crun {words[0]}: {_last_line(error.output)}") from error

    async def launch(self, words: list[str], pid_file: Path, fds: tuple[int, int, int]) -> Child:
        """Run `create` or `exec --detach`, whose new process gets the descriptors as stdin, stdout, stderr.

        Raises:
            GuestError: with crun's words when it fails.
        """
        words_file = pid_file.with_suffix(".log")
        verb, *rest = words
        argv = self._argv(verb, "--pid-file", str(pid_file), *rest, options=[f"--log={words_file}"])
        try:
            with adoption():
                status = await self._until_end(argv, fds)
                # The new process is ours since crun has ended (we are its subreaper), alive or not yet reaped.
                if status == 0:
                    return Child(self._reactor, int(pid_file.read_text()))
            reap_strays()
            said = words_file.read_text(errors="replace") if words_file.exists() else ""
            raise GuestError(f"crun {verb}: {_last_line(said) or f'status {status}'}")
        finally:
            words_file.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)

    async def _until_end(self, argv: list[str], fds: tuple[int, int, int]) -> int:
        """Run crun; its status. A cancelled or overlong run is killed."""
        stdin, stdout, stderr = fds
        crun = Child(self._reactor, spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr))
        timer = self._reactor.callLater(SECONDS, crun.kill, signal.SIGKILL)
        try:
            status = await crun.wait()
        except CancelledError:
            crun.kill(signal.SIGKILL)
            raise
        finally:
            in_time = timer.active()
            if in_time:
                timer.cancel()
        if not in_time:
            raise CommandTimeout(f"crun did not end within {SECONDS:.0f} s and was stopped")
        return status

    def create_words(self, container_id: str, bundle: Path, console: str | None) -> list[str]:
        """Arguments for `launch` that create a container from a bundle."""
        extra = ["--console-socket", console] if console else []
        return ["create", "--bundle", str(bundle), *extra, container_id]

    def exec_words(self, container_id: str, process_file: Path, console: str | None) -> list[str]:
        """Arguments for `launch` that run a process in a container."""
        extra = ["--console-socket", console] if console else []
        return ["exec", "--detach", "--process", str(process_file), *extra, container_id]

    async def start(self, container_id: str) -> None:
        """Let a created container run."""
        await self._run("start", container_id)

    async def pause(self, container_id: str) -> None:
        """Freeze."""
        await self._run("pause", container_id)

    async def resume(self, container_id: str) -> None:
        """Thaw."""
        await self._run("resume", container_id)

    async def update(self, container_id: str, resources: Json, scratch: Path) -> None:
        """Change limits in place."""
        write_json(scratch, resources)
        try:
            await self._run("update", "--resources", str(scratch), container_id)
        finally:
            scratch.unlink(missing_ok=True)

    async def delete(self, container_id: str) -> None:
        """Kill what is left and forget the container, its cgroups too. Idempotent."""
        if (self._root / container_id).exists():
            await self._run("delete", "--force", container_id)


def write_json(file: Path, value: Json) -> None:
    """Write a private file."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as out:
        json.dump(value, out)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
