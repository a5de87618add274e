"""What a killed instance leaves in the host's cgroup tree: the empty groups of its agent's containers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def remove_empty(root: Path = ROOT) -> None:
    """Remove containers' groups (`peerpods-*`, named by the development agent) without a process.

    The kernel refuses for a group in use, so those of living instances stay. Under cgroup v1 each controller has one.
    """
    for folder in [*root.glob("peerpods-*"), *root.glob("*/peerpods-*")]:
        with suppress(OSError):
            folder.rmdir()
