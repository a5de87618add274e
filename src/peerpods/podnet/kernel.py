"""Netlink in the calling thread's network namespace, by pyroute2's blocking calls.

Import this module only in a thread or process that may block, and that runs no asyncio loop (pyroute2 0.9 refuses
there). Everything here blocks.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from peerpods.podnet.facts import MAIN_TABLE, Address, KernelNeighbour, KernelRoute, Link, Namespace
from peerpods.podnet.space import inside

__all__ = ["IPRoute", "NetlinkError", "inside"]

_UNICAST = 1  # RTN_UNICAST
_ONLINK = 4  # RTNH_F_ONLINK
_CLONED = 0x200  # RTM_F_CLONED
_PERMANENT = 0x80  # NUD_PERMANENT
_LOOPBACK = 0x8  # IFF_LOOPBACK
_UP = 0x1  # IFF_UP
_SECONDARY = 0x1  # IFA_F_SECONDARY of IPv4; IFA_F_TEMPORARY of IPv6
_INGRESS = 0xFFFF0000  # TC_H_INGRESS's major: handle of the ingress and clsact qdiscs
_INGRESS_HOOK = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_ALL_PROTOCOLS = 0x0003  # ETH_P_ALL
_FIRST = 1  # priority of our filter
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def read(ipr: IPRoute) -> Namespace:
    """Everything that `plan` wants to know of the current namespace."""
    return Namespace(
        links=tuple(links(ipr)),
        addresses=tuple(_address(m) for m in ipr.get_addr()),
        routes=tuple(one for family in FAMILIES for m in ipr.get_routes(family=family) for one in _kernel_routes(m)),
        neighbours=tuple(
            KernelNeighbour(index=m["ifindex"], ip=m.get("dst"), mac=m.get("lladdr"))
            for family in FAMILIES
            for m in ipr.get_neighbours(family=family)
            if m["state"] & _PERMANENT and m.get("dst") and m.get("lladdr") and int(m["ndm_type"]) == _UNICAST
        ),
    )


def links(ipr: IPRoute) -> list[Link]:
    """All devices of the current namespace."""
    return [_link(m) for m in ipr.get_links()]


def _link(m: Any) -> Link:
    return Link(
        index=m["index"],
        name=m.get("ifname") or "",
        kind=m.get(("linkinfo", "kind")) or "",
        mac=m.get("address") or "",
        mtu=m.get("mtu") or 0,
        up=bool(m["flags"] & _UP),
        loopback=bool(m["flags"] & _LOOPBACK),
        master=m.get("master") or 0,
        alias=m.get("ifalias") or "",
        peer=m.get("link") or 0,
        vni=m.get(("linkinfo", "data", "vxlan_id")) or 0,
        port=m.get(("linkinfo", "data", "vxlan_port")) or 0,
    )


def _address(m: Any) -> Address:
    text = m.get("local") or m.get("address")
    flags = m.get("flags") or 0
    return Address(
        index=m["index"],
        cidr=f"{text}/{m['prefixlen']}",
        scope=m["scope"],
        secondary=bool(flags & _SECONDARY),
    )


def _kernel_routes(m: Any) -> list[KernelRoute]:
    if m["type"] != _UNICAST or (m.get("table") or m["table"]) != MAIN_TABLE or m["flags"] & _CLONED:
        return []
    six = m["family"] == socket.AF_INET6
    dst = m.get("dst") or ("::" if six else "0.0.0.0")
    hops = m.get("multipath")
    hop = hops[0] if hops else m  # of several equal next hops one is enough: the VM has one tunnel
    index = hop["oif"] if hops else m.get("oif")
    if index is None:
        return []
    via = hop.get("via")
    metrics = m.get("metrics")
    return [
        KernelRoute(
            index=index,
            dst=f"{dst}/{m['dst_len']}",
            gateway=hop.get("gateway") or (via["addr"] if via else ""),
            src=m.get("prefsrc") or "",
            metric=m.get("priority") or 0,
            mtu=(metrics.get_attr("RTAX_MTU") if metrics else 0) or 0,
            onlink=bool((hop["flags"] if hops else m["flags"]) & _ONLINK),
            scope=m["scope"],
            protocol=m["proto"],
        )
    ]


def by_name(ipr: IPRoute, name: str) -> Link | None:
    """The device of that name in the current namespace."""
    try:
        return next((_link(m) for m in ipr.get_links(ifname=name)), None)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def remove(ipr: IPRoute, name: str) -> None:
    """Remove a device. Idempotent."""
    link = by_name(ipr, name)
    if link is None:
        return
    try:
        ipr.link("del", index=link.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def make_vxlan(ipr: IPRoute, name: str, *, vni: int, port: int, remote: str, local: str = "") -> None:
    """A point-to-point vxlan device: one remote, no learning (a forged source must not draw the pod's packets).

    Raises:
        NetlinkError: EEXIST when the name or the (VNI, port) is taken, also by a device that moved elsewhere.
    """
    six = ":" in remote
    facts: dict[str, Any] = {"vxlan_id": vni, "vxlan_port": port, "vxlan_learning": 0}
    facts["vxlan_group6" if six else "vxlan_group"] = remote
    if local:
        facts["vxlan_local6" if six else "vxlan_local"] = local
    ipr.link("add", ifname=name, kind="vxlan", **facts)


def move(ipr: IPRoute, index: int, path: str, name: str) -> None:
    """Move a device into another namespace under a new name, in one step.

    Raises:
        NetlinkError: EEXIST when the name is taken there.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ipr.link("set", index=index, net_ns_fd=fd, ifname=name)
    finally:
        os.close(fd)


def no_link_local(ipr: IPRoute, index: int) -> None:
    """The device makes no IPv6 address of its own, so that nothing of this kernel's leaves by the tunnel."""
    mode = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}  # IN6_ADDR_GEN_MODE_NONE
    try:
        ipr.link("set", index=index, IFLA_AF_SPEC={"attrs": [["AF_INET6", mode]]})
    except NetlinkError as error:
        if error.code not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def has_ingress_hook(ipr: IPRoute, index: int) -> bool:
    """Whether the device has an ingress or clsact qdisc."""
    return any(m["handle"] == _INGRESS for m in ipr.get_qdiscs(index=index))


def redirect(ipr: IPRoute, source: int, target: int) -> None:
    """Everything that arrives on `source` leaves by `target`; nothing reaches this kernel's own stack. Idempotent."""
    if not has_ingress_hook(ipr, source):
        ipr.tc("add", "ingress", source, _INGRESS)
    if redirected(ipr, source) == target:
        return
    remove_redirect(ipr, source, keep_qdisc=True)
    action = [{"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": target}]
    shared: dict[str, Any] = {"parent": _INGRESS_HOOK, "prio": _FIRST, "protocol": _ALL_PROTOCOLS, "action": action}
    try:
        ipr.tc("add-filter", "u32", source, target=0, keys=["0x0/0x0+0"], **shared)
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        ipr.tc("add-filter", "matchall", source, **shared)  # a kernel without u32


def redirected(ipr: IPRoute, source: int) -> int | None:
    """Index of the device that our filter on `source` leads to; 0 when that is gone, None without a filter."""
    for m in ipr.get_filters(index=source, parent=_INGRESS_HOOK):
        options = m.get_attr("TCA_OPTIONS")
        if options is None or m["info"] >> 16 != _FIRST:
            continue
        for actions in ("TCA_U32_ACT", "TCA_MATCHALL_ACT"):
            found = options.get_attr(actions)
            for _, one in found["attrs"] if found is not None else ():
                if one.get_attr("TCA_ACT_KIND") == "mirred":
                    return int(one.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")["ifindex"])
    return None


def remove_redirect(ipr: IPRoute, source: int, *, keep_qdisc: bool) -> None:
    """Undo `redirect`. Idempotent."""
    try:
        if keep_qdisc:
            if redirected(ipr, source) is not None:
                ipr.tc("del-filter", index=source, parent=_INGRESS_HOOK, prio=_FIRST, protocol=_ALL_PROTOCOLS)
        else:
            ipr.tc("del", "ingress", source, _INGRESS)
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            raise
