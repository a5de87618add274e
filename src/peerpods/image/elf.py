"""What the build reads out of ELF files: needed libraries, and what a kernel module says of itself. Pure.

Only 64-bit files, of either byte order (x86-64, arm64; s390x): elf(5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAGIC = b"\x7fELF\x02\x01"
MAGIC_BIG = b"\x7fELF\x02\x02"
_DYNAMIC, _NEEDED, _STRTAB, _INTERP = 2, 1, 5, 3


def is_elf(data: bytes) -> bool:
    """Whether these are the first bytes of a file that the functions here can read."""
    return data[:6] in (MAGIC, MAGIC_BIG)


def _unpack(data: bytes, form: str, at: int) -> tuple[int, ...]:
    """As struct.unpack_from, in the file's own byte order."""
    return struct.unpack_from((">" if data[:6] == MAGIC_BIG else "<") + form, data, at)


def needed(data: bytes) -> list[str]:
    """Names of the shared libraries that the file asks for (DT_NEEDED), in its order; [] for a static one."""
    loads, dynamic = [], None
    for kind, offset, address, size in _segments(data):
        if kind == 1:
            loads.append((offset, address, size))
        elif kind == _DYNAMIC:
            dynamic = (offset, size)
    if dynamic is None:
        return []
    entries = [_unpack(data, "QQ", at) for at in range(dynamic[0], dynamic[0] + dynamic[1], 16)]
    table = next((value for tag, value in entries if tag == _STRTAB), 0)
    base = next(
        (offset + table - address for offset, address, size in loads if address <= table < address + size), None
    )
    if base is None:
        return []
    return [_text(data, base + value) for tag, value in entries if tag == _NEEDED]


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    start, size, count = _unpack(data, "Q", 32)[0], *_unpack(data, "HH", 54)
    for index in range(count):
        at = start + index * size
        kind, _, offset, address, _, length = _unpack(data, "IIQQQQ", at)
        yield kind, offset, address, length


def section(data: bytes, name: str) -> bytes:
    """Content of a section, b"" when there is none."""
    start = _unpack(data, "Q", 40)[0]
    size, count, names = _unpack(data, "HHH", 58)
    headers = [_unpack(data, "IIQQQQ", start + index * size) for index in range(count)]
    if not headers:
        return b""
    for header in headers:
        if _text(data, headers[names][4] + header[0]) == name:
            return bytes(data[header[4] : header[4] + header[5]])
    return b""


def module_info(data: bytes) -> dict[str, list[str]]:
    """What a kernel module says of itself (section .modinfo): lists by key; `depends` comes split at its commas."""
    info: dict[str, list[str]] = {}
    for item in section(data, ".modinfo").split(b"\0"):
        key, found, value = item.decode(errors="replace").partition("=")
        if found:
            info.setdefault(key, []).extend(filter(None, value.split(",")) if key == "depends" else [value])
    return info


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
