"""A private libvirt in a process of its own below `unshare`, driven by its stdin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


class DaemonProcess:
    """Starts on construction; `close` ends it and everything in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            ["unshare", "-n", "-m", sys.executable, "-m", "peerpods.demo.private_libvirt", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.uri = self._process.stdout.readline().strip()
        if not self.uri.startswith("qemu"):
            self.close()
            raise AssertionError(self.uri)

    def restart(self) -> None:
        """Kill libvirtd and start it again; guests go on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("restart\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == "restarted"

    def inside(self, *command: str) -> None:
        """Run a command in the daemon's mount namespace."""
        subprocess.run(["nsenter", "-r", "-m", "-t", str(self._process.pid), *command], check=True)

    def close(self) -> None:
        """End it. Idempotent."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)
