"""Running the build's tools: a failure is one sentence with the tool's own telling line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from peerpods.errors import LocalFailure

TIMEOUT = 900.0  # seconds; the longest single tool is a download
NO_ROOM = "No space left on device"
ROOM = "make room, or set CACHE"
_KEPT = ("PATH", "HOME", "http_proxy", "https_proxy", "no_proxy", "PIP_CERT", "SSL_CERT_FILE", "PIP_INDEX_URL")
_TELLING = re.compile(
    r"\b(err|error|fatal|failed|cannot|can't|could not|unable|no such|not found|denied|invalid)\b|^E:", re.I
)
_LONGEST = 300  # characters of a tool's line that are shown


def run(
    command: Sequence[str | Path],
    *,
    name: str = "",
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> str:
    """Standard output of a command that must end with 0.

    The environment is small and fixed (C.UTF-8, UTC), so that the user's own does not show in the image. The command
    is a process group of its own, and all of it ends when this call is interrupted or takes too long: nothing goes on
    writing into a folder that is being removed.

    Args:
        command: program and arguments.
        name: what the error calls it; the program if not given.
        cwd: where it runs.
        environment: added to the fixed one.
        timeout: seconds.

    Raises:
        LocalFailure: when it is not there, does not end in time, or fails.
    """
    env = {key: os.environ[key] for key in _KEPT if key in os.environ}
    env |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})}
    words = [str(word) for word in command]
    name = name or Path(words[0]).name
    try:
        process = subprocess.Popen(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", process_group=0,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise LocalFailure(f"{name} is not there", remedy="run `make setup`") from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise LocalFailure(f"{name} did not end within {timeout:.0f} s") from error
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise failure(name, process.returncode, err.strip() or out.strip())
    return out


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def failure(name: str, status: int, said: str) -> LocalFailure:
    """A tool's failure in one line; all that it said, when that is more, is kept in a file that the line names."""
    said = said.strip()
    if NO_ROOM in said:
        return LocalFailure(f"{name} found no room on the disk: {telling(said)}", remedy=ROOM)
    kept = ""
    if "\n" in said:
        with suppress(OSError):
            handle, path = tempfile.mkstemp(prefix=f"peerpods-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}-", suffix=".log")
            with os.fdopen(handle, "w") as file:
                file.write(f"{said}\n")
            kept = f"; all that it said is in {path}"
    return LocalFailure(f"{name} failed with status {status}: {telling(said) or 'it said nothing'}{kept}")


def telling(said: str) -> str:
    """The line of a tool's output that says best what happened, at most 300 characters. Pure.

    That is the one about a full disk, the last of a Python traceback, else the first that speaks of an error, else the
    last one.
    """
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    full = [line for line in lines if NO_ROOM in line]
    if full:
        return full[0][:_LONGEST]
    if not any(line.startswith("Traceback (most recent call last)") for line in lines):
        lines = [line for line in lines if _TELLING.search(line)][:1] or lines
    return lines[-1][:_LONGEST] if lines else ""


def need(programs: Iterable[str]) -> None:
    """Refuse, before anything is made, to go on without these programs.

    Raises:
        LocalFailure: naming those that are not on PATH.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise LocalFailure(f"not on PATH: {', '.join(missing)}", remedy="run `make setup`")
