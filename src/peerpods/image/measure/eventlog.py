"""Event logs of firmware: read, and replayed to the registers that they claim.

Sources: TCG PC client platform firmware profile, event logging (the crypto agile log); UEFI 2.10 section 38 (the same
form for confidential computing, CCEL, with registers of the TEE in place of PCRs).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator

import attrs

from peerpods.errors import Refused
from peerpods.image.measure import tdx

MAXIMUM = 16 << 20  # bytes; firmware reserves 64 KiB
NO_ACTION = 3
"""The type of events that are told and not extended."""
KINDS = {
    0x00000001: "POST code",
    NO_ACTION: "no action",
    0x00000004: "separator",
    0x00000006: "tagged event",
    0x00000008: "firmware version",
    0x0000000A: "platform configuration",
    0x0000000D: "initial program",
    0x80000001: "variable",
    0x80000002: "boot variable",
    0x80000003: "boot application",
    0x80000004: "boot driver",
    0x80000006: "partition table",
    0x80000007: "action",
    0x80000008: "firmware volume",
    0x8000000A: "firmware volume",
    0x8000000B: "tables",
    0x800000E0: "authority",
}
"""What the types of events that an OVMF logs mean, for people."""
_ALGORITHMS = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
_SIGNATURE = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
_FILLED = 0xFFFFFFFF  # what firmware fills the room behind a log's end with
_HEADER = struct.Struct("<II20sI")


@attrs.frozen(kw_only=True)
class Logged:
    """One event of a log."""

    register: int
    """As the log has it: a PCR; in a log of a TEE 1 for RTMR0, 2 for RTMR1, and so on."""
    kind: int
    digests: dict[str, bytes]
    """By the algorithm's name for hashlib."""
    data: bytes = attrs.field(repr=False)

    @property
    def extended(self) -> bool:
        """Whether it went into its register."""
        return self.kind != NO_ACTION

    def words(self) -> str:
        """What it says it is, for people; a claim of whoever wrote it."""
        kind = KINDS.get(self.kind, f"type {self.kind:#x}")
        text = self.data
        if self.kind in (0x80000001, 0x80000002, 0x800000E0) and len(text) >= 32:
            text = text[32 : 32 + 2 * min(int.from_bytes(text[16:24], "little"), 64)]
        said = text.replace(b"\0", b"")[:64]
        return f"{kind} {said.decode()}" if said and said.isascii() and said.decode().isprintable() else kind


@attrs.frozen
class Log:
    """A whole log."""

    algorithms: tuple[str, ...]
    events: tuple[Logged, ...]

    @property
    def of_tee(self) -> bool:
        """Whether it looks like a TD's: SHA-384 alone, as RTMRs know nothing else."""
        return self.algorithms == ("sha384",)


def parse(data: bytes, name: str = "the log") -> Log:
    """Read a log; what firmware filled the room behind it with is no part of it.

    Args:
        data: of /sys/kernel/security/tpm0/binary_bios_measurements or /sys/firmware/acpi/tables/data/CCEL.

    Raises:
        Refused: when it is no such log, or ends within an event.
    """
    if len(data) > MAXIMUM:
        raise Refused(f"{name} has {len(data)} bytes: no firmware's log is as large", remedy="give the log's own file")
    try:
        sizes, at = _algorithms(data)
        return Log(tuple(_ALGORITHMS[one] for one in sizes), tuple(_events(data, at, sizes)))
    except (struct.error, ValueError) as error:
        reason = "it ends too early" if isinstance(error, struct.error) else str(error)
        raise Refused(
            f"{name} is no whole event log: {reason}", remedy="give binary_bios_measurements or CCEL as the VM has it"
        ) from error


def _algorithms(data: bytes) -> tuple[dict[int, int], int]:
    """Digest sizes by algorithm, and where the events begin."""
    _, kind, _, size = _HEADER.unpack_from(data)
    head = data[_HEADER.size : _HEADER.size + size]
    if len(head) < size:
        raise ValueError("its first event reaches behind its end")
    if kind != NO_ACTION or not head.startswith(_SIGNATURE):
        raise ValueError("it does not begin with the event that names its algorithms")
    (count,) = struct.unpack_from("<I", head, 24)
    if not 0 < count <= len(_ALGORITHMS):
        raise ValueError(f"it claims {count} algorithms")
    sizes = dict(struct.unpack_from("<HH", head, 28 + 4 * index) for index in range(count))
    for one, length in sizes.items():
        if one not in _ALGORITHMS or hashlib.new(_ALGORITHMS[one]).digest_size != length:
            raise ValueError(f"it has algorithm {one:#x} with {length} bytes, which is not known here")
    return sizes, _HEADER.size + size


def _events(data: bytes, at: int, sizes: dict[int, int]) -> Iterator[Logged]:
    while at < len(data):
        if len(data) - at < 12 and not data[at:].strip(b"\xff"):
            return
        register, kind, count = struct.unpack_from("<III", data, at)
        if register == _FILLED:
            return
        at += 12
        if count != len(sizes):
            raise ValueError(f"the event at byte {at - 12} has {count} digests, not {len(sizes)}")
        digests = {}
        for _ in range(count):
            (one,) = struct.unpack_from("<H", data, at)
            if one not in sizes:
                raise ValueError(f"the event at byte {at} has algorithm {one:#x}, which the log did not name")
            digests[_ALGORITHMS[one]] = data[at + 2 : at + 2 + sizes[one]]
            at += 2 + sizes[one]
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            raise ValueError(f"the event at byte {at} reaches behind its end")
        yield Logged(register=register, kind=kind, digests=digests, data=data[at + 4 : at + 4 + size])
        at += 4 + size


def replay(events: Iterable[Logged], algorithm: str) -> dict[int, bytes]:
    """The registers that the events make, of those that they touch.

    Args:
        algorithm: one of the log's.
    """
    values: dict[int, bytes] = {}
    size = hashlib.new(algorithm).digest_size
    for one in events:
        if one.extended:
            before = values.get(one.register, bytes(size))
            values[one.register] = hashlib.new(algorithm, before + one.digests[algorithm]).digest()
        elif one.data.startswith(_LOCALITY) and len(one.data) == len(_LOCALITY) + 1:
            values[one.register] = one.data[-1:].rjust(size, b"\0")
    return values


def of_td(events: Iterable[Logged]) -> list[tuple[tdx.Event, Logged]]:
    """What went into RTMR0 to RTMR3, from a TD's log, with each event's own words as its name.

    Raises:
        Refused: when an event is of no such register, or has no SHA-384.
    """
    found = []
    for one in events:
        if not one.extended:
            continue
        if not 1 <= one.register <= 4 or "sha384" not in one.digests:
            raise Refused(f"register {one.register} of the log is no RTMR", remedy="give --kind tpm for a vTPM's log")
        found.append((tdx.Event(register=one.register - 1, name=one.words(), digest=one.digests["sha384"]), one))
    return found
