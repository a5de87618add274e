"""`peerpods image replay`: a VM's event log against the events that measurements.json predicts. Pure.

A log proves nothing by itself: it counts when its replayed registers are those of a quote that the verifier checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from peerpods.errors import ConfigError, Refused
from peerpods.image.measure import eventlog
from peerpods.image.measure.eventlog import Log

TPM_JUDGED = (4, 9, 11, 12, 13)
TDX_JUDGED = (1, 2)
"""The registers that the image decides whole: nothing goes into PCR 12 and 13, where the stub would put a command line,
credentials or add-ons from outside. Of the other registers the image decides some events, or none.
"""


@attrs.frozen(kw_only=True)
class Row:
    """One event, in the log's order; what the log lacks comes where it should have been."""

    register: str
    digest: str
    text: str
    holds: bool | None
    """None: no value of the image's is known for it, and none is needed."""


@attrs.frozen(kw_only=True)
class Replayed:
    """What a log says."""

    boot: str
    rows: Sequence[Row]
    registers: Mapping[str, str]

    @property
    def holds(self) -> bool:
        """Whether every event that the image decides is as predicted, none lacks and none is added."""
        return all(row.holds is not False for row in self.rows)


@attrs.frozen(kw_only=True)
class _Seen:
    register: int
    digest: str
    text: str


def replay(measured: Mapping[str, Any], log: Log, *, kind: str = "", boot: str = "") -> Replayed:
    """Judge a log.

    Args:
        measured: measurements.json.
        kind: "ccel" or "tpm"; "" for what the log looks like.
        boot: name of the boot in measurements.json; "" for the one that fits best.

    Raises:
        Refused: the log is of neither kind, or the measurements have nothing of this kind.
        ConfigError: no such boot.
    """
    kind = kind or ("ccel" if log.of_tee else "tpm")
    return _of_td(measured, log, boot) if kind == "ccel" else _of_tpm(measured, log, boot)


def _of_td(measured: Mapping[str, Any], log: Log, boot: str) -> Replayed:
    if "tdx" not in measured:
        raise Refused("this image has no TDX values", remedy="give the folder of an image for TDX, or --kind tpm")
    seen = [
        _Seen(register=event.register, digest=event.digest.hex(), text=event.name)
        for event, _ in eventlog.of_td(log.events)
    ]
    boots = _chosen({name: one["events"] for name, one in measured["tdx"]["boots"].items()}, boot)
    known: dict[tuple[int, str], str] = {}
    for firmware in measured["tdx"]["firmware"].values():
        known |= {(0, one["digest"]): one["name"] for one in firmware["rtmr0_events"]}
    name, rows = _best(boots, seen, TDX_JUDGED, known, "register", "RTMR")
    registers = {f"RTMR{index - 1}": value.hex() for index, value in eventlog.replay(log.events, "sha384").items()}
    return Replayed(boot=name, rows=rows, registers=dict(sorted(registers.items())))


def _of_tpm(measured: Mapping[str, Any], log: Log, boot: str) -> Replayed:
    algorithm = next((name for name in ("sha384", "sha256") if name in log.algorithms), "")
    if not algorithm or "vtpm" not in measured:
        raise Refused("the image or the log has no values for a vTPM of SHA-256 or SHA-384")
    events = measured["vtpm"][algorithm]["events"]
    seen = [
        _Seen(register=one.register, digest=one.digests[algorithm].hex(), text=one.words())
        for one in log.events
        if one.extended
    ]
    known = {(7, one["digest"]): one["name"] for one in events if one["pcr"] == 7}
    name, rows = _best(_chosen({"disk": events}, boot), seen, TPM_JUDGED, known, "pcr", "PCR")
    registers = {f"PCR{index}": value.hex() for index, value in sorted(eventlog.replay(log.events, algorithm).items())}
    return Replayed(boot=name, rows=rows, registers=registers)


def _chosen(boots: Mapping[str, Any], boot: str) -> Mapping[str, Any]:
    if boot and boot not in boots:
        raise ConfigError(f"--boot {boot}: no such boot", setting="boot", remedy=f"give one of {', '.join(boots)}")
    return {boot: boots[boot]} if boot else boots


def _best(
    boots: Mapping[str, Any],
    seen: Sequence[_Seen],
    judged: Iterable[int],
    known: Mapping[tuple[int, str], str],
    key: str,
    prefix: str,
) -> tuple[str, list[Row]]:
    """The boot with the fewest rows that do not hold, and its rows."""
    wanted = tuple(judged)
    found = {name: _judge(events, seen, wanted, known, key, prefix) for name, events in boots.items()}
    name = min(found, key=lambda one: sum(row.holds is False for row in found[one]))
    return name, found[name]


def _judge(
    events: Sequence[Mapping[str, Any]],
    seen: Sequence[_Seen],
    judged: tuple[int, ...],
    known: Mapping[tuple[int, str], str],
    key: str,
    prefix: str,
) -> list[Row]:
    """Each judged register is a queue of predicted events; the next event must be the queue's first."""
    queues = {index: [one for one in events if one[key] == index] for index in judged}
    rows = []

    def add(index: int, digest: str, text: str, holds: bool | None) -> None:
        rows.append(Row(register=f"{prefix}{index}", digest=digest, text=text, holds=holds))

    for number, one in enumerate(seen):
        queue = queues.get(one.register)
        if queue is None:
            name = known.get((one.register, one.digest))
            add(one.register, one.digest, name or one.text, True if name else None)
            continue
        at = next((index for index, event in enumerate(queue) if event["digest"] == one.digest), None)
        if at is None:
            add(one.register, one.digest, f"not predicted: {one.text}", False)
            continue
        name, skipped = queue.pop(at)["name"], queue[:at]
        later = {other.digest for other in seen[number:] if other.register == one.register}
        early = any(event["digest"] in later for event in skipped)
        if not early:
            del queue[:at]
            for event in skipped:
                add(one.register, event["digest"], f"not in the log: {event['name']}", False)
        add(one.register, one.digest, f"too early: {name}" if early else name, not early)
    for index, queue in queues.items():
        for event in queue:
            add(index, event["digest"], f"not in the log: {event['name']}", False)
    return rows
