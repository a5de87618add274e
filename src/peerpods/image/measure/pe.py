"""PE/COFF files (EFI programs, UKIs): their sections, and the Authenticode digest by which firmware measures them.

Sources: Microsoft's PE format and Windows Authenticode PE signature format; UEFI specification 32.5 (image hash).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import attrs

from peerpods.errors import Refused

_FILE_HEADER = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_SECURITY = 4  # index of the certificate table among the data directories
_CHECKSUM = 64  # offset of CheckSum in the optional header
_OPTIONAL = {0x10B: 96, 0x20B: 112}
"""Magic of the optional header (32 and 64 bits) to the offset of its data directories."""


@attrs.frozen
class Section:
    """One section as it is in the file."""

    name: str
    virtual_size: int
    offset: int
    raw_size: int


@attrs.frozen
class Image:
    """One EFI program."""

    data: bytes = attrs.field(repr=False)
    sections: tuple[Section, ...]
    checksum_at: int
    directory_at: int
    """Offset of the certificate table's directory entry."""
    certificates: tuple[int, int]
    """Offset and size of the certificate table; (0, 0) when it is not signed."""
    headers_size: int

    def section(self, name: str) -> bytes | None:
        """The contents of the first section of this name, without padding; None when there is none."""
        for section in self.sections:
            if section.name == name:
                size = min(section.virtual_size, section.raw_size) if section.virtual_size else section.raw_size
                return self.data[section.offset : section.offset + size]
        return None


def parse(data: bytes, name: str = "the file") -> Image:
    """Read a PE file's headers.

    Raises:
        Refused: when it is no PE file, or its headers point outside of it.
    """
    try:
        return _parse(data)
    except (struct.error, KeyError, ValueError) as error:
        raise Refused(
            f"{name} is not a whole EFI program: {error}", remedy="give a UKI or another .efi file"
        ) from error


def _parse(data: bytes) -> Image:
    if data[:2] != b"MZ":
        raise ValueError("it does not begin with MZ")
    start = struct.unpack_from("<I", data, 0x3C)[0]
    if data[start : start + 4] != b"PE\0\0":
        raise ValueError("it has no PE header")
    count, optional_size = (_FILE_HEADER.unpack_from(data, start + 4)[i] for i in (1, 5))
    optional = start + 4 + _FILE_HEADER.size
    magic = struct.unpack_from("<H", data, optional)[0]
    if magic not in _OPTIONAL:
        raise ValueError(f"its optional header has magic {magic:#x}")
    headers_size = struct.unpack_from("<I", data, optional + 60)[0]
    directories = optional + _OPTIONAL[magic]
    known = struct.unpack_from("<I", data, directories - 4)[0]
    directory_at = directories + _SECURITY * 8
    certificates = struct.unpack_from("<II", data, directory_at) if known > _SECURITY else (0, 0)
    sections = tuple(_sections(data, optional + optional_size, count))
    if headers_size > len(data) or sum(certificates) > len(data):
        raise ValueError("its headers point behind its end")
    return Image(data, sections, optional + _CHECKSUM, directory_at, certificates, headers_size)


def _sections(data: bytes, at: int, count: int) -> Iterator[Section]:
    for index in range(count):
        name, virtual_size, _, raw_size, offset, *_ = _SECTION.unpack_from(data, at + index * _SECTION.size)
        if raw_size and offset + raw_size > len(data):
            raise ValueError("a section lies behind its end")
        yield Section(name.rstrip(b"\0").decode("ascii", "replace"), virtual_size, offset, raw_size)


def authenticode(image: Image, algorithm: str = "sha256") -> bytes:
    """The digest that firmware measures for this program; a signature does not change it.

    Args:
        algorithm: a name that hashlib knows: "sha256" for PCRs, "sha384" for RTMRs.
    """
    total = hashlib.new(algorithm)
    data = image.data
    total.update(data[: image.checksum_at])
    total.update(data[image.checksum_at + 4 : image.directory_at])
    total.update(data[image.directory_at + 8 : image.headers_size])
    hashed = image.headers_size
    for section in sorted((s for s in image.sections if s.raw_size), key=lambda s: s.offset):
        total.update(data[section.offset : section.offset + section.raw_size])
        hashed += section.raw_size
    # What follows the sections, without the certificates, padded to the eight bytes at which they would begin.
    rest = data[hashed : len(data) - image.certificates[1]]
    total.update(rest)
    if not image.certificates[1]:
        total.update(bytes(-len(data) % 8))
    return total.digest()
