"""Broken firmware files are refused in words, never with a trace."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.image.measure.firmware import SevKind, parse_firmware
from tests.image.measure import synthetic

GOOD = synthetic.firmware()


def test_the_tables_are_found() -> None:
    firmware = parse_firmware(GOOD)
    assert firmware.gpa == (1 << 32) - len(GOOD)
    assert firmware.reset_eip == 0x80B004
    assert firmware.hash_table_gpa == 0x810C00
    assert firmware.has(SevKind.KERNEL_HASHES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (GOOD[:-1], "which no OVMF firmware has"),
        (bytes(8192), "no OVMF table"),
        (GOOD.replace(b"ASEV", b"VESA"), "SEV metadata begins with"),
        (GOOD.replace(b"TDVF", b"FVDT"), "TDX metadata begins with"),
        (GOOD.replace(b"ASEV" + struct.pack("<I", 76), b"ASEV" + struct.pack("<I", 0))[:-4096] + bytes(4096), "OVMF"),
    ],
)
def test_a_broken_file_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        parse_firmware(data)


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=16))
def test_any_damage_is_refused_or_read(at: int, noise: bytes) -> None:
    data = bytearray(GOOD)
    data[at : at + len(noise)] = noise
    try:
        parse_firmware(bytes(data[: len(GOOD)]))
    except Refused:
        pass


@settings(max_examples=200)
@given(st.integers(0x8000, 0x9100), st.binary(min_size=4, max_size=4))
def test_damaged_tables_never_escape(at: int, noise: bytes) -> None:
    data = bytearray(GOOD)
    data[at : at + 4] = noise
    try:
        parse_firmware(bytes(data))
    except Refused:
        pass
