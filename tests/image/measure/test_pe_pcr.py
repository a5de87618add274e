"""Authenticode digests (equal to virt-firmware 26.10's on the same files) and vTPM registers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.image.measure import pcr, pe
from tests.image.measure import synthetic

GOOD = synthetic.program()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (b"", "964014ab6374ef63fcdf8c76fd96d3e91d18d64ff3569db192f7b291ea228278"),
        (b"xyz", "52820ae30fdb7d187e1cf7f50f638adf2f53e74276bff38ccc5b3a9ccb1a419e"),
    ],
)
def test_authenticode_equals_an_independent_tool(extra: bytes, expected: str) -> None:
    assert pe.authenticode(pe.parse(synthetic.program(extra=extra))).hex() == expected


def test_a_signature_does_not_change_the_digest() -> None:
    image = pe.parse(GOOD)
    signed = bytearray(GOOD + b"certificate!....")
    signed[image.directory_at : image.directory_at + 8] = len(GOOD).to_bytes(4, "little") + (16).to_bytes(4, "little")
    signed[image.checksum_at : image.checksum_at + 4] = b"sums"
    assert pe.authenticode(pe.parse(bytes(signed))) == pe.authenticode(image)


def test_sections_are_read_without_padding() -> None:
    image = pe.parse(GOOD)
    assert image.section(".cmdline") == b"console=ttyS0 ro"
    assert image.section(".splash") is None


@pytest.mark.parametrize("data", [b"", b"MZ", GOOD[:0x90], GOOD[:0x500], b"MZ" + bytes(200), b"\x7fELF" + bytes(100)])
def test_what_is_no_program_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(Refused, match="is not a whole EFI program"):
        pe.parse(data)


@given(st.integers(0, 0x3FF), st.binary(min_size=1, max_size=8))
def test_any_damaged_header_is_refused_or_read(at: int, noise: bytes) -> None:
    data = bytearray(GOOD)
    data[at : at + len(noise)] = noise
    try:
        image = pe.parse(bytes(data))
    except Refused:
        return
    pe.authenticode(image)


def test_unified_kernel_measures_in_the_stub_order_then_the_phases() -> None:
    bank = pcr.Bank()
    pcr.unified_kernel(bank, pe.parse(GOOD), pcr.PHASES)
    names = [entry.name for entry in bank.log]
    assert names[:4] == [".linux", ".linux contents", ".osrel", ".osrel contents"]
    assert names[-1] == "phase ready"
    value = bytes(32)
    image = pe.parse(GOOD)
    for name in (".linux", ".osrel", ".cmdline", ".initrd"):
        for data in (name.encode() + b"\0", image.section(name) or b""):
            value = hashlib.sha256(value + hashlib.sha256(data).digest()).digest()
    for phase in ("enter-initrd", "leave-initrd", "sysinit", "ready"):
        value = hashlib.sha256(value + hashlib.sha256(phase.encode()).digest()).digest()
    assert bank.values[11] == value


def test_boot_images_and_inputs() -> None:
    bank = pcr.Bank()
    pcr.boot_images(bank, [("uki", pe.parse(GOOD))])
    pcr.kernel_inputs(bank, "ro", b"initrd")
    pcr.initdata(bank, b"\1" * 48)
    assert [entry.pcr for entry in bank.log] == [4, 4, 4, 9, 9, 8]
    assert bank.log[2].digest == pe.authenticode(pe.parse(GOOD))
    assert bank.log[5].digest == b"\1" * 32
    assert bank.log[3].digest == hashlib.sha256("ro".encode("utf-16-le") + b"\0\0").digest()


def test_secure_boot_off_and_on_differ() -> None:
    off, on = pcr.Bank("sha384"), pcr.Bank("sha384")
    pcr.secure_boot(off, {"SecureBoot": b"\0"})
    pcr.secure_boot(on, {"SecureBoot": b"\1"}, authority=b"cert")
    assert off.values[7] != on.values[7]
    assert len(off.values[7]) == 48
    assert [entry.name for entry in on.log][-1] == "authority"


def test_the_stub_hands_over_an_initrd_of_its_own_making() -> None:
    """The digest that a VM measured for these sections is in no vector: this holds the layout (newc, /.extra)."""
    made = pcr.stub_initrd(pe.parse(GOOD))
    assert made.startswith(b"initrd" * 50)
    archive = made[300:]
    assert len(archive) % 4 == 0 and archive.count(b"070701") == 3
    assert archive[:110] == b"070701000000010000416d" + archive[22:110]
    assert b".extra/os-release\0" in archive and b"ID=podvm\n" in archive
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
    assert int(archive[6:14], 16) == 1 and int(archive[14:22], 16) == 0o040555
