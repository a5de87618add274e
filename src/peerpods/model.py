"""The words of the domain as frozen values, with their parsing and bounds. No I/O."""

from __future__ import annotations

import enum
import math
import re
from typing import NewType

import attrs

from peerpods.errors import Refused

SandboxId = NewType("SandboxId", str)
"""CRI sandbox id: 64 hexadecimal digits from containerd and CRI-O; any name of letters, digits, `_.-` is taken."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SUN_PATH_MAX = 107
"""Longest unix socket path in bytes (sockaddr_un has 108 with the final zero)."""
DNS_LABEL_MAX = 63


def parse_sandbox_id(text: str) -> SandboxId:
    """Check an id that will become a folder name and part of a socket path.

    Raises:
        Refused: when it is empty, holds `/` or `..`, or has characters that no CRI uses.
    """
    if not text:
        raise Refused("the request has an empty sandbox id", remedy="send the CRI sandbox id")
    if ".." in text or not _ID.fullmatch(text):
        shown = text[:80]
        raise Refused(f"sandbox id {shown!r} is not a plain name of letters, digits, '_', '.' and '-'")
    return SandboxId(text)


def agent_socket_path(pods_dir: str, sandbox: SandboxId) -> str:
    """Path of the sandbox's agent socket: `<pods-dir>/<id>/agent.ttrpc`.

    The shim splits "remote:PATH" at ':' (spec: virtcontainers/remote.go), so the path must hold none.

    Raises:
        Refused: when the path is too long for a unix socket or holds ':'.
    """
    path = f"{pods_dir.rstrip('/')}/{sandbox}/agent.ttrpc"
    if len(path.encode()) > SUN_PATH_MAX:
        raise Refused(
            f"the agent socket path {path!r} has {len(path.encode())} bytes, a unix socket takes {SUN_PATH_MAX}",
            sandbox=sandbox,
            remedy="choose a shorter pods-dir",
        )
    if ":" in path:
        raise Refused(f"the agent socket path {path!r} holds ':', which the kata shim cannot dial", sandbox=sandbox)
    return path


def instance_name(pod: str, sandbox: SandboxId, limit: int = DNS_LABEL_MAX) -> str:
    """Name of a sandbox's VM and of its certificate: `podvm-<pod>-<first 8 of id>`, cut to a DNS label.

    Lower case; other characters become '-'; the cut shortens the pod's part, never the id's.
    """
    tail = "-" + re.sub(r"[^a-z0-9-]", "-", sandbox[:8].lower())
    head = re.sub(r"[^a-z0-9-]", "-", f"podvm-{pod}".lower())[: limit - len(tail)].rstrip("-")
    return head + tail


@attrs.frozen(kw_only=True)
class Pod:
    """Which pod a sandbox is."""

    name: str
    namespace: str
    uid: str = ""
    """Empty when nobody told it: the shim does not send it."""


@attrs.frozen(kw_only=True)
class InstanceSpec:
    """What is asked of a cloud for one sandbox. 0 and "" mean: the provider's default."""

    vcpus: int = 0
    memory_mib: int = 0
    gpus: int = 0
    gpu_model: str = ""
    machine_type: str = ""
    image: str = ""


def parse_size(text: str) -> int:
    """A count as the shims write it: "", "0", "2", or a fraction such as "1.5", rounded up. Nonsense is 0.

    runtime-rs prints an f32; the Go shim prints whole numbers, "0" for unset (shim-trace: sizes).
    """
    try:
        value = float(text)
    except ValueError:
        return 0
    if not math.isfinite(value) or value <= 0 or value > 2**31:
        return 0
    return math.ceil(value)


class InstanceState(enum.Enum):
    """What the cloud says of an instance."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    DELETING = "deleting"
    GONE = "gone"


class TunnelKind(enum.Enum):
    """How the pod's packets reach the instance."""

    VXLAN = "vxlan"
    NONE = "none"


@attrs.frozen(kw_only=True)
class Instance:
    """One VM as its provider describes it."""

    id: str
    """The provider's own id; what delete, describe and console take."""
    name: str
    token: str = ""
    """The token it was created with, found again in its tags."""
    state: InstanceState = InstanceState.PENDING
    addresses: tuple[str, ...] = ()
    """Without prefix lengths; the first is the agent's and the tunnel's. Empty while unknown."""
    agent_port: int = 15150
    tunnel: TunnelKind = TunnelKind.VXLAN
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def agent_host(self) -> str | None:
        """Where the forwarder listens, or None while the address is unknown."""
        return self.addresses[0] if self.addresses else None


@attrs.frozen(kw_only=True)
class Route:
    """One route of the pod's namespace."""

    dst: str
    """CIDR; the default route is 0.0.0.0/0 or ::/0."""
    gateway: str = ""
    dev: str = ""
    src: str = ""
    metric: int = 0
    mtu: int = 0
    onlink: bool = False
    scope: int = 0
    """RT_SCOPE_*: 0 universe, 253 link."""
    protocol: int = 3
    """RTPROT_*: 2 kernel, 3 boot, 4 static, 16 dhcp."""


@attrs.frozen(kw_only=True)
class Neighbour:
    """A permanent neighbour entry (Calico's 169.254.1.1 and the like)."""

    ip: str
    mac: str
    dev: str = ""


@attrs.frozen(kw_only=True)
class PodNetwork:
    """What a pod's network namespace looks like on the worker, at CreateVM."""

    interface: str
    mac: str
    mtu: int
    """Of the pod's interface in its namespace, bytes."""
    addresses: tuple[str, ...]
    """CIDR text, IPv4 first; at least one."""
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    node_address: str
    """The worker's address that the VM sends its tunnel to, without prefix."""
    underlay_mtu: int = 1500
    """Of the worker's interface that carries the tunnel."""


@attrs.frozen(kw_only=True)
class Tunnel:
    """The worker's end of a pod's VXLAN tunnel; enough to make it, and to remove it when the namespace has gone."""

    sandbox: SandboxId
    netns: str
    interface: str
    remote: str
    """The VM's address."""
    local: str
    vni: int
    port: int = 4789
    mtu: int = 1450


class Phase(enum.Enum):
    """Where a sandbox is in its life (house.md section 4)."""

    PREPARED = "prepared"
    LAUNCHING = "launching"
    BOOTING = "booting"
    LINKING = "linking"
    RUNNING = "running"
    FAILED = "failed"
    STOPPING = "stopping"
    GONE = "gone"
