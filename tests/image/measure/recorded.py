"""Event logs of real boots (tests/fixtures/image/eventlogs.json), and the same events as a TD would have logged them.

The TPM's firmware code and a TD's measure the same things; what differs is where they go (UEFI 2.10 section 38.4.1) and
the separators: a vTPM has one a PCR, a TD one in RTMR0 and one in RTMR1.
"""

from __future__ import annotations

import base64
import functools
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peerpods.image.measure import eventlog
from peerpods.image.measure.eventlog import Logged

SEPARATOR = 4
RTMR0, RTMR1, RTMR2 = (1, 7), (2, 3, 4, 5, 6), tuple(range(8, 16))


@functools.cache
def facts() -> dict[str, Any]:
    """The whole file."""
    file = Path(__file__).resolve().parents[2] / "fixtures/image/eventlogs.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def raw(boot: str) -> bytes:
    """A log as the VM's kernel gave it."""
    return base64.b64decode(facts()["boots"][boot]["log"])


def into_td(events: Iterable[Logged]) -> Iterator[tuple[int, Logged]]:
    """RTMR and event, of those that a TD would have logged."""
    for one in events:
        rtmr = next((index for index, pcrs in enumerate((RTMR0, RTMR1, RTMR2)) if one.register in pcrs), None)
        doubled = one.kind == SEPARATOR and one.register not in (7, 4)
        if one.extended and rtmr is not None and not doubled:
            yield rtmr, one


def ccel(events: Iterable[tuple[int, bytes, int, bytes]]) -> bytes:
    """A TD's log with these events (RTMR, SHA-384 digest, type, data), and the room behind it, as edk2 writes it."""
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0xC, 48, 0)
    log = struct.pack("<II20sI", 1, eventlog.NO_ACTION, b"", len(head)) + head
    for rtmr, digest, kind, data in events:
        log += struct.pack("<IIIH", rtmr + 1, kind, 1, 0xC) + digest + struct.pack("<I", len(data)) + data
    return log + b"\xff" * 1000


def as_ccel(log: bytes) -> bytes:
    """A vTPM's log as a TD's."""
    pairs = into_td(eventlog.parse(log).events)
    return ccel((rtmr, one.digests["sha384"], one.kind, one.data) for rtmr, one in pairs)
