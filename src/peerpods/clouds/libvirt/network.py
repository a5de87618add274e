"""The address of an instance before it boots: which one to reserve. Pure.

A network of libvirt's own with DHCP takes reservations (`<host mac= ip=/>`), live and in its stored form. Where it has
none (a plain bridge, or a range in use to the last address), the lease is awaited instead.
"""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ET
from collections.abc import Collection

import attrs


@attrs.frozen(kw_only=True)
class NetworkFacts:
    """What a network's XML says that matters here."""

    ranges: tuple[tuple[str, str], ...] = ()
    """First and last address of each IPv4 DHCP range."""
    hosts: tuple[tuple[str, str], ...] = ()
    """Reserved (mac, address), lower case."""
    own: tuple[str, ...] = ()
    """The bridge's own addresses."""

    def reserved(self, mac: str) -> str | None:
        """The address reserved for a guest."""
        return next((ip for held, ip in self.hosts if held == mac.lower()), None)


def parse_network(xml: str) -> NetworkFacts:
    """Read what `virNetworkGetXMLDesc` gives."""
    root = ET.fromstring(xml)  # noqa: S314  (from libvirt itself)
    ranges: list[tuple[str, str]] = []
    hosts: list[tuple[str, str]] = []
    own: list[str] = []
    for ip in root.findall("ip"):
        if "address" in ip.attrib:
            own.append(ip.attrib["address"])
        if ip.get("family") == "ipv6":
            continue
        for dhcp in ip.findall("dhcp"):
            ranges += [(r.attrib["start"], r.attrib["end"]) for r in dhcp.findall("range")]
            hosts += [
                (h.attrib["mac"].lower(), h.attrib["ip"])
                for h in dhcp.findall("host")
                if {"mac", "ip"} <= set(h.attrib)
            ]
    return NetworkFacts(ranges=tuple(ranges), hosts=tuple(hosts), own=tuple(own))


def choose_address(facts: NetworkFacts, leased: Collection[str]) -> str | None:
    """The lowest address of a range that is neither reserved, nor leased to anybody, nor the bridge's own.

    A leased address is no choice even when its guest is gone: the DHCP server would not give it to another one.
    """
    taken = {ip for _, ip in facts.hosts} | set(facts.own) | set(leased)
    for first, last in facts.ranges:
        low, high = int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last))
        for number in range(low, min(high, low + 65535) + 1):
            address = str(ipaddress.IPv4Address(number))
            if address not in taken:
                return address
    return None


def host_xml(mac: str, address: str) -> str:
    """The reservation for `virNetworkUpdate`. No name in it: libvirt wants names to be unique too."""
    return ET.tostring(ET.Element("host", {"mac": mac, "ip": address}), encoding="unicode")
