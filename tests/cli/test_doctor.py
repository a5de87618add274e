"""The doctor's findings have a remedy each, and programs can read them."""

from __future__ import annotations

import json

from click.testing import CliRunner

from peerpods.cli import doctor
from peerpods.cli.main import cli


def test_every_finding_that_is_not_well_has_a_remedy():
    done = CliRunner().invoke(cli, ["doctor", "--json", "--config", "/nowhere.toml"])
    findings = json.loads(done.stdout)
    assert {f["check"] for f in findings} >= {"root", "kvm", "libvirt", "vxlan", "nftables", "adaptor", "relay"}
    for finding in findings:
        assert finding["result"] == doctor.OK or finding["remedy"], finding
    (configuration,) = [f for f in findings if f["check"] == "configuration"]
    assert configuration["result"] == doctor.BAD
    assert done.exit_code == 1


def test_a_child_namespace_reports_what_failed():
    def work() -> None:
        raise ValueError("it broke")

    assert "it broke" in doctor._in_child_namespace(work) or "Operation not permitted" in doctor._in_child_namespace(
        work
    )
