"""OVMF firmware files: the tables at their end that say what of them, and around them, is measured.

Sources: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm (footer table), OvmfSevMetadata.asm, IntelTdxMetadata.asm;
Intel TDX virtual firmware design guide (TDVF descriptor).
"""

from __future__ import annotations

import enum
import struct
from uuid import UUID

import attrs

from peerpods.errors import Refused

FOUR_GIB = 1 << 32
PAGE = 4096
FIRMWARE_MAX = 64 << 20  # bytes; far above any OVMF

_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
_TAIL = 32  # bytes between the footer table and the end of the file: the reset vector
_ENTRY = struct.Struct("<H16s")
_SEV_HEADER = struct.Struct("<4sIII")
_SEV_SECTION = struct.Struct("<III")
_TDX_HEADER = struct.Struct("<4sIII")
_TDX_SECTION = struct.Struct("<IIQQII")


class SevKind(enum.IntEnum):
    """What a section of the SEV metadata is."""

    SEC_MEM = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 16


@attrs.frozen
class SevSection:
    """Guest memory that the VMM prepares before the firmware runs."""

    gpa: int
    size: int
    kind: SevKind


class TdxKind(enum.IntEnum):
    """What a section of the TDVF descriptor is."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3
    PERM_MEM = 4
    PAYLOAD = 5
    PAYLOAD_PARAM = 6


@attrs.frozen
class TdxSection:
    """Guest memory of a TD before it runs."""

    offset: int
    raw_size: int
    gpa: int
    size: int
    kind: TdxKind
    attributes: int

    @property
    def extended(self) -> bool:
        """Its contents are measured (MR.EXTEND), not only its place."""
        return bool(self.attributes & 1)

    @property
    def added_later(self) -> bool:
        """PAGE.AUG: added at run time, so not part of MRTD."""
        return bool(self.attributes & 2)


@attrs.frozen
class Firmware:
    """One firmware file, mapped to end at 4 GiB."""

    data: bytes = attrs.field(repr=False)
    sev: tuple[SevSection, ...]
    tdx: tuple[TdxSection, ...]
    hash_table_gpa: int
    """Where QEMU puts the hashes of kernel, initrd and command line; 0 when this firmware has no room for them."""
    reset_eip: int
    """Where vCPUs other than the first begin; 0 when unknown."""

    @property
    def gpa(self) -> int:
        """Guest physical address of its first byte."""
        return FOUR_GIB - len(self.data)

    def has(self, kind: SevKind) -> bool:
        """Whether the SEV metadata has such a section."""
        return any(section.kind is kind for section in self.sev)


def parse_firmware(data: bytes, name: str = "the firmware") -> Firmware:
    """Read the tables of an OVMF file.

    Raises:
        Refused: when it is no OVMF image, or a table points outside of it.
    """
    if not PAGE <= len(data) <= FIRMWARE_MAX or len(data) % PAGE:
        raise Refused(f"{name} has {len(data)} bytes, which no OVMF firmware has", remedy="give an OVMF .fd file")
    table = _footer_table(data, name)

    def word(guid: UUID) -> int:
        entry = table.get(guid, b"")
        return int.from_bytes(entry[:4], "little") if len(entry) >= 4 else 0

    try:
        return Firmware(
            data=data,
            sev=_sev_sections(data, word(_SEV_METADATA)),
            tdx=_tdx_sections(data, word(_TDX_METADATA)),
            hash_table_gpa=word(_HASH_TABLE),
            reset_eip=word(_RESET_BLOCK),
        )
    except (struct.error, ValueError) as error:
        raise Refused(f"{name} has a broken metadata table: {error}", remedy="build or fetch it again") from error


def _footer_table(data: bytes, name: str) -> dict[UUID, bytes]:
    """The GUIDed entries, read backwards from the footer: each is data, then its length and GUID."""
    end = len(data) - _TAIL
    size, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
    if UUID(bytes_le=guid) != _FOOTER:
        raise Refused(
            f"{name} has no OVMF table at its end", remedy="give an OVMF .fd file (the code, not the variables)"
        )
    begin, at = end - size, end - _ENTRY.size
    if begin < 0 or begin > at:
        raise Refused(f"{name} has a broken table at its end", remedy="build or fetch it again")
    table: dict[UUID, bytes] = {}
    while at - _ENTRY.size >= begin:
        size, guid = _ENTRY.unpack_from(data, at - _ENTRY.size)
        if size < _ENTRY.size or at - size < begin:
            raise Refused(f"{name} has a broken table at its end", remedy="build or fetch it again")
        table[UUID(bytes_le=guid)] = data[at - size : at - _ENTRY.size]
        at -= size
    return table


def _sev_sections(data: bytes, from_end: int) -> tuple[SevSection, ...]:
    if not from_end:
        return ()
    start = _inside(data, from_end)
    signature, _size, version, count = _SEV_HEADER.unpack_from(data, start)
    if signature != b"ASEV" or version != 1:
        raise ValueError(f"SEV metadata begins with {signature!r}, version {version}")
    found = []
    for index in range(_bounded(count)):
        gpa, size, kind = _SEV_SECTION.unpack_from(data, start + _SEV_HEADER.size + index * _SEV_SECTION.size)
        if gpa % PAGE or size % PAGE:
            raise ValueError(f"SEV section at {gpa:#x} is not made of whole pages")
        found.append(SevSection(gpa, size, SevKind(kind)))
    return tuple(found)


def _tdx_sections(data: bytes, from_end: int) -> tuple[TdxSection, ...]:
    if not from_end:
        return ()
    start = _inside(data, from_end)
    signature, _size, _version, count = _TDX_HEADER.unpack_from(data, start)
    if signature != b"TDVF":
        raise ValueError(f"TDX metadata begins with {signature!r}")
    found = []
    for index in range(_bounded(count)):
        fields = _TDX_SECTION.unpack_from(data, start + _TDX_HEADER.size + index * _TDX_SECTION.size)
        offset, raw_size, gpa, size, kind, attributes = fields
        if gpa % PAGE or size % PAGE or offset + raw_size > len(data) or raw_size > size:
            raise ValueError(f"TDX section at {gpa:#x} does not fit")
        found.append(TdxSection(offset, raw_size, gpa, size, TdxKind(kind), attributes))
    return tuple(found)


def _inside(data: bytes, from_end: int) -> int:
    if from_end > len(data):
        raise ValueError("a table lies before the file's beginning")
    return len(data) - from_end


def _bounded(count: int) -> int:
    if count > 64:
        raise ValueError(f"a table claims {count} sections")
    return count
