"""Which address is reserved."""

from __future__ import annotations

import pytest

from peerpods.clouds.libvirt.network import NetworkFacts, choose_address, host_xml, parse_network

XML = """
<network><name>n</name><ip address='10.0.0.1' prefix='24'><dhcp>
<range start='10.0.0.2' end='10.0.0.5'><lease expiry='5'/></range>
<host mac='52:54:00:AA:00:01' ip='10.0.0.2'/><host name='only-a-name' ip='10.0.0.9'/></dhcp></ip>
<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::100' end='fd00::1ff'/></dhcp></ip>
</network>
"""


def test_parse() -> None:
    facts = parse_network(XML)
    assert facts.ranges == (("10.0.0.2", "10.0.0.5"),)
    assert facts.reserved("52:54:00:aa:00:01") == "10.0.0.2"
    assert facts.reserved("52:54:00:aa:00:02") is None
    assert facts.own == ("10.0.0.1", "fd00::1")


@pytest.mark.parametrize(
    ("leased", "address"),
    [
        ((), "10.0.0.3"),
        (("10.0.0.3", "10.0.0.4"), "10.0.0.5"),
        (("10.0.0.3", "10.0.0.4", "10.0.0.5"), None),
    ],
)
def test_choice(leased: tuple[str, ...], address: str | None) -> None:
    assert choose_address(parse_network(XML), leased) == address


def test_no_range_no_choice() -> None:
    assert choose_address(parse_network("<network><bridge name='b'/></network>"), ()) is None
    assert choose_address(NetworkFacts(ranges=(("10.0.0.1", "10.0.0.1"),), own=("10.0.0.1",)), ()) is None


def test_host_xml() -> None:
    assert host_xml("52:54:00:00:00:01", "10.0.0.7") == '<host mac="52:54:00:00:00:01" ip="10.0.0.7" />'
