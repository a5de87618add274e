"""MRTD and run-time registers. The one-pass value equals osc-veritas 0.1.3rc1's on the same synthetic firmware."""

from __future__ import annotations

import hashlib
import struct

import pytest

from peerpods.errors import Refused
from peerpods.image.measure import tdx
from peerpods.image.measure.firmware import TdxKind, parse_firmware
from tests.image.measure import synthetic

ONE_PASS = "4c0915ba18d29ad2779a2c455c2a2f152276be26b4648f127f2697fe7a66b7db688bb13b3e1ffa24ab34423c75b3419f"


def test_one_pass_equals_an_independent_tool_and_two_pass_differs() -> None:
    firmware = parse_firmware(synthetic.firmware())
    assert tdx.mrtd(firmware, tdx.Order.ONE_PASS).hex() == ONE_PASS
    assert tdx.mrtd(firmware, tdx.Order.TWO_PASS).hex() != ONE_PASS


def test_the_variables_are_not_in_mrtd_but_in_the_first_register() -> None:
    data = bytearray(synthetic.firmware())
    before = parse_firmware(bytes(data))
    data[0x10] ^= 1  # in the configuration volume
    after = parse_firmware(bytes(data))
    assert tdx.mrtd(before, tdx.Order.ONE_PASS) == tdx.mrtd(after, tdx.Order.ONE_PASS)
    (old,), (new,) = tdx.firmware_events(before), tdx.firmware_events(after)
    assert old.register == 0 and old.digest != new.digest


def test_firmware_without_tdx_is_refused() -> None:
    with pytest.raises(Refused, match="no TDX metadata"):
        tdx.mrtd(parse_firmware(synthetic.firmware(tdx=False)), tdx.Order.ONE_PASS)


def test_replay_is_a_hash_chain_a_register() -> None:
    one, two = tdx.event(1, "a", b"a"), tdx.event(2, "b", b"b")
    registers = tdx.replay([one, two, one])
    first = hashlib.sha384(bytes(48) + hashlib.sha384(b"a").digest()).digest()
    assert registers[1] == hashlib.sha384(first + hashlib.sha384(b"a").digest()).digest()
    assert registers[0] == registers[3] == bytes(48)


def test_secure_boot_variables_are_measured_with_name_and_vendor() -> None:
    events = tdx.secure_boot_events({"SecureBoot": b"\1"})
    assert [event.name for event in events] == ["SecureBoot", "PK", "KEK", "db", "dbx"]
    data = tdx.GLOBAL_VARIABLE.bytes_le + struct.pack("<QQ", 10, 1) + "SecureBoot".encode("utf-16-le") + b"\1"
    assert events[0].digest == hashlib.sha384(data).digest()


def test_direct_boot_names_the_initrd_on_the_command_line() -> None:
    events = {event.name: event for event in tdx.direct_boot_events(bytes(48), "ro", b"initrd")}
    line = "ro initrd=initrd".encode("utf-16-le") + b"\0\0"
    assert events["command line"].digest == hashlib.sha384(line).digest()
    assert [event.register for event in events.values()].count(2) == 2


def gpt(entries: int) -> bytes:
    disk = bytearray(34 * 512)
    struct.pack_into("<8sIIII", disk, 512, b"EFI PART", 0x10000, 92, 0, 0)
    struct.pack_into("<QII", disk, 512 + 72, 2, 128, 128)
    for index in range(entries):
        disk[1024 + index * 128 : 1024 + index * 128 + 16] = bytes([index + 1]) * 16
    return bytes(disk)


def test_the_partition_table_is_measured_with_its_used_entries_only() -> None:
    data = tdx.gpt_data(gpt(3))
    assert len(data) == 92 + 8 + 3 * 128
    assert struct.unpack_from("<Q", data, 92)[0] == 3
    assert hashlib.sha384(data).digest() == tdx.disk_boot_events(data, bytes(48), [])[2].digest


def test_a_disk_without_a_table_is_refused() -> None:
    with pytest.raises(Refused, match="no GPT"):
        tdx.gpt_data(bytes(34 * 512))


def test_sections_are_read_as_they_are() -> None:
    kinds = [section.kind for section in parse_firmware(synthetic.firmware()).tdx]
    assert kinds == [TdxKind.BFV, TdxKind.CFV, TdxKind.TD_HOB, TdxKind.TEMP_MEM]
