"""One private libvirt for all tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clouds.libvirt.daemon import DaemonProcess


@pytest.fixture(scope="session")
def daemon() -> Iterator[DaemonProcess]:
    """A private libvirt; its folder is short, since it holds unix sockets."""
    with tempfile.TemporaryDirectory(prefix="pplv") as folder:
        started = DaemonProcess(Path(folder))
        try:
            yield started
        finally:
            started.close()
