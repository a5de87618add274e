"""Child processes of the test cluster: on free ports, with a log each, and never outliving who started them."""

from __future__ import annotations

import fcntl
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peerpods.errors import LocalFailure

PORTS = range(20000, 32000)  # below the kernel's ephemeral ports: a restart finds its port free again


def free_port() -> int:
    """A TCP port of loopback that nobody has now."""
    for _ in range(100):
        port = random.choice(PORTS)  # no secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LocalFailure("no free TCP port on loopback", remedy=f"look who holds {PORTS}")


def sweep(prefix: str) -> None:
    """Remove the state folders whose owner was killed: each holds its file `lock` for as long as it lives."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            with (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)


class Keeper:
    """Starts processes that the kernel kills when this one ends, however it ends.

    The kernel ties them to the thread that started them, so all are started by one thread that lives as long as we do:
    callers may be any thread.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "test-cluster")

    def start(self, command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
        """Start it with the log appended to; the pid is the command's own."""

        def spawn() -> subprocess.Popen[bytes]:
            with log.open("ab") as out:
                return subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=log.parent, start_new_session=True,
                )  # fmt: skip

        return self._thread.submit(spawn).result()

    def close(self) -> None:
        """Let the thread go: ends what is still alive."""
        self._thread.shutdown()


def end(process: subprocess.Popen[bytes] | None, *, kill: bool = False, grace: float = 10.0) -> None:
    """End a child by its pid and wait for it; SIGKILL at once, or after `grace` seconds of SIGTERM. Idempotent."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def wait_until(
    ready: Callable[[], bool], what: str, *, process: subprocess.Popen[bytes] | None, log: Path, timeout: float = 150.0
) -> None:
    """Poll until `ready()`; an OSError of it counts as not yet.

    Raises:
        LocalFailure: with the last such error and the log's end, when the process has ended or the time is up.
    """
    deadline = time.monotonic() + timeout
    why = ""

    def tried() -> bool:
        nonlocal why
        try:
            return ready()
        except OSError as error:
            why = f" ({error})"
            return False

    while not tried():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
            how = f"it ended with {process.returncode}" if process and ended else f"not within {timeout:.0f} s{why}"
            raise LocalFailure(f"{what}: {how}\n{tail}", remedy=f"the whole log is {log}")
        time.sleep(0.05)
