"""The sandbox container's root: the image's own pause bundle, or one of a few hundred bytes made here.

The pause program only sleeps. As process 1 of a shared pid namespace it must also reap: it ignores SIGCHLD, so the
kernel does that for it.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from peerpods.errors import GuestError

BUNDLE = "/pause_bundle"

# rt_sigaction(SIGCHLD, {SIG_IGN, 0, 0, 0}, NULL, 8); for (;;) pause();
_X86_64 = bytes.fromhex(
    "31c0" "505050" "6a01"  # xor eax,eax; push rax x3 (mask, restorer, flags); push 1 (SIG_IGN)
    "4889e6" "bf11000000" "31d2" "41ba08000000"  # rsi = stack; edi = 17; edx = 0; r10d = 8
    "b80d000000" "0f05"  # rt_sigaction
    "b822000000" "0f05" "ebf7"  # again: pause; jmp again
)  # fmt: skip
_BASE = 0x400000
_ELF_HEADER, _PROGRAM_HEADER = 64, 56


def pause_program(machine: str) -> bytes:
    """A static ELF program that sleeps for ever.

    Raises:
        GuestError: for a machine it is not written for.
    """
    if machine != "x86_64":
        raise GuestError(f"no pause program for {machine} here", remedy=f"give the VM image a {BUNDLE}")
    start = _ELF_HEADER + _PROGRAM_HEADER
    size = start + len(_X86_64)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bit, little endian, version 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident,
        2,
        62,
        1,
        _BASE + start,
        _ELF_HEADER,
        0,
        0,
        _ELF_HEADER,
        _PROGRAM_HEADER,
        1,
        64,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + _X86_64


def make_rootfs(rootfs: Path, args: list[str], bundle: str = BUNDLE) -> None:
    """Fill a new folder with the pause container's root, having `args[0]`.

    The bundle is copied, not bound: crun makes mount points in it.
    """
    source = Path(bundle) / "rootfs"
    if source.is_dir():
        shutil.copytree(source, rootfs, symlinks=True, dirs_exist_ok=True)
    program = rootfs / (args[0] if args else "/pause").lstrip("/")
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(pause_program(os.uname().machine))
        program.chmod(0o755)
    for name in ("dev", "proc", "sys", "etc"):
        (rootfs / name).mkdir(exist_ok=True)
