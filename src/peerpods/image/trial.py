"""A trial boot as on a node: a private libvirt makes an instance of the image, the console tells its phases.

As root. Everything is in namespaces and a scratch folder of its own.
"""

from __future__ import annotations

import datetime
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater

from peerpods import userdata
from peerpods.clouds import registry
from peerpods.clouds.interface import TAG_CLUSTER, CreateRequest, Provider
from peerpods.errors import LocalFailure
from peerpods.image import phases
from peerpods.model import Instance, InstanceSpec, PodNetwork
from peerpods.pki.issue import issue
from peerpods.userdata.apf import ApfConfig

MEMORY_MIB = 512
STEP = 0.02  # seconds between looks at the console
START_SECONDS = 60.0  # longest wait for the private libvirt
WORKER = "10.88.0.1"  # the private libvirt's own address on its bridge


class PrivateDaemon:
    """A private libvirt in a process of its own below `unshare`; ends with it. Blocks, for seconds at most.

    Args:
        folder: scratch folder; short, since it holds unix sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["unshare", "-n", "-m", sys.executable, "-m", "peerpods.demo.private_libvirt", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        self.uri = self._process.stdout.readline().strip() if ready else "it said nothing"
        if not self.uri.startswith("qemu"):
            self.close()
            raise LocalFailure(f"the private libvirt did not start: {self.uri}", remedy="run `make setup`, as root")

    def inside(self, *command: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command in its network namespace, where the VMs are."""
        words = ["nsenter", "-n", "-t", str(self._process.pid), *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)

    def close(self) -> None:
        """End it and all its guests. Idempotent."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)


def document(**changes: Any) -> bytes:
    """User data as the adaptor makes it, for a pod with an IPv4 and an IPv6 address.

    `changes` replace fields of its ApfConfig.
    """
    keys = issue("podvm-trial-12345678", datetime.datetime.now(datetime.UTC))
    network = PodNetwork(
        interface="eth0", mac="02:00:00:00:00:05", mtu=1450, addresses=("10.244.1.5/24", "fd00:1::5/64"),
        node_address=WORKER,
    )  # fmt: skip
    apf = ApfConfig(
        pod_name="trial", pod_namespace="default", server_key=keys.server_key, server_cert=keys.server_cert,
        client_ca=keys.client_cert, network=network, vxlan_id=555001,
    )  # fmt: skip
    return userdata.document(attrs.evolve(apf, **changes))


@attrs.frozen
class Start:
    """How a VM started. `created`: seconds of the create call; `stopped`: why it is not there any more, or ""."""

    instance: Instance
    created: float
    phases: tuple[phases.Phase, ...]
    stopped: str


async def start(
    reactor: Any,
    provider: Provider,
    folder: Path,
    user_data: bytes,
    *,
    until: str = phases.AGENT,
    timeout: float = 120.0,
) -> Start:
    """Make an instance and follow its console until the phase `until`, or until the VM says that it stopped.

    Args:
        provider: started, provider libvirt on the private daemon.
        folder: of the private daemon.
        timeout: seconds.

    Raises:
        LocalFailure: neither came in time; ends with the last console lines.
    """
    began = reactor.seconds()
    number = os.urandom(4).hex()
    request = CreateRequest(
        token=f"{number}-1", name=f"podvm-trial-{number}", spec=InstanceSpec(), user_data=user_data,
        tags={TAG_CLUSTER: "trial"},
    )  # fmt: skip
    instance = await provider.create(request)
    created = reactor.seconds() - began
    pid = int((folder / f"run/qemu/{instance.name}.pid").read_text())
    follow = _Follow(folder / f"pool/{instance.name}-console.log")
    marks: list[phases.Phase] = []
    while reactor.seconds() < began + timeout:
        await deferLater(reactor, STEP, lambda: None)
        for line in follow.lines():
            found = phases.parse_line(line, reactor.seconds() - began, _cpu(pid))
            if isinstance(found, str):
                return Start(instance, created, tuple(marks), found)
            if found is not None:
                marks.append(found)
                if found.name == until:
                    return Start(instance, created, tuple(marks), "")
        if not _alive(pid):
            return Start(instance, created, tuple(marks), "it ended without a word")
    tail = "\n".join((await provider.console(instance.id)).decode(errors="replace").splitlines()[-20:])
    raise LocalFailure(f"the VM did not come to '{until}' within {timeout:.0f} s:\n{tail}")


class _Follow:
    """New whole lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    def lines(self) -> list[str]:
        with open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in whole]


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_provider(reactor: Any, daemon: PrivateDaemon, image: Path) -> Provider:
    """The provider libvirt on a private daemon, with an image's folder; not yet started."""
    settings = registry.settings_class("libvirt")(uri=daemon.uri, image_dir=str(image), memory=MEMORY_MIB, accel="tcg")
    return registry.make_provider("libvirt", settings, reactor)


async def trial(reactor: Any, image: Path, folder: Path) -> str:
    """The table of one start."""
    daemon = PrivateDaemon(folder)
    try:
        provider = make_provider(reactor, daemon, image)
        await provider.start()
        try:
            found = await start(reactor, provider, folder, document())
            if found.stopped:
                raise LocalFailure(f"the VM stopped: {found.stopped}")
            await provider.delete(found.instance.id)
        finally:
            await provider.stop()
    finally:
        daemon.close()
    return phases.table(phases.rows(found.phases, found.created))
