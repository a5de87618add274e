"""A writer of tiny ISO 9660 images: a few files in the root folder, for user data.

Written here because it is a page of code for a fixed format, against a dependency (pycdlib) or a spawned tool that
the worker may lack. ECMA-119 level 1 apart from the characters of names: a kernel mounts it with plain isofs, lower
cases the names and drops the version, so `USER-DATA.;1` is read as `user-data`.

| sector | content |
|---|---|
| 0-15 | zero |
| 16 | primary volume descriptor |
| 17 | end of descriptors |
| 18, 19 | path table, little and big endian |
| 20 | root folder |
| 21… | files, each on a sector border |
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

SECTOR = 2048  # bytes
_ROOT = 20
_FIRST = 21
_DATE = bytes(7)  # "not given", so that equal input gives equal bytes
_LONG_DATE = b"0" * 16 + b"\0"


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def _record(name: bytes, sector: int, size: int, *, folder: bool) -> bytes:
    body = (
        b"\0"
        + _both32(sector)
        + _both32(size)
        + _DATE
        + bytes([2 if folder else 0, 0, 0])
        + _both16(1)
        + bytes([len(name)])
        + name
    )
    if len(name) % 2 == 0:
        body += b"\0"
    return bytes([len(body) + 1]) + body


def _descriptor(label: str, sectors: int) -> bytes:
    table = len(_path_table("<"))
    body = b"".join(
        [
            b"\x01CD001\x01\0",
            b"LINUX".ljust(32),
            label.encode("ascii").ljust(32),
            bytes(8),
            _both32(sectors),
            bytes(32),
            _both16(1),
            _both16(1),
            _both16(SECTOR),
            _both32(table),
            struct.pack("<II", 18, 0),
            struct.pack(">II", 19, 0),
            _record(b"\0", _ROOT, SECTOR, folder=True),
            b" " * (128 * 4 + 37 * 3),
            _LONG_DATE * 4,
            b"\x01\0",
        ]
    )
    return body.ljust(SECTOR, b"\0")


def _path_table(order: str) -> bytes:
    return struct.pack(order + "BBIH", 1, 0, _ROOT, 1) + b"\0\0"


def build_iso(label: str, files: Mapping[str, bytes]) -> bytes:
    """An image with these files in its root folder.

    Args:
        label: volume label, at most 32 ASCII characters.
        files: name (ASCII, no dot, at most 30 characters) to content (below 4 GiB). At most about 40 files.

    Raises:
        ValueError: when a name or the label does not fit.
    """
    if not label.isascii() or len(label) > 32:
        raise ValueError(f"label {label!r} does not fit a volume descriptor")
    folder = _record(b"\0", _ROOT, SECTOR, folder=True) + _record(b"\x01", _ROOT, SECTOR, folder=True)
    contents = []
    sector = _FIRST
    for name in sorted(files):
        if not name.isascii() or not name or len(name) > 30 or set(name) & set("./;"):
            raise ValueError(f"file name {name!r} does not fit")
        data = files[name]
        folder += _record(name.upper().encode() + b".;1", sector, len(data), folder=False)
        count = (len(data) + SECTOR - 1) // SECTOR
        contents.append(data.ljust(count * SECTOR, b"\0"))
        sector += count
    if len(folder) > SECTOR:
        raise ValueError("too many files")
    head = [
        bytes(16 * SECTOR),
        _descriptor(label, sector),
        b"\xffCD001\x01".ljust(SECTOR, b"\0"),
        _path_table("<").ljust(SECTOR, b"\0"),
        _path_table(">").ljust(SECTOR, b"\0"),
        folder.ljust(SECTOR, b"\0"),
    ]
    return b"".join(head + contents)
