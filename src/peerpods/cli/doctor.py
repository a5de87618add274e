"""`peerpods doctor`: can this machine do it? Each check says what it found and what to do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click

OK, WARN, BAD = "ok", "warning", "failed"


@attrs.frozen
class Finding:
    """One check's outcome."""

    check: str
    result: str
    """ok, warning (works, but slower or only in part) or failed."""
    found: str
    remedy: str = ""


def check_root() -> Finding:
    """The services need root for netlink, namespaces and root-only files."""
    if os.geteuid() == 0:
        return Finding("root", OK, "running as root")
    return Finding("root", BAD, f"running as user {os.geteuid()}", "run as root: namespaces and tunnels need it")


def check_kvm() -> Finding:
    """KVM by the processor's own flags: opening /dev/kvm proves nothing."""
    from peerpods.clouds.kvm import probe

    truth = probe()
    if truth.usable:
        return Finding("kvm", OK, truth.reason)
    return Finding(
        "kvm",
        WARN,
        truth.reason,
        "local VMs are emulated (TCG), several times slower; use a host with virtualisation",
    )


def check_libvirt() -> Finding:
    """Is there a libvirt to talk to (needed by the provider libvirt only)."""
    try:
        import libvirt

        libvirt.registerErrorHandler(lambda *_: None, None)
        connection = libvirt.openReadOnly("qemu:///system")
    except ImportError:
        return Finding("libvirt", WARN, "the Python module libvirt is missing", "install libvirt-python")
    except libvirt.libvirtError as error:
        return Finding(
            "libvirt", WARN, str(error), "needed by the provider libvirt alone: start libvirtd, or set --uri"
        )
    version = connection.getLibVersion()
    connection.close()
    return Finding("libvirt", OK, f"libvirt {version // 1000000}.{version // 1000 % 1000} answers")


def _in_child_namespace(work: Callable[[], None]) -> str:
    """Run something in a network namespace of its own (a forked child); "" or the error's text."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            _unshare_net()
            work()
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:4096])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as result:
        text = result.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return text


def _unshare_net() -> None:
    # os.unshare came with Python 3.12
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def check_vxlan() -> Finding:
    """Can a VXLAN device be made, in a namespace of its own."""

    def work() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            netlink.link("add", ifname="vx0", kind="vxlan", vxlan_id=1, vxlan_port=4789, vxlan_group="192.0.2.1")

    error = _in_child_namespace(work)
    if not error:
        return Finding("vxlan", OK, "VXLAN devices can be made")
    return Finding("vxlan", BAD, error, "load the kernel module vxlan (modprobe vxlan); run as root")


def check_nftables() -> Finding:
    """Can an nftables table be made, in a namespace of its own."""

    def work() -> None:
        from pyroute2.nftables.main import NFTables

        nft = NFTables()
        nft.table("add", name="peerpods-doctor")
        nft.close()

    error = _in_child_namespace(work)
    if not error:
        return Finding("nftables", OK, "nftables tables can be made")
    return Finding(
        "nftables",
        WARN,
        error,
        "load nf_tables; without it tunnel packets may meet the node's connection tracking",
    )


def check_socket(path: str, what: str) -> Finding:
    """Does one of our services answer."""
    from peerpods.cli.children import socket_answers

    if socket_answers(path):
        return Finding(what, OK, f"answers on {path}")
    state = "nobody listens on" if Path(path).exists() else "there is no"
    return Finding(what, WARN, f"{state} {path}", f"start it: twistd -n --pidfile= {what}")


def check_config(path: str) -> Finding:
    """Is the configuration file right, as far as it can be told without starting."""
    from peerpods.clouds import registry
    from peerpods.config.load import Loader, Mistakes, read_file
    from peerpods.config.settings import AdaptorSettings, GuestSettings, RelaySettings
    from peerpods.kube.client.settings import KubeSettings

    if not path:
        return Finding("configuration", OK, "no file given: flags, environment and defaults count")
    try:
        loader = Loader({}, os.environ, read_file(path))
        settings = loader.section(AdaptorSettings, "adaptor")
        loader.section(RelaySettings, "relay")
        loader.section(GuestSettings, "guest")
        loader.section(KubeSettings, "kubernetes")
        if settings is not None and settings.provider in registry.names():
            loader.section(registry.settings_class(settings.provider), f"provider.{settings.provider}")
        loader.check_providers(registry.names())
        loader.finish()
    except Mistakes as error:
        return Finding("configuration", BAD, "; ".join(str(error).splitlines()), f"mend {path}")
    return Finding("configuration", OK, f"{path} is in order")


def check_cluster(kubeconfig: str) -> Finding:
    """Does the API server answer, and may this identity do what the adaptor does."""
    if not kubeconfig and not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return Finding("kubernetes", OK, "not used: no --kubeconfig, and this is no pod of a cluster")
    from peerpods.adaptor.kube.rights import missing_rights
    from peerpods.cli.reacting import run_reactor
    from peerpods.errors import PeerPodError
    from peerpods.kube.client import Kube, KubeSettings, connect

    async def ask(reactor: Any) -> tuple[Kube, list[str]]:
        kube = await connect(reactor, KubeSettings(kubeconfig=kubeconfig), component="doctor")
        try:
            return kube, await missing_rights(kube)
        finally:
            await kube.close()

    try:
        kube, missing = run_reactor(ask)
    except PeerPodError as error:
        return Finding("kubernetes", BAD, error.message, error.remedy or "see --kubeconfig")
    if missing:
        return Finding(
            "kubernetes",
            BAD,
            f"{kube.url} answers; not allowed: {', '.join(missing)}",
            "see ClusterRole peerpods-adaptor",
        )
    return Finding("kubernetes", OK, f"{kube.url} answers and allows what the adaptor does")


@click.command()
@click.option("--config", default="", help="the configuration file to check")
@click.option("--socket", default="/run/peerpod/hypervisor.sock", show_default=True, help="the adaptor's socket")
@click.option("--relay", default="/run/peerpod/relay.sock", show_default=True, help="the relay's control socket")
@click.option(
    "--kubeconfig", default="", envvar="KUBECONFIG", help="how to reach the cluster, unless in one of its pods"
)
@click.option("--json", "as_json", is_flag=True, help="JSON for programs")
def doctor(config: str, socket: str, relay: str, kubeconfig: str, as_json: bool) -> None:
    """Check whether this machine can run peer pods. Exit code 1 when something needed is missing."""
    findings = [
        check_root(),
        check_kvm(),
        check_libvirt(),
        check_vxlan(),
        check_nftables(),
        check_socket(socket, "adaptor"),
        check_socket(relay, "relay"),
        check_config(config),
        check_cluster(kubeconfig),
    ]
    if as_json:
        print(json.dumps([attrs.asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.result:<8} {finding.check:<14} {finding.found}")
            if finding.remedy:
                print(f"{'':<8} {'':<14} -> {finding.remedy}")
    sys.exit(1 if any(finding.result == BAD for finding in findings) else 0)
