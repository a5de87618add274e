"""What the forked child does in the VM. Blocks; each step is fit to be repeated. Import it only there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from peerpods.errors import GuestError
from peerpods.model import PodNetwork
from peerpods.podnet import nft, plan
from peerpods.podnet.facts import Link
from peerpods.podnet.rtnl import Rtnl
from peerpods.podnet.space import NEWNET, call, inside

PAUSE = 0.05  # seconds between looks for the VM's own network
TEMPORARY = "ppguest0"
COMMENT = "guest"
_BIND = 0x1000  # MS_BIND


def build(network: PodNetwork, *, vni: int, port: int, tunnel: str, path: str, deadline: float) -> None:
    """See `guest.setup_guest`.

    Raises:
        GuestError: no way to the worker within the deadline, or an unknown kind of tunnel.
        OSError: the kernel's words.
    """
    make_namespace(path)
    with inside(path), Rtnl() as pod:
        lo = pod.by_name("lo")
        if lo is not None and not lo.up:
            pod.change(lo.index, up=True)
    if tunnel == "none":
        return
    if tunnel != "vxlan":
        raise GuestError(f"the kind of tunnel {tunnel!r} is unknown; this VM knows vxlan and none")
    with Rtnl() as root:
        under = _wait_for_way(root, network.node_address, deadline)
        wanted = plan.guest_plan(network, vni=vni, port=port, underlay_mtu=under.mtu)
        _no_tracking(wanted.remote, port)
        with inside(path), Rtnl() as pod:
            device = _ours(pod, wanted)
        if device is None:
            _make(root, wanted, path)
    with inside(path), Rtnl() as pod:
        _configure(pod, wanted)


def make_namespace(path: str) -> None:
    """A network namespace mounted at a path; one that is there stays."""
    here = Path("/proc/self/ns/net").stat()
    try:
        if Path(path).stat().st_dev == here.st_dev:
            return
    except FileNotFoundError:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o444))
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("unshare", NEWNET)
        try:
            call("mount", b"/proc/self/ns/net", path.encode(), b"none", _BIND, None)
        finally:
            call("setns", home, NEWNET)
    finally:
        os.close(home)


def _wait_for_way(root: Rtnl, address: str, deadline: float) -> Link:
    """The interface that leads to the worker, once it has an address."""
    while True:
        index = root.route_to(address)
        for link in root.links() if index else ():
            if link.index == index:
                return link
        if time.monotonic() >= deadline:
            raise GuestError(
                f"this VM has no route to the worker's address {address}",
                remedy="its network must give it an address (DHCP) and a way to the node",
            )
        time.sleep(PAUSE)


def _no_tracking(remote: str, port: int) -> None:
    try:
        nft.add(nft.Element(remote, port, COMMENT))
    except (nft.Unsupported, OSError) as error:
        print(f"tunnel packets are tracked by conntrack: {error}", file=sys.stderr, flush=True)


def _ours(pod: Rtnl, wanted: plan.GuestPlan) -> Link | None:
    """The pod's interface when it is the right tunnel already; a wrong one is removed."""
    link = pod.by_name(wanted.name)
    if link is None:
        return None
    if link.kind == "vxlan" and link.vni == wanted.vni and link.port == wanted.port:
        return link
    if link.kind != "vxlan":
        raise GuestError(f"the pod's namespace already has a {link.kind or 'device'} named {wanted.name}")
    pod.remove(link.index)
    return None


def _make(root: Rtnl, wanted: plan.GuestPlan, path: str) -> None:
    left = root.by_name(TEMPORARY)
    if left is not None:
        root.remove(left.index)
    root.make_vxlan(TEMPORARY, vni=wanted.vni, port=wanted.port, remote=wanted.remote)
    made = root.by_name(TEMPORARY)
    if made is None:
        raise GuestError("the tunnel's device vanished while it was made")
    root.move(made.index, path, wanted.name)


def _configure(pod: Rtnl, wanted: plan.GuestPlan) -> None:
    link = pod.by_name(wanted.name)
    if link is None:
        raise GuestError(f"the interface {wanted.name} did not arrive in the pod's namespace")
    pod.change(link.index, mac=wanted.mac, mtu=wanted.mtu)
    pod.change(link.index, up=True)
    for address in wanted.addresses:
        pod.add_address(link.index, address)
    for route in wanted.routes:
        try:
            pod.add_route(link.index, route)
        except OSError as error:
            via = f" via {route.gateway}" if route.gateway else ""
            raise GuestError(f"the pod's route {route.dst}{via} was refused: {error}") from error
    for neighbour in wanted.neighbours:
        pod.add_neighbour(link.index, neighbour)
