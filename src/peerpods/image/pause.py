"""The pause bundle in every image: an OCI bundle whose one program sleeps and leaves its children to the kernel."""

from __future__ import annotations

import json
import struct

from peerpods.errors import ConfigError

_LOAD_ADDRESS = 0x10000
_CODE = {
    # SIGCHLD is set to be ignored, which makes the kernel reap: rt_sigaction(17, &{1, 0, 0, 0}, 0, 8); then pause().
    "x86_64": bytes.fromhex(
        "31c0505050ffc050"  # xor eax,eax; push 0 three times; inc eax; push 1
        "6a115f4889e631d26a08415a"  # rdi = 17; rsi = rsp; rdx = 0; r10 = 8
        "6a0d580f05"  # rax = 13; syscall
        "6a22580f05ebf9"  # again: rax = 34; syscall; jmp again
    ),
    # The same; the kernel reads the four longs behind the code, and the number of a call is part of its instruction.
    "s390x": bytes.fromhex(
        "a7290011c0300000000e"  # lghi r2,17; larl r3,longs
        "a7490000a75900080aae"  # lghi r4,0; lghi r5,8; svc 174
        "0a1da7f4ffff"  # again: svc 29; j again
        "000000000000"  # up to a multiple of eight
    )
    + struct.pack(">4Q", 1, 0, 0, 0),
}
_MACHINE = {"x86_64": ("<", 1, 62), "s390x": (">", 2, 22)}
"""Byte order, as struct and as ELF's header has it; number of the machine."""


def program(machine: str = "x86_64") -> bytes:
    """A static ELF program of less than 200 bytes that waits for ever.

    Raises:
        ConfigError: for a machine there is no code for.
    """
    if machine not in _CODE:
        raise ConfigError(f"there is no pause program for {machine}", remedy=f"known: {', '.join(sorted(_CODE))}")
    code = _CODE[machine]
    size = 64 + 56 + len(code)
    entry = _LOAD_ADDRESS + 64 + 56
    order, data, number = _MACHINE[machine]
    ident = b"\x7fELF\x02" + bytes([data]) + b"\x01"
    header = struct.pack(f"{order}16sHHIQQQIHHHHHH", ident, 2, number, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 4096) + code


def config() -> str:
    """config.json of the bundle: the least an OCI runtime runs; the agent takes process and root from it."""
    return json.dumps(
        {
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/pause"], "cwd": "/", "noNewPrivileges": True},
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
        },
        indent=1,
        sort_keys=True,
    )


def bundle(machine: str = "x86_64") -> dict[str, tuple[bytes, int]]:
    """Files of the bundle, relative to it: content and mode."""
    return {"config.json": (config().encode(), 0o644), "rootfs/pause": (program(machine), 0o755)}
