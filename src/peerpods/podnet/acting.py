"""What the worker's thread does: blocking, in order, each step fit to be repeated. No reactor here."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs

from peerpods.errors import LocalFailure, PeerPodError, Refused
from peerpods.model import PodNetwork, SandboxId, Tunnel
from peerpods.obs.log import get_logger
from peerpods.podnet import kernel, nft, plan
from peerpods.podnet.facts import Link, Namespace
from peerpods.podnet.kernel import IPRoute, NetlinkError
from peerpods.podnet.vni import Vnis

MAX_NAMED = 4096  # namespaces a sweep looks into
TRIAL = 0.1  # seconds after which a device that only tries a VNI is gone


class Acting:
    """Acts from one namespace (`home`; empty: the thread's own). Use from one thread only."""

    def __init__(self, home: str, named: str) -> None:
        self._home = home
        self._named = named
        self._host: Namespace | None = None
        self._host_at = 0.0
        self.vnis = Vnis()
        self._log = get_logger("podnet")
        self._without_nft = False

    @contextmanager
    def _at_home(self) -> Iterator[None]:
        with kernel.inside(self._home) if self._home else nullcontext():
            yield

    def inspect(self, path: str, host_interface: str, asked: float) -> PodNetwork:
        """See `Worker.inspect`. `asked`: when, by the monotonic clock; a look at the host since then is reused."""
        with _explained(f"look into {path}"), self._at_home():
            host = self._host if self._host_at > asked else None
            if host is None:
                self._host_at = time.monotonic()
                with IPRoute() as here:
                    host = self._host = kernel.read(here)
            with _namespace(path), IPRoute() as there:
                pod = kernel.read(there)
        return plan.pod_network(pod, host, netns=path, host_interface=host_interface)

    def choose_vnis(self, wanted: int, used: set[int], minimum: int, port: int) -> list[int]:
        """See `Worker.choose_vni`: one for each of `wanted` callers, fewer when there are no more."""
        with _explained("choose a VNI"), self._at_home():
            return self.vnis.choose(wanted, used, minimum, port)

    def clear_vnis(self) -> None:
        """The end of `choose_vnis`, when the callers have their answers. A failure waits for the next choice."""
        try:
            with self._at_home():
                self.vnis.clear()
        except OSError as error:
            self._log.warning("probes_left", reason=str(error))

    def setup(self, tunnel: Tunnel) -> None:
        """See `Worker.setup_tunnel`."""
        with _explained("make the tunnel", tunnel), self._at_home(), IPRoute() as here:
            with _namespace(tunnel.netns, tunnel), IPRoute() as there:
                pod = kernel.by_name(there, tunnel.interface)
                device = _tunnel_device(there, tunnel)
                hook = pod is not None and kernel.has_ingress_hook(there, pod.index)
            if pod is None:
                raise Refused(f"{tunnel.netns} has no interface {tunnel.interface} any more", sandbox=tunnel.sandbox)
            self._no_tracking(tunnel)
            peer = _peer(here, pod)
            if device is None:
                device = self._make(here, tunnel, _mark(tunnel, pod, peer, hook))
            with _namespace(tunnel.netns, tunnel), IPRoute() as there:
                _join(there, pod, device, tunnel)
            if peer is not None and peer.mtu > tunnel.mtu:
                here.link("set", index=peer.index, mtu=tunnel.mtu)

    def _make(self, here: IPRoute, tunnel: Tunnel, mark: plan.Mark) -> Link:
        """The device: made here under the sandbox's own name, marked, then moved; a half-made one is made anew."""
        name = plan.device_name(tunnel.sandbox)
        kernel.remove(here, name)
        facts: dict[str, Any] = {"vni": tunnel.vni, "port": tunnel.port, "remote": tunnel.remote, "local": tunnel.local}
        try:
            _twice(lambda: kernel.make_vxlan(here, name, **facts))
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            raise LocalFailure(
                f"VNI {tunnel.vni} on UDP port {tunnel.port} is in use by another tunnel of this node",
                sandbox=tunnel.sandbox,
                remedy="start the pod anew; it gets another VNI",
            ) from error
        made = kernel.by_name(here, name)
        if made is None:
            raise LocalFailure(f"the device {name} vanished while it was made", sandbox=tunnel.sandbox)
        here.link("set", index=made.index, ifalias=mark.text(), mtu=tunnel.mtu)
        kernel.no_link_local(here, made.index)
        try:
            kernel.move(here, made.index, tunnel.netns, plan.TUNNEL_DEVICE)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            kernel.move(here, made.index, tunnel.netns, name)
        with _namespace(tunnel.netns, tunnel), IPRoute() as there:
            moved = _tunnel_device(there, tunnel)
        if moved is None:
            raise LocalFailure(f"the tunnel's device did not arrive in {tunnel.netns}", sandbox=tunnel.sandbox)
        return moved

    def teardown(self, tunnel: Tunnel) -> None:
        """See `Worker.teardown_tunnel`."""
        with _explained("remove the tunnel", tunnel), self._at_home(), IPRoute() as here:
            try:
                with _namespace(tunnel.netns, tunnel), IPRoute() as there:
                    pod, peer_mtu = _part(there, tunnel.sandbox, tunnel.interface)
            except Refused:
                pod, peer_mtu = None, 0  # gone, and the device with it
            _restore_peer(here, pod, peer_mtu)
            kernel.remove(here, plan.device_name(tunnel.sandbox))
            self._track_again({tunnel.sandbox})

    def sweep(self, keep: Collection[str]) -> list[str]:
        """See `Worker.sweep`."""
        done: list[str] = []
        with _explained("sweep tunnels"), self._at_home(), IPRoute() as here:
            kept_names = {plan.device_name(one) for one in map(SandboxId, keep)}
            for link in kernel.links(here):
                mark = plan.parse_mark(link.alias)
                if link.kind == "vxlan" and mark is not None and link.name not in kept_names:
                    kernel.remove(here, link.name)
                    done.append(f"device {link.name} of sandbox {mark.sandbox}")
            for path in _named(self._named):
                done += _sweep_pod(here, path, keep)
            done += [f"nft element {one.address} of sandbox {one.comment}" for one in self._sweep_nft(keep)]
        return done

    def _sweep_nft(self, keep: Collection[str]) -> list[nft.Element]:
        kept = {_comment(one) for one in keep}
        try:
            stale = {one.comment for one in nft.elements()} - kept
            return nft.remove(stale) if stale else []
        except nft.Unsupported:
            return []

    def _no_tracking(self, tunnel: Tunnel) -> None:
        try:
            nft.add(nft.Element(tunnel.remote, tunnel.port, _comment(tunnel.sandbox)))
        except nft.Unsupported as error:
            if not self._without_nft:
                self._without_nft = True
                self._log.warning("nftables_missing", reason=str(error), effect="tunnels are tracked by conntrack")

    def _track_again(self, sandboxes: set[str]) -> None:
        try:
            nft.remove({_comment(one) for one in sandboxes})
        except nft.Unsupported:
            return


def _twice(make: Callable[[], None]) -> None:
    """Make a device; when its VNI is taken, once more: another's trial of a VNI lasts about 20 ms."""
    try:
        make()
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        time.sleep(TRIAL)
        make()


def _comment(sandbox: str) -> str:
    return sandbox[:119]


def _mark(tunnel: Tunnel, pod: Link, peer: Link | None, hook: bool) -> plan.Mark:
    return plan.Mark(
        sandbox=tunnel.sandbox,
        pod_mtu=pod.mtu if pod.mtu > tunnel.mtu else 0,
        peer_mtu=peer.mtu if peer is not None and peer.mtu > tunnel.mtu else 0,
        kept_qdisc=hook,
    )


def _peer(here: IPRoute, pod: Link) -> Link | None:
    """The other end of the pod's veth when it is in the worker's namespace.

    Its MTU follows: a frame larger than the receiving end's MTU is dropped by veth without a word.
    """
    if pod.kind != "veth":
        return None
    found = (one for one in kernel.links(here) if one.index == pod.peer and one.kind == "veth")
    return next((one for one in found if one.peer == pod.index), None)


def _tunnel_device(there: IPRoute, tunnel: Tunnel) -> Link | None:
    for link in kernel.links(there):
        mark = plan.parse_mark(link.alias)
        if link.kind == "vxlan" and mark is not None and mark.sandbox == tunnel.sandbox[:160]:
            return link if link.vni == tunnel.vni else None
    return None


def _join(there: IPRoute, pod: Link, device: Link, tunnel: Tunnel) -> None:
    """In the pod's namespace: sizes, up, and the two redirections."""
    if pod.mtu > tunnel.mtu:
        there.link("set", index=pod.index, mtu=tunnel.mtu)
    there.link("set", index=device.index, state="up")
    kernel.redirect(there, device.index, pod.index)
    kernel.redirect(there, pod.index, device.index)


def _part(there: IPRoute, sandbox: str, interface: str = "") -> tuple[Link | None, int]:
    """Undo `_join` and remove the device; gives the pod's interface and the MTU its peer had (0: unchanged)."""
    links = kernel.links(there)
    for device in links:
        mark = plan.parse_mark(device.alias)
        if device.kind != "vxlan" or mark is None or mark.sandbox != sandbox[:160]:
            continue
        led = kernel.redirected(there, device.index)
        pod = next((one for one in links if one.index == led or (one.name == interface and not led)), None)
        if pod is not None:
            kernel.remove_redirect(there, pod.index, keep_qdisc=mark.kept_qdisc)
            if mark.pod_mtu:
                there.link("set", index=pod.index, mtu=mark.pod_mtu)
        kernel.remove(there, device.name)
        return pod, mark.peer_mtu
    return None, 0


def _restore_peer(here: IPRoute, pod: Link | None, mtu: int) -> None:
    peer = _peer(here, pod) if pod is not None and mtu else None
    if peer is not None:
        here.link("set", index=peer.index, mtu=mtu)


def _sweep_pod(here: IPRoute, path: str, keep: Collection[str]) -> list[str]:
    done: list[str] = []
    try:
        with _namespace(path), IPRoute() as there:
            marks = [plan.parse_mark(one.alias) for one in kernel.links(there) if one.kind == "vxlan"]
            stale = {one.sandbox for one in marks if one is not None} - {one[:160] for one in keep}
            parted = [(one, *_part(there, one)) for one in sorted(stale)]
    except Refused:
        return []  # it went while we looked
    for sandbox, pod, mtu in parted:
        _restore_peer(here, pod, mtu)
        done.append(f"tunnel of sandbox {sandbox} in {path}")
    return done


def _named(folder: str) -> list[str]:
    try:
        return [str(one) for one in sorted(Path(folder).iterdir())[:MAX_NAMED]]
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def _namespace(path: str, tunnel: Tunnel | None = None) -> Iterator[None]:
    """The thread inside a pod's namespace; a missing one is Refused, a missing right LocalFailure."""
    sandbox = tunnel.sandbox if tunnel else None
    try:
        entered = kernel.inside(path)
        entered.__enter__()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise LocalFailure(
                f"cannot enter the network namespace {path!r}: {error.strerror}",
                sandbox=sandbox,
                remedy="the adaptor needs CAP_SYS_ADMIN",
            ) from error
        raise Refused(
            f"there is no network namespace at {path!r}: {error.strerror}",
            sandbox=sandbox,
            remedy="the pod was removed meanwhile, or its runtime gave a wrong path",
        ) from error
    try:
        yield
    finally:
        entered.__exit__(None, None, None)


@contextmanager
def _explained(what: str, tunnel: Tunnel | None = None) -> Iterator[None]:
    """The kernel's refusals as LocalFailure with its words."""
    try:
        yield
    except PeerPodError:
        raise
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        remedy = {
            errno.EPERM: "the adaptor needs CAP_NET_ADMIN and CAP_SYS_ADMIN",
            errno.EOPNOTSUPP: "load the kernel module vxlan",
        }.get(code or 0)
        sandbox = attrs.asdict(tunnel)["sandbox"] if tunnel else None
        raise LocalFailure(f"cannot {what}: {error}", sandbox=sandbox, remedy=remedy) from error
