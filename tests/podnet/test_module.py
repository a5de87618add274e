"""The module's own functions on the reactor: they leave it free, and act in this process's namespace."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import pytest_twisted

from peerpods import podnet
from peerpods.errors import LocalFailure, Refused
from peerpods.podnet import kernel


@pytest_twisted.ensureDeferred
async def test_a_missing_namespace_is_refused_on_the_reactor(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no network namespace") as caught:
        await podnet.inspect(str(tmp_path / "none"))
    assert caught.value.remedy


@pytest_twisted.ensureDeferred
async def test_a_missing_right_is_not_a_missing_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(kernel, "inside", refused)
    with pytest.raises(LocalFailure, match="cannot enter the network namespace '/run/netns/x'") as caught:
        await podnet.inspect("/run/netns/x")
    assert "CAP_SYS_ADMIN" in str(caught.value)


def test_only_a_mounted_namespace_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert podnet.netns_exists("/proc/self/ns/net")
    assert not podnet.netns_exists(str(tmp_path / "file"))
    assert not podnet.netns_exists(str(tmp_path / "none"))
