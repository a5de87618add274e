"""The lock: drift in one line, strict builds that end, corrupt locks refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerpods.errors import ConfigError, Refused
from peerpods.image.system import lock

A, B = "a" * 64, "b" * 64
LOCKED = f"libc6 2.41-12 {A}\nsystemd 257.9-1 {A}\nattrs-25.4.0-py3-none-any.whl {A}\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "debian-trixie-amd64.lock"
    path.write_text(LOCKED)
    return path


def test_as_locked_is_silent(place: Path) -> None:
    assert lock.check(LOCKED, "amd64", strict=True, place=place) == ""
    assert lock.check(f"libc6 2.41-12 {A}\n", "amd64", strict=True, place=place) == ""


def test_drift_is_one_line_and_ends_a_strict_build(place: Path) -> None:
    used = f"libc6 2.41-13 {B}\nnftables 1.1.3-1 {A}\n"
    line = lock.check(used, "amd64", strict=False, place=place)
    assert line == "2 packages differ from the lock: libc6 2.41-12 -> 2.41-13, nftables 1.1.3-1 (not locked)"
    with pytest.raises(ConfigError, match=r"LOCK=strict: 2 packages of the lock are gone") as caught:
        lock.check(used, "amd64", strict=True, place=place)
    assert "snapshot" in str(caught.value) and "\n" not in str(caught.value)


def test_much_drift_stays_one_line(place: Path) -> None:
    used = "".join(f"package{index} 1 {A}\n" for index in range(50))
    line = lock.check(used, "amd64", strict=False, place=place)
    assert line.endswith("and 44 more") and "\n" not in line


def test_no_lock(tmp_path: Path) -> None:
    assert "no lock for amd64" in lock.check(LOCKED, "amd64", strict=False, place=tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read"):
        lock.check(LOCKED, "amd64", strict=True, place=tmp_path / "none")


@pytest.mark.parametrize("text", ["libc6\n", f"libc6 1 2 {A}\n", "libc6 1 abc\n"])
def test_a_corrupt_lock_is_refused_with_its_line(place: Path, text: str) -> None:
    place.write_text(LOCKED + text)
    with pytest.raises(Refused, match="line 4"):
        lock.check(LOCKED, "amd64", strict=False, place=place)
