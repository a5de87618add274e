"""vTPM registers that a pod VM image decides: PCR 4, 7, 8, 9 and 11, in any bank.

Sources: TCG PC client platform firmware profile (PCR 4, 7), Linux EFI stub (PCR 9), systemd-stub and systemd-pcrphase
(PCR 11), our own boot (PCR 8 is extended with the initdata's digest).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from uuid import UUID

import attrs

from peerpods.image.measure.pe import Image, authenticode
from peerpods.image.measure.tdx import (
    CALLING_EFI_APPLICATION,
    GLOBAL_VARIABLE,
    IMAGE_SECURITY_DATABASE,
    SEPARATOR,
    command_line_data,
    variable_data,
)

UKI_SECTIONS = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrpkey",
)
"""The sections that systemd-stub 257 measures, in its order, whatever their order in the file."""
PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
"""The words that systemd-pcrphase extends PCR 11 with while the system starts."""


@attrs.frozen(kw_only=True)
class Extend:
    """One extension of one register."""

    pcr: int
    name: str
    digest: bytes


class Bank:
    """The registers of one hash algorithm, and what they were extended with."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self.values: dict[int, bytes] = {}
        self.log: list[Extend] = []

    def hash(self, data: bytes) -> bytes:
        """The bank's hash of `data`."""
        return hashlib.new(self.algorithm, data).digest()

    def extend(self, pcr: int, digest: bytes, name: str = "") -> None:
        """Extend by a digest of the bank's own algorithm."""
        before = self.values.get(pcr, bytes(len(digest)))
        self.values[pcr] = self.hash(before + digest)
        self.log.append(Extend(pcr=pcr, name=name, digest=digest))

    def measure(self, pcr: int, data: bytes, name: str = "") -> None:
        """Extend by the hash of `data`."""
        self.extend(pcr, self.hash(data), name)


def boot_images(bank: Bank, images: Iterable[tuple[str, Image]]) -> None:
    """PCR 4: the firmware calls a boot option, and each EFI image that then runs, the kernel in a UKI included."""
    bank.measure(4, CALLING_EFI_APPLICATION, "calling EFI application")
    bank.measure(4, SEPARATOR, "separator")
    for name, image in images:
        bank.extend(4, authenticode(image, bank.algorithm), name)


def secure_boot(bank: Bank, variables: Mapping[str, bytes], authority: bytes | None = None) -> None:
    """PCR 7: the Secure Boot variables, a separator, and the authority that the image was verified with.

    Args:
        variables: values of SecureBoot, PK, KEK, db, dbx; a missing one is measured as empty.
        authority: the EFI_SIGNATURE_DATA of the db entry that verified the image; None with Secure Boot off.
    """
    rows: list[tuple[str, UUID]] = [(name, GLOBAL_VARIABLE) for name in ("SecureBoot", "PK", "KEK")]
    rows += [(name, IMAGE_SECURITY_DATABASE) for name in ("db", "dbx")]
    for name, vendor in rows:
        bank.measure(7, variable_data(vendor, name, variables.get(name, b"")), name)
    bank.measure(7, SEPARATOR, "separator")
    if authority is not None:
        bank.measure(7, variable_data(IMAGE_SECURITY_DATABASE, "db", authority), "authority")


def initdata(bank: Bank, digest: bytes) -> None:
    """PCR 8: our boot extends the initdata's digest, cut or filled with zeros to the bank's size."""
    size = hashlib.new(bank.algorithm).digest_size
    bank.extend(8, digest[:size].ljust(size, b"\0"), "initdata")


def kernel_inputs(bank: Bank, command_line: str, initrd: bytes) -> None:
    """PCR 9: what the kernel's EFI stub was given."""
    bank.measure(9, command_line_data(command_line), "command line")
    bank.measure(9, initrd, "initrd")


def stub_initrd(image: Image) -> bytes:
    """The initrd that systemd-stub 257 hands to the kernel: the UKI's own, then a cpio archive of the stub's making
    with the UKI's os-release below /.extra. The kernel's stub measures the whole into PCR 9. Seen in a booted VM.
    """
    initrd = image.section(".initrd") or b""
    release = image.section(".osrel")
    if release is None:
        return initrd
    entries = [(".extra", 0o040555, b""), (".extra/os-release", 0o100444, release)]
    archive = b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))
    last = b"0707010000000000000000000000000000000000000001" + b"0" * 48 + b"0000000B00000000" + b"TRAILER!!!\0"
    return _padded(initrd) + archive + _padded(last)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def unified_kernel(bank: Bank, image: Image, phases: Iterable[str] = ()) -> None:
    """PCR 11: the UKI's sections, then the boot phases reached."""
    for name in UKI_SECTIONS:
        content = image.section(name)
        if content is not None:
            bank.measure(11, name.encode() + b"\0", name)
            bank.measure(11, content, f"{name} contents")
    for phase in phases:
        bank.measure(11, phase.encode(), f"phase {phase}")
