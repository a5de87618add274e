"""Decisions about a pod's network: which interface, which addresses, what the tunnel is, what to do at each end.

Pure: facts and values in, values out. Rules: spec upstream section 5, with its defects mended.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence

import attrs

from peerpods.errors import Refused
from peerpods.model import Neighbour, PodNetwork, Route, SandboxId, Tunnel
from peerpods.podnet.facts import LINK_SCOPE, Address, KernelRoute, Link, Namespace

OVERHEAD = {4: 50, 6: 70}  # bytes: outer IP (20 or 40) + UDP 8 + VXLAN 8 + inner Ethernet 14
ALIAS = "peerpods"
TUNNEL_DEVICE = "vxlan1"
"""What the tunnel's device is called in the pod's namespace, where that name is free; it is found by its VNI."""
MIN_MTU_V6 = 1280
"""RFC 8200: the kernel takes IPv6 from a device with less."""


def device_name(sandbox: SandboxId) -> str:
    """Name of the tunnel's device while it is in the worker's namespace: one per sandbox, at most 15 characters."""
    return "pp" + hashlib.sha256(sandbox.encode()).hexdigest()[:12]


@attrs.frozen(kw_only=True)
class Mark:
    """What we write on the tunnel's device (its alias), so that tear-down and sweep need no other memory."""

    sandbox: str
    pod_mtu: int = 0
    """MTU that the pod's interface had before; 0: it was not changed."""
    peer_mtu: int = 0
    """The same of the veth's other end."""
    kept_qdisc: bool = False
    """The pod's interface had an ingress hook before us, which stays."""

    def text(self) -> str:
        """At most 255 characters (IFALIASZ)."""
        return f"{ALIAS} {self.sandbox[:160]} {self.pod_mtu} {self.peer_mtu} {int(self.kept_qdisc)}"


def parse_mark(alias: str) -> Mark | None:
    """The mark in a device's alias, or None when the device is not ours."""
    words = alias.split()
    if len(words) != 5 or words[0] != ALIAS or not all(word.isdigit() for word in words[2:]):
        return None
    return Mark(sandbox=words[1], pod_mtu=int(words[2]), peer_mtu=int(words[3]), kept_qdisc=words[4] == "1")


def tunnel_mtu(underlay_mtu: int, node_address: str) -> int:
    """Largest inner packet that crosses the underlay in one piece: 50 less with an IPv4 outer header, 70 with IPv6."""
    return underlay_mtu - OVERHEAD[ipaddress.ip_address(node_address).version]


def tunnel_for(sandbox: SandboxId, network: PodNetwork, netns: str, remote: str, vni: int, port: int) -> Tunnel:
    """The worker's end of the tunnel.

    Args:
        netns: path of the pod's namespace.
        remote: the VM's address, of the same family as the node's.

    Raises:
        Refused: when one end has IPv4 and the other IPv6.
    """
    if ipaddress.ip_address(remote).version != ipaddress.ip_address(network.node_address).version:
        raise Refused(
            f"the VM has {remote} and this node sends tunnels from {network.node_address}: not the same family",
            sandbox=sandbox,
            remedy="set host-interface to one that has an address of the VM's family",
        )
    return Tunnel(
        sandbox=sandbox,
        netns=netns,
        interface=network.interface,
        remote=remote,
        local=network.node_address,
        vni=vni,
        port=port,
        mtu=tunnel_mtu(network.underlay_mtu, network.node_address),
    )


def pod_network(pod: Namespace, host: Namespace, *, netns: str, host_interface: str = "") -> PodNetwork:
    """What CreateVM must know of the pod's namespace and of this node.

    Raises:
        Refused: with a remedy, when the pod or the node has no usable interface or address.
    """
    link = pod_interface(pod, netns)
    addresses = _pod_addresses(pod, link)
    if not addresses:
        raise Refused(
            f"interface {link.name} in {netns} has no address",
            remedy="the CNI plugin must give the pod an address before the VM is asked for",
        )
    under = underlay(host, host_interface)
    node_address = _usable(host, under)[0]
    mtu = tunnel_mtu(under.mtu, node_address)
    if mtu < MIN_MTU_V6 and any(":" in one for one in addresses):
        raise Refused(
            f"interface {under.name} of this node has MTU {under.mtu}, which leaves {mtu} for a tunnel:"
            f" IPv6 ({link.name} in {netns} has it) needs {MIN_MTU_V6}",
            remedy="raise that MTU, name another by host-interface, or give pods IPv4 alone",
        )
    return PodNetwork(
        interface=link.name,
        mac=link.mac,
        mtu=link.mtu,
        addresses=addresses,
        routes=tuple(_route(one, link) for one in pod.routes if one.index == link.index and not _automatic(one)),
        neighbours=tuple(Neighbour(ip=n.ip, mac=n.mac, dev=link.name) for n in pod.neighbours if n.index == link.index),
        node_address=node_address,
        underlay_mtu=under.mtu,
    )


def pod_interface(pod: Namespace, netns: str) -> Link:
    """The interface of the default route with the lowest metric, IPv4's first; else the only one with an address.

    Raises:
        Refused: when there is none, or several without a default route.
    """
    ours = {link.index for link in pod.links if parse_mark(link.alias)}
    best = _best_default(pod, ours)
    if best is not None:
        return best
    found = [one for one in pod.links if one.index not in ours and not one.loopback and _pod_addresses(pod, one)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Refused(
            f"{netns} has no interface with an address",
            remedy="the CNI plugin must give the pod an address before the VM is asked for",
        )
    names = ", ".join(one.name for one in found)
    raise Refused(
        f"{netns} has no default route and several interfaces with addresses: {names}",
        remedy="give the pod a default route by the interface that the VM shall have",
    )


def underlay(host: Namespace, host_interface: str = "") -> Link:
    """The node's interface that carries tunnels: the one named, else that of the best default route, else the only one.

    Raises:
        Refused: when there is none, or it has no address.
    """
    remedy = "set host-interface to the interface that reaches the VMs"
    if host_interface:
        named = host.link(host_interface)
        if named is None:
            names = ", ".join(one.name for one in host.links)
            raise Refused(f"this node has no interface {host_interface!r}, only {names}", remedy=remedy)
        if not _usable(host, named):
            raise Refused(f"interface {host_interface} of this node has no address", remedy=remedy)
        return named
    best = _best_default(host, {one.index for one in host.links if not _usable(host, one)})
    if best is not None:
        return best
    found = [one for one in host.links if one.up and not one.loopback and not one.master and _usable(host, one)]
    found = [one for one in found if one.kind != "veth"] or found
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise Refused(f"this node has no default route; interfaces with an address: {names}", remedy=remedy)
    return found[0]


def _best_default(space: Namespace, excluded: set[int]) -> Link | None:
    links = {one.index: one for one in space.links}
    routes = [one for one in space.routes if one.default and one.index in links and one.index not in excluded]
    if not routes:
        return None
    return links[min(routes, key=lambda one: (one.version, one.metric)).index]


def _pod_addresses(pod: Namespace, link: Link) -> tuple[str, ...]:
    """IPv4 first, then IPv6; without link-local ones, which the VM's kernel makes from the same MAC."""
    found = [one.interface for one in pod.addresses if one.index == link.index]
    kept = [one for one in found if not (one.version == 6 and one.ip.is_link_local) and not one.ip.is_loopback]
    return tuple(str(one) for one in sorted(kept, key=lambda one: one.version))


def _usable(host: Namespace, link: Link) -> list[str]:
    """A node's addresses that a VM could send to: global scope, primary ones first, IPv4 first."""

    def order(one: Address) -> tuple[bool, int]:
        return (one.secondary, one.interface.version)

    found = [one for one in host.addresses if one.index == link.index and one.scope == 0]
    ordered = sorted(found, key=lambda one: (one.interface.version, one.secondary))
    return [str(one.interface.ip) for one in ordered]


def _automatic(route: KernelRoute) -> bool:
    """IPv6's link-local and multicast routes: every interface makes its own."""
    net = ipaddress.ip_network(route.dst)
    return net.version == 6 and (net.is_link_local or net.is_multicast)


def _route(one: KernelRoute, link: Link) -> Route:
    return Route(
        dst=one.dst,
        gateway=one.gateway,
        dev=link.name,
        src=one.src,
        metric=one.metric,
        mtu=one.mtu,
        onlink=one.onlink,
        scope=one.scope,
        protocol=one.protocol,
    )


@attrs.frozen(kw_only=True)
class GuestPlan:
    """What the VM's end must be, in the order in which it is applied."""

    name: str
    mac: str
    mtu: int
    vni: int
    port: int
    remote: str
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]


def guest_plan(network: PodNetwork, *, vni: int, port: int, underlay_mtu: int) -> GuestPlan:
    """The VM's end of a pod's network.

    Args:
        underlay_mtu: of the VM's interface that leads to the node; the smaller of both ends' counts.
    """
    mtu = min(network.mtu, tunnel_mtu(min(network.underlay_mtu, underlay_mtu), network.node_address))
    return GuestPlan(
        name=network.interface,
        mac=network.mac,
        mtu=mtu,
        vni=vni,
        port=port,
        remote=network.node_address,
        addresses=network.addresses,
        routes=order_routes(network.routes, mtu),
        neighbours=network.neighbours,
    )


def order_routes(routes: Sequence[Route], mtu: int) -> tuple[Route, ...]:
    """Routes without a gateway first, then on-link gateways, then the rest; the narrow before the wide.

    A gateway must be reachable when its route is added. A route's own MTU above the device's would be refused or lie.
    """

    def order(route: Route) -> tuple[int, int]:
        kind = 0 if not route.gateway else 1 if route.onlink or route.scope == LINK_SCOPE else 2
        return kind, -ipaddress.ip_network(route.dst, strict=False).prefixlen

    clamped = [attrs.evolve(one, mtu=min(one.mtu, mtu)) if one.mtu else one for one in routes]
    return tuple(sorted(clamped, key=order))


def next_vni(taken: set[int], minimum: int, last: int) -> list[int]:
    """VNIs to try, in order: those above the last one first, so that a VNI rests before it is used again.

    Bounded: as many as are taken, and 64 more.
    """
    top = (1 << 24) - 1
    start = max(minimum, last + 1)
    found: list[int] = []
    for candidate in (*range(start, min(top, start + len(taken) + 64) + 1), *range(minimum, start)):
        if candidate not in taken:
            found.append(candidate)
        if len(found) == 64:
            break
    return found
