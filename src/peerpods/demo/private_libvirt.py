"""A libvirt of one's own for the demo and for tests: own daemon, own state, own bridge, nothing of the host's.

The caller must already be in a network namespace and a mount namespace of its own (`unshare -n -m`): the daemons
run as root and always use /etc/libvirt, /run/libvirt, /var/lib/libvirt and /var/cache/libvirt, so scratch folders
are mounted over these. The socket's real path lies below the scratch folder, so a process outside the namespaces
can dial it too (`uri`).

Debian 12 has the one daemon `libvirtd`; Debian 13 packages have the split ones (virtqemud, virtnetworkd,
virtstoraged) besides. Either set serves. Packages: libvirt-daemon-system (12) or libvirt-daemon,
libvirt-daemon-driver-qemu, -network, -storage (13), qemu-system-x86, qemu-utils, dnsmasq-base, nftables.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from peerpods.errors import LocalFailure

MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MOUNTED = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
"""Scratch folder to what it covers."""
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
remember_owner = 0
swtpm_user = "root"
swtpm_group = "root"
"""
# stdio_handler: virtlogd is not there. The rest: no user, AppArmor profile, cgroup or device node of the host is
# touched, and no labels are left in extended attributes of image files.
DAEMON_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
log_level = 3
"""


@attrs.frozen(kw_only=True)
class Plan:
    """What the private libvirt shall have."""

    network: str = "default"
    bridge: str = "ppbr0"
    ipv4: str = "10.88.0.1/24"
    """The bridge's own address; guests get the rest by DHCP."""
    ipv6: str = ""
    """As ipv4, e.g. fd88::1/64; empty for none."""
    mtu: int = 1500
    pool: str = "default"
    uplink: bool = False
    """True when the caller routes the bridge's traffic further itself: forward mode `open` rather than isolated."""


def network_xml(plan: Plan) -> str:
    """The libvirt network of a plan. libvirt makes no firewall rules in mode `open`."""
    v4 = ipaddress.ip_interface(plan.ipv4)
    first, last = v4.network[2], v4.network[-2]
    parts = [
        f"<network><name>{plan.network}</name>",
        "<forward mode='open'/>" if plan.uplink else "",
        f"<bridge name='{plan.bridge}' stp='off' delay='0'/><mtu size='{plan.mtu}'/>",
        f"<ip address='{v4.ip}' prefix='{v4.network.prefixlen}'><dhcp><range start='{first}' end='{last}'>",
        "<lease expiry='5' unit='minutes'/></range></dhcp></ip>",
    ]
    if plan.ipv6:
        v6 = ipaddress.ip_interface(plan.ipv6)
        parts.append(
            f"<ip family='ipv6' address='{v6.ip}' prefix='{v6.network.prefixlen}'><dhcp>"
            f"<range start='{v6.network[256]}' end='{v6.network[511]}'/></dhcp></ip>"
        )
    return "".join([*parts, "</network>"])


def pool_xml(plan: Plan, target: str) -> str:
    """The storage pool of a plan: a folder."""
    return f"<pool type='dir'><name>{plan.pool}</name><target><path>{target}</path></target></pool>"


@attrs.define
class _Daemon:
    name: str
    socket: Path
    process: subprocess.Popen[bytes]
    log: Path


class PrivateLibvirt:
    """One private libvirt; `start`, use `uri`, `stop`. Synchronous: for scripts and fixtures, not for the reactor.

    Args:
        folder: scratch folder, made if missing; may hold what an earlier, crashed run left.
        isolated: the caller vouches for its own namespaces (below a pid namespace they cannot be compared with
            the host's); otherwise `start` compares them with its ancestors' and refuses shared ones.
    """

    def __init__(self, folder: Path, plan: Plan | None = None, *, isolated: bool = False) -> None:
        self._isolated = isolated
        self.folder = folder.absolute()
        self.plan = plan or Plan()
        self._daemons: list[_Daemon] = []
        self._mounted: list[str] = []

    @property
    def pool_path(self) -> Path:
        """The folder of the pool, as seen from everywhere."""
        return self.folder / "pool"

    @property
    def uri(self) -> str:
        """What to connect to; good inside and outside of the namespaces."""
        name = "libvirt-sock" if _binary("libvirtd") else "virtqemud-sock"
        return f"qemu+unix:///system?socket={self.folder}/run/{name}"

    def start(self, timeout: float = 30.0) -> None:
        """Mount, start the daemons, make network and pool.

        Raises:
            LocalFailure: with the end of the daemon's log when something does not come up.
        """
        if not self._isolated:
            _refuse_host_namespaces()
        try:
            self._prepare()
            self._start_daemons(timeout)
            self._define()
        except BaseException:
            self.stop()
            raise

    def _prepare(self) -> None:
        _mount("none", "/", MS_REC | MS_PRIVATE)
        for name, target in MOUNTED.items():
            source = self.folder / name
            source.mkdir(parents=True, exist_ok=True)
            Path(target).mkdir(parents=True, exist_ok=True)
            _mount(str(source), target, MS_BIND)
            self._mounted.append(target)
        self.pool_path.mkdir(exist_ok=True)
        etc = self.folder / "etc"
        (etc / "qemu.conf").write_text(QEMU_CONF)
        (etc / "daemon.conf").write_text(DAEMON_CONF)

    def _start_daemons(self, timeout: float) -> None:
        one = _binary("libvirtd")
        run = self.folder / "run"
        wanted = (
            [(one, run / "libvirt-sock")]
            if one
            else [(_need(n), run / f"{n}-sock") for n in ("virtnetworkd", "virtstoraged", "virtqemud")]
        )
        for binary, sock in wanted:
            name = Path(binary).name
            sock.unlink(missing_ok=True)
            log = self.folder / f"{name}.log"
            command = [binary, "-f", str(self.folder / "etc/daemon.conf"), "-p", str(run / f"{name}.pid")]
            with log.open("ab") as out:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            daemon = _Daemon(name, sock, process, log)
            self._daemons.append(daemon)
            self._wait(daemon, timeout)

    def _wait(self, daemon: _Daemon, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not _answers(daemon.socket):
            if daemon.process.poll() is not None:
                raise LocalFailure(
                    f"{daemon.name} ended at once with status {daemon.process.returncode}: {_tail(daemon.log)}",
                    remedy="see whether another copy uses the same folder",
                )
            if time.monotonic() > end:
                raise LocalFailure(
                    f"{daemon.name} opened no socket in {timeout:g} s: {_tail(daemon.log)}",
                    remedy="give the machine more time, or look at the daemon's log",
                )
            time.sleep(0.02)

    def _define(self) -> None:
        import libvirt

        with self.connection() as conn:
            try:
                network = conn.networkDefineXML(network_xml(self.plan))
                if not network.isActive():
                    network.create()
                pool = conn.storagePoolDefineXML(pool_xml(self.plan, str(self.pool_path)))
                if not pool.isActive():
                    pool.create()
                # libvirt asks a new QEMU for its abilities once, for seconds: here, not in the first create.
                conn.getDomainCapabilities(None, "x86_64", "q35", "qemu")
            except libvirt.libvirtError as error:
                raise LocalFailure(
                    f"the private libvirt could not make its network and pool, or ask QEMU: "
                    f"{error}: {_tail(self._daemons[-1].log)}",
                    remedy="dnsmasq-base and qemu-system-x86 must be installed, and the bridge's name free here",
                ) from error

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        """A libvirt connection for as long as the block runs."""
        import libvirt

        conn = libvirt.open(self.uri)
        try:
            yield conn
        finally:
            conn.close()

    def restart_daemons(self, timeout: float = 30.0) -> None:
        """Kill the daemons and start them again; guests and network go on. For tests of reconnection."""
        self._end_daemons(signal.SIGKILL)
        self._start_daemons(timeout)

    def stop(self) -> None:
        """End guests, network and daemons, and unmount. Idempotent; works for a half-started one too."""
        if self._daemons and self._daemons[-1].process.poll() is None:
            with contextlib.suppress(Exception):
                self._end_guests()
        self._end_daemons(signal.SIGTERM)
        self._end_leftovers()
        for target in reversed(self._mounted):
            subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        self._mounted.clear()

    def _end_guests(self) -> None:
        with self.connection() as conn:
            for domain in conn.listAllDomains():
                if domain.isActive():
                    domain.destroy()
            for network in conn.listAllNetworks():
                if network.isActive():
                    network.destroy()

    def _end_daemons(self, how: signal.Signals) -> None:
        for daemon in reversed(self._daemons):
            if daemon.process.poll() is None:
                daemon.process.send_signal(how)
                try:
                    daemon.process.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.process.kill()
                    daemon.process.wait(10)
        self._daemons.clear()

    def _end_leftovers(self) -> None:
        """QEMU and dnsmasq outlive a killed daemon: end those whose pid files are ours."""
        folders = (self.folder / "run/qemu", self.folder / "run/network")
        for pid_file in [p for folder in folders for p in folder.glob("*.pid")]:
            with contextlib.suppress(ValueError, OSError):
                pid = int(pid_file.read_text())
                if str(self.folder).encode() in _command_line(pid) or b"libvirt" in _command_line(pid):
                    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """`python -m peerpods.demo.private_libvirt FOLDER`: run one until stdin ends; for fixtures of tests.

    Prints its URI when it is up. A line `restart` on stdin kills the daemons and starts them again, answered by
    the line `restarted`.
    """
    private = PrivateLibvirt(Path(sys.argv[1]), Plan(ipv6="fd88::1/64"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides, by closing stdin
    try:
        private.start()
    except LocalFailure as error:
        print(f"error: {error}", flush=True)
        sys.exit(1)
    try:
        print(private.uri, flush=True)
        for line in sys.stdin:
            if line.strip() == "restart":
                private.restart_daemons()
                print("restarted", flush=True)
    finally:
        private.stop()


def _binary(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _need(name: str) -> str:
    found = _binary(name)
    if found is None:
        raise LocalFailure(
            f"neither libvirtd nor {name} is installed",
            remedy="install libvirt-daemon-system, or on Debian 13 the libvirt-daemon-driver packages",
        )
    return found


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def _tail(log: Path, size: int = 1200) -> str:
    try:
        text = log.read_bytes()[-size:].decode(errors="replace")
    except OSError:
        return "no log"
    return " | ".join(text.split("\n")[-8:]).strip() or "the log is empty"


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _refuse_host_namespaces() -> None:
    """Refuse when every ancestor that can be asked shares our namespaces: then they are the host's."""
    for kind in ("net", "mnt"):
        mine = _namespace("self", kind)
        others = [found for pid in _ancestors() if (found := _namespace(pid, kind)) is not None]
        if others and all(found == mine for found in others):
            raise LocalFailure(
                f"a private libvirt is started only in a {kind} namespace of its own",
                remedy="run it below `unshare -n -m`",
            )


def _namespace(pid: str, kind: str) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return None


def _ancestors() -> list[str]:
    found: list[str] = []
    pid = "self"
    while len(found) < 64:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = stat.rpartition(")")[2].split()[1]
        if pid == "0":
            break
        found.append(pid)
    return found


def _mount(source: str, target: str, flags: int, kind: str = "none") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise LocalFailure(f"cannot mount {source} on {target}: {os.strerror(code)}", remedy="run as root")


if __name__ == "__main__":
    main()
