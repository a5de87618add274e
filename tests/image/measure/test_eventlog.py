"""Event logs of real boots: they replay to the registers that the vTPM had, and hold the events that are predicted."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.image.measure import eventlog, tdx
from tests.image.measure import recorded

BOOTS = ("disk", "uki", "kernel")
IMA = 10  # extended by the kernel, which logs elsewhere
LOG = recorded.raw("kernel")


def hexed(name: str) -> bytes:
    return bytes.fromhex(recorded.facts()[name])


def predicted(boot: str) -> list[tdx.Event]:
    """By our own code, from the facts of the image alone; of the disk its partition table as the log has it."""
    facts = recorded.facts()
    sections = [(name, bytes.fromhex(digest)) for name, digest in facts["sections"]]
    then = tdx.unified_kernel_events(sections, hexed("kernel"), facts["cmdline"], hexed("stub_initrd"))
    if boot == "uki":
        return tdx.direct_uki_events(hexed("uki"), then)
    if boot == "disk":
        (table,) = (one.data for one in eventlog.parse(recorded.raw("disk")).events if one.kind == 0x80000006)
        return tdx.disk_boot_events(table, hexed("uki"), then)
    direct = tdx.direct_boot_events(hexed("kernel_as_qemu_gave_it"), facts["cmdline"], b"its digest is put in below")
    digests = {"initrd": hexed("initrd")}
    return [tdx.Event(register=e.register, name=e.name, digest=digests.get(e.name, e.digest)) for e in direct]


@pytest.mark.parametrize("boot", BOOTS)
@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_a_log_replays_to_the_registers_of_the_vtpm(boot: str, algorithm: str) -> None:
    log = eventlog.parse(recorded.raw(boot))
    assert log.algorithms == ("sha1", "sha256", "sha384", "sha512") and not log.of_tee
    values = eventlog.replay(log.events, algorithm)
    assert sorted(values) == [0, 1, 2, 3, 4, 5, 6, 7, 9, *([11] if boot != "kernel" else [])]
    zeros = bytes(hashlib.new(algorithm).digest_size)
    for index, value in recorded.facts()["boots"][boot]["registers"][algorithm].items():
        if int(index) != IMA:
            assert values.get(int(index), zeros).hex() == value, index


@pytest.mark.parametrize("boot", BOOTS)
def test_the_events_of_a_boot_are_the_predicted_ones_in_their_order(boot: str) -> None:
    seen = [(rtmr, one.digests["sha384"]) for rtmr, one in recorded.into_td(eventlog.parse(recorded.raw(boot)).events)]
    assert [pair for pair in seen if pair[0] in (1, 2)] == [(one.register, one.digest) for one in predicted(boot)]


def test_without_secure_boot_the_variables_are_the_published_ones() -> None:
    known = [one.digest for one in tdx.unsecured_events()]
    seen = [one.digests["sha384"] for one in eventlog.parse(LOG).events if one.register == 7]
    assert seen == [known[0], *known[2:]]  # known[1] is of a firmware that knows Secure Boot and has it off


@pytest.mark.parametrize("boot", BOOTS)
def test_as_a_td_s_log_it_makes_the_predicted_registers(boot: str) -> None:
    log = eventlog.parse(recorded.as_ccel(recorded.raw(boot)))
    assert log.of_tee
    values = eventlog.replay(log.events, "sha384")
    expected = tdx.replay(predicted(boot))
    assert (values[2], values[3]) == (expected[1], expected[2])
    events = [event for event, _ in eventlog.of_td(log.events)]
    assert tdx.replay(events)[0] == values[1]


def test_a_vtpm_s_log_is_no_td_s() -> None:
    with pytest.raises(Refused, match="register 0 of the log is no RTMR"):
        eventlog.of_td(eventlog.parse(LOG).events)


def test_events_say_what_they_are() -> None:
    words = [one.words() for one in eventlog.parse(LOG).events]
    assert {"variable SecureBoot", "boot variable BootOrder", "action Exit Boot Services Invocation"} <= set(words)
    assert {"separator", "boot application", "firmware version 2025.02-8+deb13u1"} <= set(words)


def test_what_is_told_only_is_not_extended_and_the_locality_begins_the_register() -> None:
    told = eventlog.Logged(register=0, kind=eventlog.NO_ACTION, digests={"sha256": bytes(32)}, data=b"for people")
    start = eventlog.Logged(
        register=0, kind=eventlog.NO_ACTION, digests={"sha256": bytes(32)}, data=b"StartupLocality\0\3"
    )
    one = eventlog.Logged(register=0, kind=8, digests={"sha256": b"d" * 32}, data=b"")
    assert eventlog.replay([told], "sha256") == {}
    assert eventlog.replay([start, one], "sha256") == {0: hashlib.sha256(bytes(31) + b"\3" + b"d" * 32).digest()}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no whole event log: it ends too early"),
        (bytes(100), "does not begin with the event that names its algorithms"),
        (LOG[:-1], "the event at byte 6[0-9]+ reaches behind its end"),
        (LOG[:40], "its first event reaches behind its end"),
        (LOG[:61] + b"\xff" + LOG[62:], "not known here|is no whole event log"),
        (LOG + struct.pack("<III", 4, 8, 9), "has 9 digests, not 4"),
        (bytes(eventlog.MAXIMUM + 1), "no firmware's log is as large"),
    ],
    ids=["empty", "zeros", "cut", "cut early", "algorithm", "digests", "large"],
)
def test_what_is_no_log_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        eventlog.parse(data)


@given(st.integers(0, len(LOG) - 1), st.binary(min_size=1, max_size=8))
def test_any_damage_is_refused_or_read(at: int, noise: bytes) -> None:
    try:
        log = eventlog.parse(LOG[:at] + noise + LOG[at + len(noise) :])
    except Refused:
        return
    for algorithm in log.algorithms:
        eventlog.replay(log.events, algorithm)
    assert all(one.words().isprintable() for one in log.events)
