"""Runs a module in network, mount and pid namespaces of its own, and proves that the machine is as before."""

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
    """Run `python -m MODULE ARGS` inside; afterwards no device, namespace, mount or process may be left outside."""
    token = secrets.token_hex(8)
    before = proof.take()
    done = subprocess.run(
        isolated(module, *args),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
        env={**os.environ, MARKER: token, **env},
    )
    after = proof.take(f"{MARKER}={token}")
    left = [
        item
        for item in proof.left_over(before, after)
        # Other programs on this machine come and go too; what is ours would be one of these.
        if item.split(" ")[0] in ("network", "mount", "process")
    ]
    assert not left, left
    return done


def boxed_json(module: str, *args: str, timeout: float = 100, **env: str) -> Any:
    """The one JSON object that the module prints last."""
    done = boxed(module, *args, timeout=timeout, **env)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-500:]
    return json.loads(done.stdout.splitlines()[-1])
