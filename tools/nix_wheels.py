"""Writes nix/packages/wheels.json: which of the files that requirements/run.txt pins are for CPython 3.13 on x86_64.

pip chooses and checks them by digest; a package that has no wheel (libvirt-python) is taken by its only digest, that of
its source. Run it after `make lock`.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
PINS = TOP / "requirements/run.txt"
TARGET = TOP / "nix/packages/wheels.json"
ELSEWHERE = ("win-inet-pton",)  # for other systems
FROM_SOURCE = ("libvirt-python",)
GLIBC = ("2_34", "2_28", "2_17", "2_5")


def pins(text: str) -> dict[str, str]:
    """The entry of each package, by name."""
    entries = re.split(r"\n(?=[a-z])", text)
    return {entry.partition("==")[0]: re.sub(r"\n\s*#.*", "", entry) for entry in entries if "==" in entry}


def row(file: Path) -> dict[str, Any]:
    """A wheel, as its name says."""
    name, version, python, abi, platform = file.name.removesuffix(".whl").split("-")
    wheel = {"python": python, "abi": abi, "platform": platform}
    return {"pname": name, "version": version, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "wheel": wheel}


def chosen(entries: dict[str, str]) -> Iterator[dict[str, Any]]:
    """All rows."""
    for name in FROM_SOURCE:
        digests = re.findall(r"sha256:([0-9a-f]{64})", entries[name])
        if len(digests) != 1:
            sys.exit(f"{PINS.name} gives {len(digests)} digests for {name}: which is the source's cannot be told")
        version = re.search(r"==(\S+)", entries[name])
        yield {"pname": name, "version": version.group(1) if version else "", "sha256": digests[0]}
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text("\n".join(e for name, e in entries.items() if name not in (*FROM_SOURCE, *ELSEWHERE)))
        platforms = [word for version in GLIBC for word in ("--platform", f"manylinux_{version}_x86_64")]
        abis = [word for abi in ("cp313", "abi3", "none") for word in ("--abi", abi)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes",
             "--no-deps", "--only-binary", ":all:", "--python-version", "3.13", "--implementation", "cp", *abis,
             *platforms, "-r", wanted, "-d", scratch],
            check=True,
        )  # fmt: skip
        for file in sorted(Path(scratch).glob("*.whl")):
            yield row(file)


def main() -> None:
    """Writes the file."""
    rows = sorted(chosen(pins(PINS.read_text())), key=lambda one: str(one["pname"]))
    TARGET.write_text("[\n" + ",\n".join(" " + json.dumps(one) for one in rows) + "\n]\n")
    print(f"{TARGET.relative_to(TOP)}: {len(rows)} files")


if __name__ == "__main__":
    main()
