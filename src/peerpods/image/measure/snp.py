"""SEV-SNP launch digest: what the AMD secure processor signs in a report as MEASUREMENT.

Sources: SEV Secure Nested Paging firmware ABI, PAGE_INFO (8.17.2) and LAUNCH_UPDATE; AMD APM volume 2, appendix B
(save area); KVM's and the clouds' reset state of a vCPU. QEMU's layout of kernel hashes: hw/i386/x86 sev hashes.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping

import attrs

from peerpods.errors import Refused
from peerpods.image.measure.firmware import PAGE, Firmware, SevKind

DIGEST = 48
VCPUS_MAX = 512
_ZERO = bytes(DIGEST)
_VMSA_GPA = 0xFFFFFFFFF000
"""The save area has no address of its own; the processor takes this one."""
_RESET_VECTOR = 0xFFFFFFF0


class PageType(enum.IntEnum):
    """PAGE_TYPE of LAUNCH_UPDATE."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


class Vmm(enum.Enum):
    """Who starts the VM: their vCPUs' reset state and page order differ."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


def signature(family: int, model: int, stepping: int) -> int:
    """CPUID leaf 1 EAX of a processor (AMD publication 25481)."""
    extended = max(family - 15, 0)
    base = min(family, 15)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 15) << 4 | stepping


CPU_MODELS: Mapping[str, int] = {
    "EPYC": signature(23, 1, 2),
    "EPYC-v4": signature(23, 1, 2),
    "EPYC-Rome": signature(23, 49, 0),
    "EPYC-Milan": signature(25, 1, 1),
    "EPYC-Genoa": signature(25, 17, 0),
    "EPYC-Turin": signature(26, 0, 0),
}
"""QEMU's names of processors that have SNP, or pass for one that has."""

FEATURES: Mapping[str, int] = {"snp": 0x1, "snp+debug-swap": 0x21}
"""Guest features (SEV_FEATURES) that kernels set: 0x1 SNP active, 0x20 debug registers swapped (KVM from 6.11)."""


@attrs.frozen(kw_only=True)
class KernelFiles:
    """What QEMU hashes for `-kernel`, `-initrd` and `-append` with `kernel-hashes=on`."""

    kernel: bytes = attrs.field(repr=False)
    initrd: bytes = attrs.field(default=b"", repr=False)
    command_line: str = ""

    def page(self, offset: int) -> bytes:
        """The page that the firmware checks the three against; the table begins at `offset`."""
        table = _hash_table(self)
        if offset + len(table) > PAGE:
            raise Refused(
                f"the firmware has room for kernel hashes at {offset:#x} of a page, which is too near its end"
            )
        return bytes(offset) + table + bytes(PAGE - offset - len(table))


def _hash_table(files: KernelFiles) -> bytes:
    from uuid import UUID

    def entry(guid: str, content: bytes) -> bytes:
        return struct.pack("<16sH", UUID(guid).bytes_le, len(content) + 18) + content

    digests = (
        ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", files.command_line.encode() + b"\0"),
        ("44baf731-3a2f-4bd7-9af1-41e29169781d", files.initrd),
        ("4de79437-abd2-427f-b835-d5b172d2045b", files.kernel),
    )
    body = b"".join(entry(guid, hashlib.sha256(content).digest()) for guid, content in digests)
    table = entry("9438d606-4f22-4cc9-b479-a793d411fd21", body)
    return table + bytes(-len(table) % 16)


class Digest:
    """The chain: each page's address, kind and hash goes over the digest so far."""

    def __init__(self) -> None:
        self.value = _ZERO

    def add(self, kind: PageType, gpa: int, contents: bytes = _ZERO) -> None:
        """One page; `contents` is its SHA-384, zeros where the contents are not measured."""
        info = self.value + contents + struct.pack("<HBBBBBBQ", 0x70, kind, 0, 0, 0, 0, 0, gpa)
        self.value = hashlib.sha384(info).digest()

    def add_data(self, gpa: int, data: bytes) -> None:
        """Whole pages of measured contents."""
        for at in range(0, len(data), PAGE):
            self.add(PageType.NORMAL, gpa + at, hashlib.sha384(data[at : at + PAGE]).digest())

    def add_range(self, kind: PageType, gpa: int, size: int) -> None:
        """Whole pages without contents."""
        for at in range(0, size, PAGE):
            self.add(kind, gpa + at)


@attrs.frozen(kw_only=True)
class Machine:
    """The parts of a VM's shape that the digest depends on."""

    vcpus: int
    cpu: str = "EPYC-v4"
    features: int = 0x1
    vmm: Vmm = Vmm.QEMU


def launch_digest(firmware: Firmware, machine: Machine, files: KernelFiles | None = None) -> bytes:
    """MEASUREMENT of a VM with this firmware, shape and, where given, kernel files: 48 bytes.

    Raises:
        Refused: unknown CPU model, a number of vCPUs that no VM has, firmware without what SNP needs.
    """
    return next(launch_digests(firmware, [machine], files))[1]


def launch_digests(
    firmware: Firmware, machines: Iterable[Machine], files: KernelFiles | None = None
) -> Iterator[tuple[Machine, bytes]]:
    """As `launch_digest` for many shapes; what they share is computed once (memory a VMM, further vCPUs a CPU)."""
    chains: dict[Machine, list[bytes]] = {}
    shared: dict[Vmm, bytes] = {}
    for machine in machines:
        _check(firmware, machine, files)
        if machine.vmm not in shared:
            shared[machine.vmm] = _memory(firmware, machine.vmm, files)
        kind = attrs.evolve(machine, vcpus=1)
        if kind not in chains:
            chains[kind] = [_next(shared[machine.vmm], machine, _RESET_VECTOR)]
        chain = chains[kind]
        while len(chain) < machine.vcpus:
            chain.append(_next(chain[-1], machine, firmware.reset_eip))
        yield machine, chain[machine.vcpus - 1]


def _next(before: bytes, machine: Machine, entry: int) -> bytes:
    """The digest after one more vCPU."""
    digest = Digest()
    digest.value = before
    digest.add(PageType.VMSA, _VMSA_GPA, _area_hash(entry, CPU_MODELS[machine.cpu], machine.features, machine.vmm))
    return digest.value


@functools.cache
def _area_hash(entry: int, cpu_signature: int, features: int, vmm: Vmm) -> bytes:
    return hashlib.sha384(save_area(entry, cpu_signature, features, vmm)).digest()


def _check(firmware: Firmware, machine: Machine, files: KernelFiles | None) -> None:
    if machine.cpu not in CPU_MODELS:
        raise Refused(f"CPU model {machine.cpu!r} is unknown", remedy="choose one of " + ", ".join(CPU_MODELS))
    if not 1 <= machine.vcpus <= VCPUS_MAX:
        raise Refused(f"a VM cannot have {machine.vcpus} vCPUs", remedy=f"give 1 to {VCPUS_MAX}")
    if not firmware.sev:
        raise Refused(
            "this firmware has no SEV-SNP metadata", remedy="give an OVMF build for SEV (OVMF.fd, OVMF.amdsev.fd)"
        )
    if machine.vcpus > 1 and not firmware.reset_eip:
        raise Refused("this firmware does not say where further vCPUs begin", remedy="give an OVMF build with SEV-ES")
    if files is not None and not (firmware.hash_table_gpa and firmware.has(SevKind.KERNEL_HASHES)):
        raise Refused(
            "this firmware does not check kernel hashes, so a kernel given to it would not be measured",
            remedy="give the AmdSev build of OVMF",
        )


def _memory(firmware: Firmware, vmm: Vmm, files: KernelFiles | None) -> bytes:
    digest = Digest()
    digest.add_data(firmware.gpa, firmware.data)
    cpuid = [section for section in firmware.sev if section.kind is SevKind.CPUID]
    for section in firmware.sev:
        match section.kind:
            case SevKind.SEC_MEM:
                kind = PageType.UNMEASURED if vmm is Vmm.GCE else PageType.ZERO
                digest.add_range(kind, section.gpa, section.size)
            case SevKind.SECRETS:
                digest.add(PageType.SECRETS, section.gpa)
            case SevKind.CPUID if vmm is not Vmm.EC2:
                digest.add(PageType.CPUID, section.gpa)
            case SevKind.KERNEL_HASHES if files is not None:
                digest.add_data(section.gpa, files.page(firmware.hash_table_gpa % PAGE))
            case SevKind.KERNEL_HASHES | SevKind.SVSM_CAA:
                digest.add_range(PageType.ZERO, section.gpa, section.size)
    if vmm is Vmm.EC2:  # EC2 adds it after all others
        for section in cpuid:
            digest.add(PageType.CPUID, section.gpa)
    return digest.value


_RESET: Mapping[Vmm, Mapping[str, int]] = {
    Vmm.QEMU: {"ss": 0x93, "tr": 0x8B, "pat": 0x7040600070406, "mxcsr": 0x1F80, "fcw": 0x37F},
    Vmm.EC2: {"ss": 0x92, "tr": 0x83, "pat": 0x7040600070406, "mxcsr": 0, "fcw": 0, "rdx": 0x600},
    Vmm.GCE: {"ss": 0x93, "tr": 0x8B, "pat": 0x00070106, "mxcsr": 0, "fcw": 0, "rdx": 0x600},
}
"""Where the VMMs' reset states differ; QEMU passes the CPU's signature in RDX."""


def save_area(entry: int, cpu_signature: int, features: int, vmm: Vmm) -> bytes:
    """The encrypted save area (VMSA) of one vCPU before its first instruction: one page.

    Args:
        entry: linear address of the first instruction.
    """
    reset = _RESET[vmm]
    page = bytearray(PAGE)

    def segment(at: int, selector: int, attributes: int, limit: int = 0xFFFF, base: int = 0) -> None:
        struct.pack_into("<HHIQ", page, at, selector, attributes, limit, base)

    code = 0x9A if vmm is Vmm.EC2 and entry == _RESET_VECTOR else 0x9B
    for at in (0x00, 0x30, 0x40, 0x50):  # es, ds, fs, gs
        segment(at, 0, 0x93)
    segment(0x10, 0xF000, code, base=entry & 0xFFFF0000)  # cs
    segment(0x20, 0, reset["ss"])
    segment(0x60, 0, 0)  # gdtr
    segment(0x70, 0, 0x82)  # ldtr
    segment(0x80, 0, 0)  # idtr
    segment(0x90, 0, reset["tr"])
    for at, value in (
        (0x0D0, 0x1000),  # EFER: SVME
        (0x148, 0x40),  # CR4: MCE
        (0x158, 0x10),  # CR0: ET
        (0x160, 0x400),  # DR7
        (0x168, 0xFFFF0FF0),  # DR6
        (0x170, 0x2),  # RFLAGS
        (0x178, entry & 0xFFFF),  # RIP
        (0x268, reset["pat"]),
        (0x310, reset.get("rdx", cpu_signature)),
        (0x3B0, features),
        (0x3E8, 0x1),  # XCR0
    ):
        struct.pack_into("<Q", page, at, value)
    struct.pack_into("<I", page, 0x408, reset["mxcsr"])
    struct.pack_into("<H", page, 0x410, reset["fcw"])
    return bytes(page)
