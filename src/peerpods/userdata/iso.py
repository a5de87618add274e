"""Read one file off an ISO 9660 disk without mounting it.

The disk comes from the node, so its file system is not shown to the kernel; and a VM needs no driver for it. Names are
looked for as Rock Ridge (NM), Joliet, and plain identifiers. Format: ECMA-119, sectors of 2,048 bytes.

| place in a directory record | what                        |
|-----------------------------|-----------------------------|
| 0                           | length of the record        |
| 2, 10                       | extent (sector), size: u32  |
| 25                          | flags, 2 = directory        |
| 32                          | length of the identifier    |
| 33                          | identifier, then extensions |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

SECTOR = 2048
FIRST_DESCRIPTOR = 16
MAX_DESCRIPTORS = 32
MAX_DIRECTORY = 64 * SECTOR


def read_iso_file(disk: BinaryIO, name: str, limit: int) -> bytes | None:
    """The first `limit` bytes of a file in the root folder; None when the disk is no ISO or has no such file.

    Raises:
        OSError: when the disk cannot be read.
    """
    for number in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + MAX_DESCRIPTORS):
        descriptor = _at(disk, number, SECTOR)
        if len(descriptor) < SECTOR or descriptor[1:6] != b"CD001" or descriptor[0] == 255:
            return None
        if descriptor[0] in (1, 2):
            joliet = descriptor[0] == 2
            root = descriptor[156:190]
            for record in _records(_at(disk, _u32(root, 2), min(_u32(root, 10), MAX_DIRECTORY))):
                if not record[25] & 2 and _name(record, joliet) == name:
                    return _at(disk, _u32(record, 2), min(_u32(record, 10), limit))
    return None


def _at(disk: BinaryIO, sector: int, length: int) -> bytes:
    disk.seek(sector * SECTOR)
    return disk.read(length)


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _records(directory: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(directory):
        length = directory[at]
        if length < 34:
            at = (at // SECTOR + 1) * SECTOR  # a record never crosses a sector: the rest is padding
            continue
        if at + length <= len(directory):
            yield directory[at : at + length]
        at += length


def _name(record: bytes, joliet: bool) -> str:
    end = 33 + record[32]
    identifier = record[33:end]
    if joliet:
        return identifier.decode("utf-16-be", "replace").partition(";")[0]
    parts = b""
    at = end + (1 - record[32] % 2)
    while at + 4 <= len(record) and record[at + 2] >= 4:
        if record[at : at + 2] == b"NM":
            parts += record[at + 5 : at + record[at + 2]]
        at += record[at + 2]
    text = (parts or identifier).decode("utf-8", "replace")
    if parts:
        return text
    return text.partition(";")[0].rstrip(".").lower().replace("_", "-")  # plain identifiers have no hyphen
