"""Starting and ending processes of our own for `peerpods run --provider`, the demo and the end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from peerpods.errors import LocalFailure

_STOP_SECONDS = 20.0


def twistd(service: str, *flags: str) -> list[str]:
    """The command line of one of our services, with this interpreter."""
    run = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    return [sys.executable, "-c", run, "-n", "--pidfile=", service, *flags]


@attrs.define(kw_only=True)
class Child:
    """One process with its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> Child:
        """Start a process whose output goes to `<folder>/<name>.log`; it gets a process group of its own."""
        log = folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(  # the group keeps a terminal's Ctrl-C for us to act on
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        return cls(name=name, process=process, log=log)

    def tail(self, lines: int = 5) -> str:
        """The last lines of the log, for an error's text."""
        try:
            text = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return "\n".join(text[-lines:])

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll until ready.

        Raises:
            LocalFailure: when the process ends before, or the time is over; with the end of its log.
        """
        until = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise LocalFailure(f"{self.name} ended with code {self.process.returncode}: {self.tail()}")
            if time.monotonic() > until:
                raise LocalFailure(f"{self.name}: {what} did not come in {seconds:g} s: {self.tail()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to this very process, and reap it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, a bounded wait, then SIGKILL. Idempotent; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
        self.kill()
        return self.process.returncode


def socket_answers(path: str | Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
