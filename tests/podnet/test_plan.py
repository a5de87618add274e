"""Decisions of podnet: pure, no namespaces."""

from __future__ import annotations

import attrs
import pytest

from peerpods.errors import Refused
from peerpods.model import PodNetwork, Route, SandboxId
from peerpods.podnet import plan
from peerpods.podnet.facts import Address, KernelNeighbour, KernelRoute, Link, Namespace

HOST = Namespace(
    links=(Link(index=1, name="lo", loopback=True), Link(index=2, name="ens5", mtu=9001), Link(index=3, name="ens6")),
    addresses=(
        Address(index=1, cidr="127.0.0.1/8", scope=254),
        Address(index=2, cidr="10.0.0.9/24", secondary=True),
        Address(index=2, cidr="10.0.0.5/24"),
        Address(index=3, cidr="10.0.1.5/24"),
    ),
    routes=(
        KernelRoute(index=3, dst="0.0.0.0/0", gateway="10.0.1.1", metric=1000),
        KernelRoute(index=2, dst="0.0.0.0/0", gateway="10.0.0.1", metric=100),
    ),
)
POD = Namespace(
    links=(Link(index=1, name="lo", loopback=True), Link(index=2, name="eth0", mac="02:00:00:00:00:01", mtu=1500)),
    addresses=(Address(index=2, cidr="10.1.0.2/24"),),
    routes=(KernelRoute(index=2, dst="0.0.0.0/0", gateway="10.1.0.1"),),
)
SANDBOX = SandboxId("c" * 64)


def look(pod: Namespace = POD, host: Namespace = HOST, interface: str = "") -> PodNetwork:
    return plan.pod_network(pod, host, netns="/run/netns/x", host_interface=interface)


def test_the_lowest_metric_chooses_the_underlay_whatever_the_names() -> None:
    network = look()
    assert (network.node_address, network.underlay_mtu) == ("10.0.0.5", 9001)
    swapped = attrs.evolve(HOST, routes=tuple(attrs.evolve(r, metric=1100 - r.metric) for r in HOST.routes))
    assert look(host=swapped).node_address == "10.0.1.5"
    assert look(interface="ens6").node_address == "10.0.1.5"


def test_an_underlay_too_small_for_ipv6_is_refused_only_when_the_pod_has_it() -> None:
    small = attrs.evolve(HOST, links=tuple(attrs.evolve(one, mtu=1320) for one in HOST.links))
    assert look(host=small).underlay_mtu == 1320
    both = attrs.evolve(POD, addresses=(*POD.addresses, Address(index=2, cidr="fd00::2/64")))
    with pytest.raises(Refused, match="MTU 1320, which leaves 1270"):
        look(both, small)
    assert look(both, attrs.evolve(small, links=tuple(attrs.evolve(one, mtu=1330) for one in small.links))).addresses


def test_the_lowest_metric_chooses_the_pods_interface() -> None:
    two = attrs.evolve(
        POD,
        links=(*POD.links, Link(index=3, name="eth1", mac="02:00:00:00:00:02", mtu=1400)),
        addresses=(*POD.addresses, Address(index=3, cidr="10.2.0.2/24")),
        routes=(
            KernelRoute(index=2, dst="0.0.0.0/0", gateway="10.1.0.1", metric=1000),
            KernelRoute(index=3, dst="0.0.0.0/0", gateway="10.2.0.1", metric=100),
        ),
    )
    network = look(two)
    assert (network.interface, network.mac, network.mtu) == ("eth1", "02:00:00:00:00:02", 1400)
    assert network.addresses == ("10.2.0.2/24",)
    assert [one.gateway for one in network.routes] == ["10.2.0.1"]


def test_families() -> None:
    six = (Address(index=2, cidr="fe80::1/64", scope=253), Address(index=2, cidr="fd00::2/64"))
    dual = attrs.evolve(POD, addresses=(*six, *POD.addresses))
    assert look(dual).addresses == ("10.1.0.2/24", "fd00::2/64")
    routes = (
        KernelRoute(index=2, dst="fe80::/64", protocol=2),
        KernelRoute(index=2, dst="::/0", gateway="fe80::9", metric=1024),
    )
    only = look(attrs.evolve(POD, addresses=six, routes=routes))
    assert only.addresses == ("fd00::2/64",)
    assert [one.dst for one in only.routes] == ["::/0"]


def test_a_pod_without_default_route() -> None:
    alone = attrs.evolve(POD, routes=())
    assert look(alone).interface == "eth0"
    two = attrs.evolve(
        alone,
        links=(*POD.links, Link(index=3, name="net1")),
        addresses=(*POD.addresses, Address(index=3, cidr="10.2.0.2/24")),
    )
    with pytest.raises(Refused, match="eth0, net1") as caught:
        look(two)
    assert caught.value.remedy
    with pytest.raises(Refused, match="no interface with an address"):
        look(attrs.evolve(alone, addresses=()))
    with pytest.raises(Refused, match="eth0 in /run/netns/x has no address"):
        look(attrs.evolve(POD, addresses=()))


def test_our_own_tunnel_is_never_the_pods_interface() -> None:
    mark = plan.Mark(sandbox="s").text()
    pod = attrs.evolve(
        POD,
        links=(*POD.links, Link(index=3, name="vxlan1", kind="vxlan", alias=mark)),
        addresses=(*POD.addresses, Address(index=3, cidr="10.3.0.1/24")),
        routes=(),
    )
    assert look(pod).interface == "eth0"


def test_a_node_without_default_route() -> None:
    bare = attrs.evolve(HOST, routes=())
    with pytest.raises(Refused, match="ens5, ens6") as caught:
        look(host=bare)
    assert "host-interface" in str(caught.value)
    veths = attrs.evolve(
        bare, links=tuple(attrs.evolve(x, kind="veth" if x.name == "ens6" else "") for x in HOST.links)
    )
    assert look(host=veths).node_address == "10.0.0.5"


def test_neighbours_and_route_facts_are_kept() -> None:
    route = KernelRoute(
        index=2, dst="10.9.0.0/16", gateway="169.254.1.1", src="10.1.0.2", metric=7, mtu=1300, onlink=True, protocol=4
    )
    pod = attrs.evolve(
        POD,
        routes=(*POD.routes, route),
        neighbours=(
            KernelNeighbour(index=2, ip="169.254.1.1", mac="ee:ee:ee:ee:ee:ee"),
            KernelNeighbour(index=9, ip="10.0.0.1", mac="02:00:00:00:00:09"),
        ),
    )
    network = look(pod)
    assert [one.ip for one in network.neighbours] == ["169.254.1.1"]
    assert network.routes[1] == Route(
        dst="10.9.0.0/16",
        gateway="169.254.1.1",
        dev="eth0",
        src="10.1.0.2",
        metric=7,
        mtu=1300,
        onlink=True,
        protocol=4,
    )


@pytest.mark.parametrize(
    ("underlay", "node", "remote", "mtu"),
    [(1500, "10.0.0.1", "10.0.0.2", 1450), (9001, "10.0.0.1", "10.0.0.2", 8951), (1500, "fd00::1", "fd00::2", 1430)],
)
def test_tunnel_mtu(underlay: int, node: str, remote: str, mtu: int) -> None:
    network = attrs.evolve(look(), underlay_mtu=underlay, node_address=node)
    tunnel = plan.tunnel_for(SANDBOX, network, "/n", remote, 555000, 4789)
    assert (tunnel.mtu, tunnel.local, tunnel.remote) == (mtu, node, remote)
    guest = plan.guest_plan(network, vni=1, port=4789, underlay_mtu=1500)
    assert guest.mtu == min(mtu, 1450, network.mtu)


def test_ends_of_different_families_are_refused() -> None:
    with pytest.raises(Refused, match="not the same family"):
        plan.tunnel_for(SANDBOX, look(), "/n", "fd00::2", 555000, 4789)


def test_routes_are_ordered_so_that_each_gateway_is_reachable() -> None:
    routes = [
        Route(dst="0.0.0.0/0", gateway="10.1.0.1"),
        Route(dst="10.50.0.0/16", gateway="169.254.1.1", onlink=True, mtu=9000),
        Route(dst="10.1.0.0/24"),
        Route(dst="10.1.0.1/32", scope=253),
    ]
    ordered = plan.order_routes(routes, 1450)
    assert [one.dst for one in ordered] == ["10.1.0.1/32", "10.1.0.0/24", "10.50.0.0/16", "0.0.0.0/0"]
    assert ordered[2].mtu == 1450


def test_marks_come_back_and_strangers_are_none() -> None:
    mark = plan.Mark(sandbox="s" * 64, pod_mtu=1500, peer_mtu=9001, kept_qdisc=True)
    assert plan.parse_mark(mark.text()) == mark
    assert len(mark.text()) < 256
    for text in ("", "peerpods", "uplink to rack 4", "peerpods s x 0 0", "other s 0 0 0"):
        assert plan.parse_mark(text) is None


def test_device_names_fit_and_differ() -> None:
    names = {plan.device_name(SandboxId(f"{number:064x}")) for number in range(500)}
    assert len(names) == 500
    assert all(len(one) <= 15 for one in names)


def test_vnis_rest_before_they_are_used_again() -> None:
    assert plan.next_vni(set(), 555000, 0)[0] == 555000
    assert plan.next_vni({555001, 555002}, 555000, 555000)[0] == 555003
    top = (1 << 24) - 1
    assert plan.next_vni({top}, top - 2, top - 1) == [top - 2, top - 1]
    assert plan.next_vni({top}, top, 0) == []
