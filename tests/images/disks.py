"""The partitions of an image's disk, and its dm-verity tree computed anew: by the formats' own rules, not our engine's.

Sources: UEFI specification, GUID partition table; Linux Documentation/admin-guide/device-mapper/verity.rst and
cryptsetup's on-disk format of the verity superblock; Discoverable Partitions Specification (types).
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import zlib
from pathlib import Path
from uuid import UUID

import attrs

ROOT = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
HASHES = UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
SECTOR = 512


@attrs.frozen
class Part:
    """One partition, in bytes."""

    offset: int
    size: int


def partitions(disk: Path) -> dict[UUID, Part]:
    """Partitions by type; each type occurs once in an image."""
    with disk.open("rb") as file:
        file.seek(SECTOR)
        header = file.read(SECTOR)
        assert header[:8] == b"EFI PART"
        start, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(start * SECTOR)
        table = file.read(count * size)
    found = {}
    for at in range(0, len(table), size):
        kind = UUID(bytes_le=table[at : at + 16])
        first, last = struct.unpack_from("<QQ", table, at + 32)
        if kind.int:
            found[kind] = Part(first * SECTOR, (last - first + 1) * SECTOR)
    return found


@attrs.frozen
class Verity:
    """What the superblock of a hash tree says."""

    data_block: int
    hash_block: int
    blocks: int
    salt: bytes

    def hash(self, block: bytes) -> bytes:
        """Of one block."""
        return hashlib.sha256(self.salt + block).digest()


def superblock(disk: Path) -> Verity:
    """Of the hash partition."""
    with disk.open("rb") as file:
        file.seek(partitions(disk)[HASHES].offset)
        block = file.read(SECTOR)
    magic, version, kind = struct.unpack_from("<8sII", block)
    assert (magic, version, kind) == (b"verity\0\0", 1, 1)
    assert block[32:64].rstrip(b"\0") == b"sha256"
    data, hashes, blocks, salt = struct.unpack_from("<IIQH", block, 64)
    return Verity(data, hashes, blocks, block[88 : 88 + salt])


def root_hash(disk: Path, flip: int | None = None) -> str:
    """The root hash of the data partition, in hex.

    Args:
        flip: offset in the data of a byte to read as if one of its bits were another.
    """
    facts = superblock(disk)
    digests = []
    with disk.open("rb") as file:
        file.seek(partitions(disk)[ROOT].offset)
        for number in range(facts.blocks):
            block = bytearray(file.read(facts.data_block))
            if flip is not None and flip // facts.data_block == number:
                block[flip % facts.data_block] ^= 1
            digests.append(facts.hash(bytes(block)))
    while len(digests) > 1:
        fit = facts.hash_block // 32
        groups = [b"".join(digests[at : at + fit]) for at in range(0, len(digests), fit)]
        digests = [facts.hash(group.ljust(facts.hash_block, b"\0")) for group in groups]
    return digests[0].hex()


def renamed(disk: Path, target: Path, kind: UUID) -> Path:
    """A copy of a disk in which the partition of this type has another identity; both partition tables are right."""
    subprocess.run(["cp", "--sparse=always", disk, target], check=True)
    with target.open("r+b") as file:
        for place in (SECTOR, target.stat().st_size - SECTOR):
            file.seek(place)
            header = bytearray(file.read(SECTOR))
            assert header[:8] == b"EFI PART"
            start, count, size = struct.unpack_from("<QII", header, 72)
            file.seek(start * SECTOR)
            table = bytearray(file.read(count * size))
            at = next(at for at in range(0, len(table), size) if UUID(bytes_le=bytes(table[at : at + 16])) == kind)
            table[at + 16] ^= 1  # its own identity follows its type
            struct.pack_into("<I", header, 88, zlib.crc32(table))
            length = struct.unpack_from("<I", header, 12)[0]
            struct.pack_into("<I", header, 16, 0)
            struct.pack_into("<I", header, 16, zlib.crc32(header[:length]))
            file.seek(start * SECTOR)
            file.write(table)
            file.seek(place)
            file.write(header)
    return target
