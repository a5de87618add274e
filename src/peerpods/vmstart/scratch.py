"""Room for container images: a second disk, encrypted with a key that only this boot knows, or memory.

The boot disk is never touched: its partition table is measured. A second disk is taken only if it says what it is for
by its serial number, and holds nothing; whatever else is attached belongs to somebody.
"""

# ruff: noqa: PTH108, PTH208  (pathlib costs time at the start)
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from peerpods.errors import GuestError, PeerPodError

SERIAL = "peerpods-scratch"
TARGET = "/run/kata-containers/image"
MAPPING = "peerpods-scratch"
MEMORY_SHARE = 50
"""Percent of the memory that a scratch in memory may take."""
TIMEOUT = 90.0  # seconds for one program


def choose(serials: Mapping[str, str]) -> str | None:
    """The device to use, by the serials of all disks; None for memory. Pure.

    Raises:
        GuestError: when two disks claim to be it.
    """
    found = sorted(name for name, serial in serials.items() if serial.strip() == SERIAL)
    if len(found) > 1:
        raise GuestError(f"two disks have the serial {SERIAL}: {', '.join(found)}")
    return found[0] if found else None


def format_command(device: str, key_file: str) -> list[str]:
    """LUKS2 with integrity: what the host changes on the disk is noticed, not used."""
    return [
        "/usr/sbin/cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64",
        "--sector-size", "4096", "--integrity", "hmac-sha256", "--integrity-no-wipe", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", "--key-file", key_file, device,
    ]  # fmt: skip


def is_empty(blocks: Iterable[bytes]) -> bool:
    """Whether the first blocks hold nothing. Pure."""
    return not any(any(block) for block in blocks)


def _serials(folder: str = "/sys/block") -> dict[str, str]:
    found = {}
    for name in os.listdir(folder):
        for place in (f"{folder}/{name}/serial", f"{folder}/{name}/device/serial"):
            try:
                with open(place, encoding="ascii", errors="replace") as file:
                    found[f"/dev/{name}"] = file.read(256)
            except OSError:
                continue
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        raise GuestError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-300:]}")


def _encrypted(device: str) -> None:
    with open(device, "rb") as disk:
        if not is_empty(disk.read(4096) for _ in range(256)):
            raise GuestError(f"the scratch disk {device} is not empty: nothing of it is used or overwritten")
    key_file = f"/run/{MAPPING}.key"
    descriptor = os.open(key_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(64))
        _run(format_command(device, key_file))
        _run(["/usr/sbin/cryptsetup", "open", "--type", "luks2", "--key-file", key_file, device, MAPPING])
    finally:
        os.unlink(key_file)
    mapped = f"/dev/mapper/{MAPPING}"
    _run(["/usr/sbin/mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", mapped])
    _run(["/usr/bin/mount", "-o", "nosuid,nodev", mapped, TARGET])


def prepare() -> str:
    """Mount the room on TARGET; says what it is.

    Raises:
        GuestError: when it cannot be made.
    """
    Path(TARGET).mkdir(parents=True, exist_ok=True)
    device = choose(_serials())
    if device is None:
        options = f"size={MEMORY_SHARE}%,mode=0755,nosuid,nodev"
        _run(["/usr/bin/mount", "-t", "tmpfs", "-o", options, "peerpods-scratch", TARGET])
        return "images are kept in memory"
    _encrypted(device)
    return f"images are kept on {device}, encrypted"


def main() -> int:
    """The unit peerpods-scratch: 0, or 1 after one line of reason."""
    try:
        print(prepare(), flush=True)
    except (PeerPodError, OSError, subprocess.SubprocessError) as error:
        print(f"peerpods stopped: no room for images: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
