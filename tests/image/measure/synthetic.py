"""A small firmware with every table that real OVMF builds have, so that tests need no download."""

from __future__ import annotations

import struct
from uuid import UUID

SIZE = 64 * 1024
_SEV = [(0x800000, 0x3000, 1), (0x80C000, 0x1000, 2), (0x80D000, 0x1000, 3), (0x80E000, 0x1000, 4)]
_HASHES = (0x810000, 0x1000, 16)
_TDX = [
    (0x4000, 0xC000, 0xFFFF4000, 0xC000, 0, 1),
    (0x0, 0x4000, 0xFFFF0000, 0x4000, 1, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x820000, 0x1000, 3, 2),
]


def firmware(*, hashes: bool = True, tdx: bool = True, sev: bool = True) -> bytes:
    """OVMF-like bytes: a pattern, SEV and TDX metadata, and the footer table that names both."""
    data = bytearray((index * 7 + index // 251) % 256 for index in range(SIZE))
    sections = _SEV + ([_HASHES] if hashes else [])
    sev_at, tdx_at = 0x8000, 0x9000
    struct.pack_into("<4sIII", data, sev_at, b"ASEV", 16 + 12 * len(sections), 1, len(sections))
    for index, section in enumerate(sections):
        struct.pack_into("<III", data, sev_at + 16 + 12 * index, *section)
    data[tdx_at - 16 : tdx_at] = UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae").bytes_le  # other tools look for it
    struct.pack_into("<4sIII", data, tdx_at, b"TDVF", 16 + 32 * len(_TDX), 1, len(_TDX))
    for index, section in enumerate(_TDX):
        struct.pack_into("<IIQQII", data, tdx_at + 16 + 32 * index, *section)
    entries = [("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", 0x80B004))]
    if sev:
        entries.append(("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", SIZE - sev_at)))
    if tdx:
        entries.append(("e47a6535-984a-4798-865e-4685a7bf8ec2", struct.pack("<I", SIZE - tdx_at)))
    if hashes:
        entries.append(("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", 0x810C00, 0x400)))
    table = b"".join(
        content + struct.pack("<H16s", len(content) + 18, UUID(guid).bytes_le) for guid, content in entries
    )
    footer = struct.pack("<H16s", len(table) + 18, UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le)
    end = SIZE - 32
    data[end - len(table) - len(footer) : end] = table + footer
    return bytes(data)


def program(*, extra: bytes = b"", linux: bytes = b"kernel" * 100) -> bytes:
    """A PE32+ file with the sections of a UKI, in another order than they are measured in."""
    sections = [
        (".osrel", b"ID=podvm\n"),
        (".cmdline", b"console=ttyS0 ro"),
        (".linux", linux),
        (".initrd", b"initrd" * 50),
    ]
    header = bytearray(0x400)
    header[:2] = b"MZ"
    struct.pack_into("<I", header, 0x3C, 0x80)
    header[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", header, 0x84, 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    struct.pack_into("<H", header, 0x98, 0x20B)
    struct.pack_into("<II", header, 0x98 + 32, 0x1000, 0x200)  # alignments
    struct.pack_into("<II", header, 0x98 + 56, 0x10000, 0x400)  # sizes of image and headers
    struct.pack_into("<I", header, 0x98 + 108, 16)
    body, at, virtual = b"", 0x400, 0x1000
    for index, (name, content) in enumerate(sections):
        raw = content + bytes(-len(content) % 0x200)
        struct.pack_into(
            "<8sIIIIIIHHI",
            header,
            0x98 + 240 + index * 40,
            name.encode(),
            len(content),
            virtual,
            len(raw),
            at,
            0,
            0,
            0,
            0,
            0x40000040,
        )
        body, at, virtual = body + raw, at + len(raw), virtual + 0x1000
    return bytes(header) + body + extra
