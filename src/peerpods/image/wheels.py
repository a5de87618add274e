"""Python packages of the image: wheels pinned by hash, for the image's Python and not the host's."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image import inputs
from peerpods.image.place import fresh
from peerpods.image.run import run

PYTHON = "3.13"
PLATFORMS = ("manylinux_2_36_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def fetch(requirements: Path, folder: Path, platforms: Iterable[str] = PLATFORMS) -> list[Path]:
    """The wheels that the requirements pin, sorted by name; fetched when `folder` is not complete."""
    if not (folder / ".done").exists():
        wanted = [word for name in platforms for word in ("--platform", name)]
        with fresh(folder) as scratch:
            run(
                [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes",
                 "--no-deps", "--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp",
                 *wanted, "-d", scratch, "-r", requirements], name="pip download",
            )  # fmt: skip
            (scratch / ".done").touch()
    return sorted(folder.glob("*.whl"))


def lock_lines(wheels: Iterable[Path]) -> list[str]:
    """Their lines in packages.lock: `FILE SHA256`."""
    return [f"{wheel.name} {hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in wheels]


def unpack(wheels: list[Path], target: Path) -> None:
    """Lay the wheels below `target` (a dist-packages folder), without tests and what is listed as stripped.

    Raises:
        LocalFailure: when a wheel has a name that leads out of the folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                place = _place(name)
                if place is None:
                    continue
                if ".." in place.split("/") or place.startswith("/"):
                    raise LocalFailure(f"{wheel.name} has a file outside of its folder: {name}")
                path = target / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


def _place(name: str) -> str | None:
    """Where a wheel's file goes, None when nowhere."""
    name = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
    parts = name.split("/")
    if name.endswith("/") or re.match(r"^[^/]+\.data/", name) or {"test", "tests"} & set(parts[:-1]):
        return None
    if parts[0].endswith(".dist-info") and parts[-1] not in ("METADATA", "entry_points.txt"):
        return None
    if name.endswith((".pyi", ".c", ".h")) or any(name.startswith(f"{path}/") for path in inputs.WHEEL_STRIPPED):
        return None
    return name
