"""A pod's network namespace for benches whose sandboxes have no tunnel."""

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent.parent / "src"


class PodNamespace:
    """With veth and addresses, as `peerpods run` makes it. A context that gives its path."""

    def __init__(self, name=""):
        self.name = name or f"pp-bench-{os.getpid()}"

    def act(self, action):
        """`add` or `remove`."""
        subprocess.run(
            [sys.executable, "-m", "peerpods.cli.podns", action, self.name],
            check=True,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self):
        self.act("add")
        return f"/run/netns/{self.name}"

    def __exit__(self, *_):
        self.act("remove")
