"""Runs a module in network, mount and pid namespaces of its own, and sees to it that no process of it is left."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

from peerpods.demo import proof
from peerpods.demo.__main__ import isolated

ROOT = Path(__file__).parents[2]
MARKER = "PEERPODS_TEST"


def boxed(module: str, *args: str, timeout: float = 100, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGS` inside. Devices and mounts end with the namespaces, if their processes end."""
    token = secrets.token_hex(8)
    done = subprocess.run(
        isolated(module, *args),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
        env={**os.environ, MARKER: token, **env},
    )
    left = proof.processes_with(f"{MARKER}={token}")
    assert not left, left
    return done


def boxed_json(module: str, *args: str, timeout: float = 100, **env: str) -> Any:
    """The one JSON object that the module prints last."""
    done = boxed(module, *args, timeout=timeout, **env)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-500:]
    return json.loads(done.stdout.splitlines()[-1])
