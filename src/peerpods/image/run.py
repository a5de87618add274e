"""Running the build's tools: a failure is one sentence with the tool's own last lines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from peerpods.errors import LocalFailure

TIMEOUT = 900.0  # seconds; the longest single tool is a download


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> str:
    """Standard output of a command that must end with 0.

    The environment is small and fixed (C.UTF-8, UTC), so that the user's own does not show in the image.

    Raises:
        LocalFailure: when it is not there, does not end in time, or fails.
    """
    kept = ("PATH", "HOME", "http_proxy", "https_proxy", "no_proxy", "PIP_CERT", "SSL_CERT_FILE", "PIP_INDEX_URL")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})}
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise LocalFailure(f"{words[0]} is not there", remedy="run `make setup`") from error
    except subprocess.TimeoutExpired as error:
        raise LocalFailure(f"{words[0]} did not end within {timeout:.0f} s") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise LocalFailure(f"{' '.join(words[:6])} failed with status {done.returncode}:\n{tail}")
    return done.stdout
