"""What a network namespace holds, as plain values: the input of every decision in `plan`. No I/O."""

from __future__ import annotations

import ipaddress

import attrs

LINK_SCOPE = 253  # RT_SCOPE_LINK
MAIN_TABLE = 254  # RT_TABLE_MAIN


@attrs.frozen(kw_only=True)
class Link:
    """A device."""

    index: int
    name: str
    kind: str = ""
    """Driver as the kernel names it: veth, vxlan, bridge; empty for hardware."""
    mac: str = ""
    mtu: int = 1500
    up: bool = True
    loopback: bool = False
    master: int = 0
    alias: str = ""
    peer: int = 0
    """Of a veth: the other end's index in its own namespace."""
    vni: int = 0
    port: int = 0
    """UDP port of a vxlan device."""


@attrs.frozen(kw_only=True)
class Address:
    """An address of a device."""

    index: int
    cidr: str
    scope: int = 0
    """RT_SCOPE_*: 0 global, 253 link, 254 host."""
    secondary: bool = False

    @property
    def interface(self) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
        """Parsed, with prefix length."""
        return ipaddress.ip_interface(self.cidr)


@attrs.frozen(kw_only=True)
class KernelRoute:
    """A unicast route of the main table."""

    index: int
    dst: str
    gateway: str = ""
    src: str = ""
    metric: int = 0
    mtu: int = 0
    onlink: bool = False
    scope: int = 0
    protocol: int = 3

    @property
    def default(self) -> bool:
        """Whether it is a default route."""
        return self.dst in ("0.0.0.0/0", "::/0")

    @property
    def version(self) -> int:
        """4 or 6: the family of what it leads to."""
        return 6 if ":" in self.dst else 4


@attrs.frozen(kw_only=True)
class KernelNeighbour:
    """A permanent neighbour entry."""

    index: int
    ip: str
    mac: str


@attrs.frozen(kw_only=True)
class Namespace:
    """All of it. Tuples are in the kernel's order."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[KernelRoute, ...] = ()
    neighbours: tuple[KernelNeighbour, ...] = ()

    def link(self, name: str) -> Link | None:
        """The device of that name."""
        return next((one for one in self.links if one.name == name), None)
