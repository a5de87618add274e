"""`peerpods image replay`: logs of real boots, and of a synthetic TD, against what is predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from peerpods.cli.main import cli
from peerpods.errors import ConfigError, Refused
from peerpods.image.measure import eventlog, tdx
from peerpods.image.publish.replay import Replayed, replay
from tests.image.measure import recorded
from tests.image.measure.test_eventlog import BOOTS, predicted
from tests.image.publish.conftest import Maker


def row(one: tdx.Event) -> dict[str, Any]:
    return {"register": one.register, "name": one.name, "digest": one.digest.hex()}


def measured() -> dict[str, Any]:
    """What measurements.json has of the recorded image."""
    return {
        "tdx": {
            "boots": {boot: {"events": [row(one) for one in predicted(boot)]} for boot in BOOTS},
            "firmware": {"OVMF.fd": {"rtmr0_events": [row(one) for one in tdx.unsecured_events()]}},
        }
    }


def judged(log: bytes, **words: str) -> Replayed:
    return replay(measured(), eventlog.parse(log), **words)


def wrong(found: Replayed) -> list[tuple[str, str]]:
    return [(one.register, one.text) for one in found.rows if one.holds is False]


def events(boot: str) -> list[tuple[int, bytes, int, bytes]]:
    pairs = recorded.into_td(eventlog.parse(recorded.raw(boot)).events)
    return [(rtmr, one.digests["sha384"], one.kind, one.data) for rtmr, one in pairs]


@pytest.mark.parametrize("boot", BOOTS)
def test_a_log_as_predicted_holds_and_names_its_boot(boot: str) -> None:
    found = judged(recorded.as_ccel(recorded.raw(boot)))
    assert (found.boot, found.holds) == (boot, True)
    assert found.registers["RTMR1"] == tdx.replay(predicted(boot))[1].hex()
    by_text = {one.text: one.holds for one in found.rows}
    assert by_text["PK"] is True  # RTMR0: what the firmware decides is known
    assert by_text["boot variable BootOrder"] is None  # and what the machine decides is not
    assert by_text["exit boot services"] is True


def test_a_changed_event_is_not_predicted_and_the_right_one_is_missed() -> None:
    changed = events("disk")
    at = next(index for index, one in enumerate(changed) if one[2] == 0x80000006)
    changed[at] = (changed[at][0], b"\1" * 48, *changed[at][2:])
    assert wrong(judged(recorded.ccel(changed), boot="disk")) == [
        ("RTMR1", "not predicted: partition table"),
        ("RTMR1", "not in the log: partition table"),
    ]


def test_an_event_too_many_too_few_or_too_early_does_not_hold() -> None:
    right = events("disk")
    more = recorded.ccel([*right, (2, b"\2" * 48, 6, b"")])
    assert wrong(judged(more)) == [("RTMR2", "not predicted: tagged event")]
    assert wrong(judged(recorded.ccel(right[:-1]))) == [("RTMR1", "not in the log: exit boot services succeeded")]
    swapped = recorded.ccel([*right[:-2], right[-1], right[-2]])
    assert wrong(judged(swapped)) == [("RTMR1", "too early: exit boot services succeeded")]
    own = recorded.ccel([*right, (3, b"\3" * 48, 6, b"")])  # RTMR3 is the guest's
    assert judged(own).holds


def test_another_boot_than_the_named_one_does_not_hold() -> None:
    assert not judged(recorded.as_ccel(recorded.raw("disk")), boot="uki").holds
    with pytest.raises(ConfigError, match="--boot usb: no such boot"):
        judged(recorded.as_ccel(recorded.raw("disk")), boot="usb")


def test_a_vtpm_s_log_against_its_registers() -> None:
    log = eventlog.parse(recorded.raw("disk"))
    kept = [one for one in log.events if one.register in (4, 7, 9, 11)]
    rows = [{"pcr": one.register, "name": one.words(), "digest": one.digests["sha384"].hex()} for one in kept]
    values = {"vtpm": {"sha384": {"events": rows}}}
    assert replay(values, log).holds
    more = eventlog.Logged(register=12, kind=13, digests=kept[0].digests, data=b"")
    found = replay(values, eventlog.Log(log.algorithms, (*log.events, more)))
    assert wrong(found) == [("PCR12", "not predicted: initial program")]  # a command line from outside
    with pytest.raises(Refused, match="no TDX values"):
        replay(values, log, kind="ccel")


def test_the_command_prints_events_and_registers(make_image: Maker, tmp_path: Path) -> None:
    image = make_image(tee="tdx")
    boot = image.json("measurements.json")["tdx"]["boots"]["disk"]
    rows = [(one["register"], bytes.fromhex(one["digest"]), 6, b"") for one in boot["events"]]
    log = tmp_path / "CCEL"

    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(cli, ["image", "replay", str(image.path), str(log), *words])
        return done.exit_code, done.stdout, done.stderr

    log.write_bytes(recorded.ccel(rows))
    code, out, _ = run()
    assert code == 0 and "partition table" in out and f"RTMR1         {boot['rtmr']['1']}" in out
    code, out, _ = run("--json")
    assert (code, json.loads(out)["registers"]["RTMR2"]) == (0, boot["rtmr"]["2"])
    log.write_bytes(recorded.ccel(rows[1:]))
    code, out, _ = run("--boot", "disk")
    assert code == 1 and "FAILED RTMR1" in out and "not in the log: calling EFI application" in out
    code, _, err = run("--boot", "usb")
    assert (code, err) == (2, "peerpods: --boot usb: no such boot (give one of disk, kernel, uki)\n")
    log.write_bytes(b"no log")
    code, _, err = run()
    assert code == 1 and err.count("\n") == 1 and "is no whole event log" in err
