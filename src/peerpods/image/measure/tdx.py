"""TDX: MRTD, and the events that make RTMR0 to RTMR2.

Sources: Intel TDX module ABI (TDH.MEM.PAGE.ADD, TDH.MR.EXTEND); UEFI 2.10 section 38.4 (PCRs and registers); TCG PC
client platform firmware profile (event data); edk2 and the Linux EFI stub for what they measure.

MRTD depends on the firmware file and on the order in which the VMM adds pages. RTMR1 and RTMR2 follow from the image;
RTMR0 depends on the VM's shape (memory, devices, ACPI), so only those of its events are given that the image and the
firmware decide.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Iterable
from uuid import UUID

import attrs

from peerpods.errors import Refused
from peerpods.image.measure.firmware import PAGE, Firmware, TdxKind, TdxSection

DIGEST = 48
_CHUNK = 256

CALLING_EFI_APPLICATION = b"Calling EFI Application from Boot Option"
EXIT_BOOT_SERVICES = b"Exit Boot Services Invocation"
EXIT_BOOT_SERVICES_DONE = b"Exit Boot Services Returned with Success"
SEPARATOR = bytes(4)
GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")


class Order(enum.Enum):
    """How a VMM builds a TD's memory."""

    ONE_PASS = "one-pass"  # noqa: S105
    """Each page is added, then its contents are extended: upstream Linux with QEMU 9 and later."""
    TWO_PASS = "two-pass"  # noqa: S105
    """All pages of a section are added, then all are extended: older QEMU."""


def mrtd(firmware: Firmware, order: Order) -> bytes:
    """MRTD of a TD that starts with this firmware: 48 bytes.

    Raises:
        Refused: when the firmware is no TDVF.
    """
    if not firmware.tdx:
        raise Refused(
            "this firmware has no TDX metadata", remedy="give an OVMF build for TDX (OVMF.fd, OVMF.inteltdx.fd)"
        )
    total = hashlib.sha384()
    for section in firmware.tdx:
        if section.added_later:
            continue
        pages = range(section.gpa, section.gpa + section.size, PAGE)
        data = _contents(firmware, section)
        for gpa in pages:
            total.update(_command(b"MEM.PAGE.ADD", gpa))
            if order is Order.ONE_PASS:
                _extend(total, section, data, gpa)
        if order is Order.TWO_PASS:
            for gpa in pages:
                _extend(total, section, data, gpa)
    return total.digest()


def _contents(firmware: Firmware, section: TdxSection) -> bytes:
    raw = firmware.data[section.offset : section.offset + section.raw_size]
    return raw + bytes(section.size - len(raw))


def _command(name: bytes, gpa: int) -> bytes:
    return struct.pack("<16sQ104x", name, gpa)


def _extend(total: hashlib._Hash, section: TdxSection, data: bytes, gpa: int) -> None:
    if not section.extended:
        return
    page = gpa - section.gpa
    for at in range(page, page + PAGE, _CHUNK):
        total.update(_command(b"MR.EXTEND", section.gpa + at))
        total.update(data[at : at + _CHUNK])


@attrs.frozen(kw_only=True)
class Event:
    """One measurement into a run-time register."""

    register: int
    """0 to 3."""
    name: str
    """What was measured, for people."""
    digest: bytes
    """SHA-384, as the event log (CCEL) has it."""


def event(register: int, name: str, data: bytes) -> Event:
    """An event whose digest is the hash of `data`."""
    return Event(register=register, name=name, digest=hashlib.sha384(data).digest())


def replay(events: Iterable[Event]) -> dict[int, bytes]:
    """The registers after these events; a register without events is zeros."""
    registers = dict.fromkeys(range(4), bytes(DIGEST))
    for one in events:
        registers[one.register] = hashlib.sha384(registers[one.register] + one.digest).digest()
    return registers


def variable_data(vendor: UUID, name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA: what is hashed for a measured variable."""
    encoded = name.encode("utf-16-le")
    return vendor.bytes_le + struct.pack("<QQ", len(name), len(value)) + encoded + value


def secure_boot_events(variables: dict[str, bytes]) -> list[Event]:
    """RTMR0's events of the Secure Boot variables, in the firmware's order.

    Args:
        variables: values of SecureBoot, PK, KEK, db and dbx; a missing one is measured as empty.
    """
    rows = [("SecureBoot", GLOBAL_VARIABLE), ("PK", GLOBAL_VARIABLE), ("KEK", GLOBAL_VARIABLE)]
    rows += [("db", IMAGE_SECURITY_DATABASE), ("dbx", IMAGE_SECURITY_DATABASE)]
    return [event(0, name, variable_data(vendor, name, variables.get(name, b""))) for name, vendor in rows]


def unsecured_events() -> list[Event]:
    """RTMR0's events of the Secure Boot variables where it is off: what SecureBoot says is one of two."""
    (absent, *others), (off, *_) = secure_boot_events({}), secure_boot_events({"SecureBoot": b"\0"})
    return [
        attrs.evolve(absent, name="SecureBoot, no secure boot in the firmware"),
        attrs.evolve(off, name="SecureBoot, off"),
        *others,
        event(0, "separator", SEPARATOR),
    ]


def firmware_events(firmware: Firmware) -> list[Event]:
    """RTMR0's event of the firmware's configuration volume (variables), which MRTD leaves out."""
    return [
        event(0, "configuration firmware volume", _contents(firmware, section))
        for section in firmware.tdx
        if section.kind is TdxKind.CFV
    ]


def command_line_data(text: str) -> bytes:
    """LoadOptions as the EFI stub hashes them: UTF-16 with its final zero."""
    return text.encode("utf-16-le") + b"\0\0"


def boot_option_events() -> list[Event]:
    """RTMR1: the firmware is about to start what it boots."""
    return [event(1, "calling EFI application", CALLING_EFI_APPLICATION), event(1, "separator", SEPARATOR)]


def end_events() -> list[Event]:
    """RTMR1: the kernel takes the machine over."""
    return [
        event(1, "exit boot services", EXIT_BOOT_SERVICES),
        event(1, "exit boot services succeeded", EXIT_BOOT_SERVICES_DONE),
    ]


def direct_boot_events(kernel: bytes, command_line: str, initrd: bytes) -> list[Event]:
    """RTMR1 and RTMR2 of a kernel that the VMM loads (-kernel, -initrd, -append).

    The firmware appends " initrd=initrd" to the command line when there is an initrd.

    Args:
        kernel: SHA-384 Authenticode digest of the kernel as the firmware gets it.
        initrd: its content.
    """
    line = command_line + (" initrd=initrd" if initrd else "")
    return [
        Event(register=1, name="kernel", digest=kernel),
        *boot_option_events(),
        event(2, "command line", command_line_data(line)),
        event(2, "initrd", initrd),
        *end_events(),
    ]


def unified_kernel_events(
    sections: Iterable[tuple[str, bytes]], kernel: bytes, command_line: str, initrd: bytes
) -> list[Event]:
    """RTMR1 and RTMR2 from the start of a UKI on, in the order of the event log.

    Args:
        sections: name and SHA-384 digest of each section that the stub measures, in its order.
        kernel: SHA-384 Authenticode digest of the kernel in it, an EFI image of its own to the firmware.
        initrd: SHA-384 digest of what the stub hands to the kernel.
    """
    events = []
    for name, digest in sections:
        events.append(event(2, name, name.encode() + b"\0"))
        events.append(Event(register=2, name=f"{name} contents", digest=digest))
    return [
        *events,
        Event(register=1, name="kernel in the uki", digest=kernel),
        event(2, "command line", command_line_data(command_line)),
        Event(register=2, name="initrd", digest=initrd),
        *end_events(),
    ]


def direct_uki_events(uki: bytes, then: Iterable[Event]) -> list[Event]:
    """RTMR1 and RTMR2 of a UKI that the VMM loads (-kernel), by its SHA-384 Authenticode digest."""
    return [Event(register=1, name="uki", digest=uki), *boot_option_events(), *then]


def disk_boot_events(gpt: bytes, uki: bytes, then: Iterable[Event]) -> list[Event]:
    """RTMR1 and RTMR2 of a UKI that the firmware loads from the disk's EFI partition.

    Args:
        gpt: UEFI_GPT_DATA of the boot disk (`gpt_data`).
        uki: its SHA-384 Authenticode digest.
        then: `unified_kernel_events`.
    """
    table = event(1, "partition table", gpt)
    return [*boot_option_events(), table, Event(register=1, name="uki", digest=uki), *then]


_GPT_HEADER = 92
_GPT_ENTRY = 128
_SECTOR = 512


def gpt_data(disk: bytes) -> bytes:
    """UEFI_GPT_DATA from a disk's first sectors: header, number of used entries, the used entries.

    Args:
        disk: at least the first 34 sectors of 512 bytes.

    Raises:
        Refused: when there is no partition table.
    """
    header = disk[_SECTOR : _SECTOR + _GPT_HEADER]
    if header[:8] != b"EFI PART":
        raise Refused("the disk has no GPT partition table", remedy="give the raw image")
    start, count, size = struct.unpack_from("<QII", header, 72)
    begin, end = start * _SECTOR, start * _SECTOR + count * size
    if size != _GPT_ENTRY or count > 128 or end > len(disk):
        raise Refused("the disk's partition table is not one of 128 entries of 128 bytes", remedy="give the raw image")
    entries = [disk[at : at + size] for at in range(begin, end, size)]
    used = [entry for entry in entries if any(entry[:16])]
    return header + struct.pack("<Q", len(used)) + b"".join(used)
