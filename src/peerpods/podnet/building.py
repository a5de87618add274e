"""What the forked child does in the VM. Blocks; each step is fit to be repeated. Import it only there."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

from peerpods.errors import GuestError
from peerpods.model import PodNetwork
from peerpods.podnet import kernel, nft, plan
from peerpods.podnet.facts import Link
from peerpods.podnet.kernel import IPRoute, NetlinkError

PAUSE = 0.05  # seconds between looks for the VM's own network
TEMPORARY = "ppguest0"
COMMENT = "guest"


def build(network: PodNetwork, *, vni: int, port: int, tunnel: str, path: str, deadline: float) -> None:
    """See `guest.setup_guest`.

    Raises:
        GuestError: no way to the worker within the deadline, or an unknown kind of tunnel.
        NetlinkError, OSError: the kernel's words.
    """
    make_namespace(path)
    with kernel.inside(path), IPRoute() as pod:
        lo = kernel.by_name(pod, "lo")
        if lo is not None and not lo.up:
            pod.link("set", index=lo.index, state="up")
    if tunnel == "none":
        return
    if tunnel != "vxlan":
        raise GuestError(f"the kind of tunnel {tunnel!r} is unknown; this VM knows vxlan and none")
    with IPRoute() as root:
        under = _wait_for_way(root, network.node_address, deadline)
        wanted = plan.guest_plan(network, vni=vni, port=port, underlay_mtu=under.mtu)
        _no_tracking(wanted.remote, port)
        with kernel.inside(path), IPRoute() as pod:
            device = _ours(pod, wanted)
        if device is None:
            _make(root, wanted, path)
    with kernel.inside(path), IPRoute() as pod:
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
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(libc.unshare(0x40000000), "make a network namespace")  # CLONE_NEWNET
        try:
            bind = 0x1000  # MS_BIND
            _checked(libc.mount(b"/proc/self/ns/net", path.encode(), b"none", bind, None), f"mount {path}")
        finally:
            _checked(libc.setns(home, 0x40000000), "return to the VM's own namespace")
    finally:
        os.close(home)


def _checked(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot {what}: {os.strerror(code)}")


def _wait_for_way(root: IPRoute, address: str, deadline: float) -> Link:
    """The interface that leads to the worker, once it has an address."""
    while True:
        index = kernel.route_to(root, address)
        for link in kernel.links(root) if index else ():
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


def _ours(pod: IPRoute, wanted: plan.GuestPlan) -> Link | None:
    """The pod's interface when it is the right tunnel already; a wrong one is removed."""
    link = kernel.by_name(pod, wanted.name)
    if link is None:
        return None
    if link.kind == "vxlan" and link.vni == wanted.vni and link.port == wanted.port:
        return link
    if link.kind != "vxlan":
        raise GuestError(f"the pod's namespace already has a {link.kind or 'device'} named {wanted.name}")
    pod.link("del", index=link.index)
    return None


def _make(root: IPRoute, wanted: plan.GuestPlan, path: str) -> None:
    left = kernel.by_name(root, TEMPORARY)
    if left is not None:
        root.link("del", index=left.index)
    kernel.make_vxlan(root, TEMPORARY, vni=wanted.vni, port=wanted.port, remote=wanted.remote)
    made = kernel.by_name(root, TEMPORARY)
    if made is None:
        raise GuestError("the tunnel's device vanished while it was made")
    kernel.move(root, made.index, path, wanted.name)


def _configure(pod: IPRoute, wanted: plan.GuestPlan) -> None:
    link = kernel.by_name(pod, wanted.name)
    if link is None:
        raise GuestError(f"the interface {wanted.name} did not arrive in the pod's namespace")
    pod.link("set", index=link.index, address=wanted.mac, mtu=wanted.mtu)
    pod.link("set", index=link.index, state="up")
    for address in wanted.addresses:
        kernel.add_address(pod, link.index, address)
    for route in wanted.routes:
        try:
            kernel.add_route(pod, link.index, route)
        except NetlinkError as error:
            via = f" via {route.gateway}" if route.gateway else ""
            raise GuestError(f"the pod's route {route.dst}{via} was refused: {error}") from error
    for neighbour in wanted.neighbours:
        kernel.add_neighbour(pod, link.index, neighbour)
