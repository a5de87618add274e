"""Making and unmaking instances: processes, namespaces, veths. Blocking; runs in the provider's one thread."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path

import attrs

from peerpods.clouds.interface import CreateRequest
from peerpods.clouds.netns import cgroups
from peerpods.clouds.netns.settings import NetnsSettings
from peerpods.clouds.netns.state import Record, Store, choose_address, identity, node_address, started_at
from peerpods.errors import CloudError, CloudFailure, ConfigError

_NEWNET, _NEWPID = 0x40000000, 0x20000000
GONE_WITHIN = 10.0  # seconds from SIGKILL to the end of all of an instance's processes
MTU = 1500


class Maker:
    """Use from one thread only."""

    def __init__(self, settings: NetnsSettings) -> None:
        self._settings = settings
        self.store = Store(Path(settings.instances_dir))
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self.bridge = "ppu" + identity(settings.instances_dir)[3:13]

    def open(self) -> None:
        """The underlay's bridge, with the node's address. Idempotent."""
        from peerpods.podnet.kernel import IPRoute, by_name

        self.store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _cloud("make the underlay"), IPRoute() as here:
            if by_name(here, self.bridge) is None:
                here.link("add", ifname=self.bridge, kind="bridge")
            bridge = by_name(here, self.bridge)
            assert bridge is not None
            here.link("set", index=bridge.index, state="up", mtu=MTU)
            length = IPv4Network(self._settings.subnet).prefixlen
            here.addr("replace", index=bridge.index, address=node_address(self._settings.subnet), prefixlen=length)

    def close(self) -> None:
        """Remove the bridge when no instance is left. Idempotent."""
        from peerpods.podnet.kernel import IPRoute, remove

        if self.store.all():
            return
        with _cloud("remove the underlay"), IPRoute() as here:
            remove(here, self.bridge)
        with suppress(OSError):
            self.store.root.rmdir()

    def verify(self) -> None:
        """See `Provider.verify`."""
        if os.geteuid() != 0:
            raise ConfigError("the provider netns needs root", setting="provider", remedy="run the adaptor as root")
        root = self.store.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"instances-dir {root} cannot be used: {error.strerror}",
                setting="instances-dir",
                remedy="name a folder on a local, writable file system",
            ) from error
        self._verify_subnet()

    def _verify_subnet(self) -> None:
        from peerpods.podnet.kernel import IPRoute, read

        wanted = IPv4Network(self._settings.subnet)
        with IPRoute() as here:
            space = read(here)
        names = {link.index: link.name for link in space.links}
        for address in space.addresses:
            net = address.interface.network
            if names.get(address.index) != self.bridge and net.version == 4 and net.overlaps(wanted):
                raise ConfigError(
                    f"subnet {wanted} overlaps {net} of interface {names.get(address.index)}",
                    setting="subnet",
                    remedy="choose a network that this node does not use",
                )

    def create(self, request: CreateRequest) -> Record:
        """See `Provider.create`."""
        found = self.store.read(identity(request.token))
        if found is not None and found.pid:
            return found
        if found is None:
            found = self._record(request)
        with _cloud(f"make instance {found.name}"):
            self.store.write(found)
            self.store.write_user_data(found.id, request.user_data)
            found = self._launch(found)
            self._connect(found)
        return found

    def _record(self, request: CreateRequest) -> Record:
        taken = {one.address for one in self.store.all()}
        try:
            address = choose_address(self._settings.subnet, request.token, taken)
        except LookupError:
            raise CloudError(
                f"subnet {self._settings.subnet} has no free address",
                kind=CloudFailure.QUOTA,
                remedy="set a larger subnet",
            ) from None
        return Record(
            id=identity(request.token),
            name=request.name,
            token=request.token,
            address=address,
            tags=tuple(request.tags.items()),
        )

    def _launch(self, record: Record) -> Record:
        """Its first process, born into new network and pid namespaces, which this thread leaves again."""
        folder = self.store.folder(record.id)
        command = [sys.executable, "-m", "peerpods.clouds.netns.launcher", str(folder)]
        command += [self._settings.forwarder, self._settings.agent]
        with (folder / "console.log").open("ab") as console, _born_apart():
            child = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._children[child.pid] = child
        started = attrs.evolve(record, pid=child.pid, started=started_at(child.pid))
        self.store.write(started)
        return started

    def _connect(self, record: Record) -> None:
        """A veth from the bridge to the instance, with its address and default route."""
        from peerpods.podnet.kernel import IPRoute, by_name, inside, remove

        space = f"/proc/{record.pid}/ns/net"
        with IPRoute() as here:
            remove(here, record.device)
            fd = os.open(space, os.O_RDONLY | os.O_CLOEXEC)
            try:
                here.link("add", ifname=record.device, kind="veth", peer={"ifname": "ens1", "net_ns_fd": fd})
            finally:
                os.close(fd)
            bridge, ours = by_name(here, self.bridge), by_name(here, record.device)
            if bridge is None or ours is None:
                raise OSError(errno.ENODEV, "the underlay vanished")
            here.link("set", index=ours.index, master=bridge.index, state="up", mtu=MTU)
        with inside(space), IPRoute() as there:
            lo, theirs = by_name(there, "lo"), by_name(there, "ens1")
            if lo is None or theirs is None:
                raise OSError(errno.ENODEV, "the instance's interface vanished")
            there.link("set", index=lo.index, state="up")
            there.link("set", index=theirs.index, state="up", mtu=MTU)
            length = IPv4Network(self._settings.subnet).prefixlen
            there.addr("replace", index=theirs.index, address=record.address, prefixlen=length)
            there.route("replace", dst="0.0.0.0/0", gateway=node_address(self._settings.subnet))

    def delete(self, instance_id: str) -> None:
        """See `Provider.delete`: kills the first process, with which the kernel ends all others and the mounts."""
        from peerpods.podnet.kernel import IPRoute, remove

        record = self.store.read(instance_id)
        if record is None:
            return
        with _cloud(f"delete instance {record.name}"):
            if record.alive():
                _kill(record)
            child = self._children.pop(record.pid, None)
            if child is not None:
                child.wait(GONE_WITHIN)
            cgroups.remove_empty()
            with IPRoute() as here:
                remove(here, record.device)
            self.store.remove(instance_id)

    def console(self, instance_id: str, max_bytes: int) -> bytes:
        """The newest bytes of its console."""
        try:
            data = (self.store.folder(instance_id) / "console.log").read_bytes()
        except FileNotFoundError:
            return b""
        return data[-max_bytes:] if max_bytes > 0 else b""

    def look(self) -> dict[str, Record]:
        """All instances by id; ended children are reaped."""
        for child in list(self._children.values()):
            child.poll()
        return {one.id: one for one in self.store.all()}


def _kill(record: Record) -> None:
    try:
        process = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if not record.alive():
            return  # the pid changed hands before we held it
        signal.pidfd_send_signal(process, signal.SIGKILL)
        if not select.select([process], [], [], GONE_WITHIN)[0]:
            raise TimeoutError(f"process {record.pid} does not end")
    finally:
        os.close(process)


@contextmanager
def _born_apart() -> Iterator[None]:
    """Children of this thread are born into new network and pid namespaces."""
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int, what: str) -> None:
        if result:
            raise OSError(ctypes.get_errno(), f"cannot {what}")

    net = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    pid = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        checked(libc.unshare(_NEWNET | _NEWPID), "make namespaces")
        try:
            yield
        finally:
            checked(libc.setns(net, _NEWNET), "return to the node's network")
            checked(libc.setns(pid, _NEWPID), "return to the node's processes")
    finally:
        os.close(net)
        os.close(pid)


@contextmanager
def _cloud(what: str) -> Iterator[None]:
    """This machine's refusals as the provider's."""
    from peerpods.podnet.kernel import NetlinkError

    try:
        yield
    except (OSError, NetlinkError, subprocess.TimeoutExpired) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        kind = CloudFailure.DENIED if code in (errno.EPERM, errno.EACCES) else CloudFailure.RETRYABLE
        raise CloudError(f"cannot {what}: {error}", kind=kind) from error
