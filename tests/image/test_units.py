"""The unit table: whole, ordered, rendered; and the minimal init does the same steps in the same order."""

from __future__ import annotations

import configparser
import re
from graphlib import TopologicalSorter

import pytest

from peerpods.image import inputs, units
from peerpods.image.tree import GUEST
from peerpods.image.units import Unit
from peerpods.image.variant import Variant, choose
from peerpods.userdata.cloud_config import ALLOWED_PATHS, FOLDER
from peerpods.userdata.initdata import EXTRACTED
from peerpods.userdata.sources import METADATA_ADDRESS

IMAGES = [(choose("snp", "amd64", "prod"), "kata"), (choose("none", "amd64", "prod-test"), "development")]
BROUGHT = {"basic.target", "sysinit.target", "multi-user.target", "network-pre.target", "network-online.target"}
BROUGHT |= {"systemd-networkd.service", "systemd-modules-load.service", "systemd-udev-settle.service"}


@pytest.mark.parametrize(("variant", "agent"), IMAGES, ids=["prod", "prod-test"])
def test_what_a_unit_needs_is_there_and_nothing_waits_in_a_circle(variant: Variant, agent: str) -> None:
    found = units.for_image(variant, agent)
    names = {unit.name for unit in found} | BROUGHT
    order: dict[str, set[str]] = {}
    for unit in found:
        assert set(unit.requires) <= names, unit.name
        order.setdefault(unit.name, set()).update(unit.after)
        for later in unit.before:
            order.setdefault(later, set()).add(unit.name)
    positions = {name: index for index, name in enumerate(TopologicalSorter(order).static_order())}
    assert positions["peerpods-prepare.service"] < positions["peerpods-network.service"]
    assert positions["peerpods-network.service"] < positions["peerpods-forwarder.service"]
    assert positions["peerpods-firewall.service"] < positions["systemd-networkd.service"]


def test_what_is_required_is_also_waited_for() -> None:
    for unit in units.load():
        assert set(unit.requires) <= set(unit.after), f"{unit.name} requires what it does not wait for"


def test_prod_and_its_test_image_differ_in_the_agent_only() -> None:
    texts = [{u.name: units.render(u) for u in units.for_image(variant, agent)} for variant, agent in IMAGES]
    components = {"attestation-agent.service", "confidential-data-hub.service", "api-server-rest.service"}
    common = texts[0].keys() & texts[1].keys()
    assert all(texts[0][name] == texts[1][name] for name in common)
    assert texts[0].keys() - common == {"kata-agent.service"} | components
    assert texts[1].keys() - common == {"peerpods-agent.service"}


def test_the_debug_image_alone_has_a_shell() -> None:
    for profile in ("prod", "prod-test", "debug"):
        names = {unit.name for unit in units.for_image(choose("tdx", "amd64", profile), "development")}
        assert ("peerpods-shell.service" in names) == (profile == "debug")


@pytest.mark.parametrize("unit", units.load(), ids=lambda unit: unit.name)
def test_units_render_to_files_that_parse(unit: Unit) -> None:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(units.render(unit))
    assert parser["Unit"]["Description"] == unit.description
    if unit.name.endswith(".service"):
        assert parser["Service"]["ExecStart"].startswith("/")
        assert not re.search(r"/(ba|da)?sh\b", parser["Service"]["ExecStart"])


def test_the_end_of_what_guards_is_the_end_of_the_vm() -> None:
    for unit in units.for_image(*IMAGES[0]):
        if unit.name.startswith(("peerpods-", "kata-")) and unit.name.endswith(".service"):
            assert unit.unit.get("FailureAction") == "poweroff-force", unit.name


def test_the_agent_gets_the_policy_of_the_initdata_or_none_that_allows_anything() -> None:
    (unit,) = (unit for unit in units.load() if unit.name == "kata-agent.service")
    *mount, source, target = unit.service["ExecStartPre"].split()
    assert mount == ["-/usr/bin/mount", "--bind", "-o", "ro"]
    assert source == f"{FOLDER}/policy.rego" and source not in ALLOWED_PATHS  # only initdata, which is measured, has it
    assert "policy.rego" in EXTRACTED and "peerpods-prepare.service" in unit.requires
    assert inputs.DATA["files"][target.removeprefix("/")].rstrip().endswith("AllowRequestsFailingPolicy := false")


def test_the_forwarder_holds_no_rights() -> None:
    (unit,) = (unit for unit in units.load() if unit.name == "peerpods-forwarder.service")
    assert unit.service["CapabilityBoundingSet"] == ""
    assert unit.service["NoNewPrivileges"] == unit.service["MemoryDenyWriteExecute"] == "yes"
    assert "~@privileged" in " ".join(unit.service["SystemCallFilter"])


def test_enabling_links_point_at_units() -> None:
    found = units.for_image(*IMAGES[0])
    links = units.links(found)
    assert links["peerpods.target.wants/peerpods-forwarder.service"] == "../peerpods-forwarder.service"
    assert {target.removeprefix("../") for target in links.values()} <= {unit.name for unit in found}


def test_the_minimal_init_does_the_same_steps_in_the_same_order() -> None:
    source = (GUEST / "boot.py").read_text()
    main = source[source.index("def main()") :]
    marks = {
        "user-data": "read_user_data()",
        "network": "network = PodNetwork(",
        "forwarder": '"forwarder"',
        "agent": '"agent"',
    }
    places = [main.index(marks[step]) for step in units.minimal_steps()]
    assert places == sorted(places)
    assert set(marks) == set(units.minimal_steps())


def test_the_node_has_its_services() -> None:
    names = {unit.name for unit in units.for_node()}
    assert names >= {"peerpods-adaptor.service", "peerpods-relay.service", "peerpods-webhook.service"}
    assert names >= {"peerpod-ctrl.service", "peerpodconfig-ctrl.service"}


def test_the_firewall_drops_what_nobody_named_and_keeps_the_metadata_service_to_root() -> None:
    text = (GUEST / "system/firewall.nft").read_text()
    rules = [line.strip() for line in text.splitlines()]
    assert "type filter hook input priority filter; policy drop;" in rules
    assert "type filter hook forward priority filter; policy drop;" in rules
    for address in (f"ip daddr {METADATA_ADDRESS}", "ip6 daddr fd00:ec2::254"):
        assert any(rule.startswith(f"{address} meta skuid != 0 drop") for rule in rules)
    assert {port for rule in rules for port in re.findall(r"^tcp dport (\S+) accept", rule)} == {"15150"}
