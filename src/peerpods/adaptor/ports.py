"""What the adaptor needs of other rooms, as small interfaces: tests put fakes here, `service.py` the real ones."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

import attrs

from peerpods.adaptor.events import Event
from peerpods.adaptor.sandbox import Sandbox, Secrets
from peerpods.errors import LinkError
from peerpods.model import Instance, Pod, PodNetwork, SandboxId, Tunnel


@attrs.frozen(kw_only=True)
class RelayKeys:
    """What the relay must know to reach one VM. PEM."""

    server_name: str
    server_ca: str
    client_cert: str
    client_key: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class LinkFacts:
    """What the relay says of one sandbox."""

    sandbox: SandboxId
    up: bool
    active_connections: int = 0
    was_active: bool = False
    idle: float = 0.0
    """Seconds since the last shim connection that had completed a call closed; 0 while there is one or never was."""


class RelayAway(LinkError):
    """The relay does not answer on its control socket."""


class RelayForgot(LinkError):
    """The relay answers, and does not know the sandbox."""


class RelayPort(Protocol):
    """Orders to the relay. Every call is idempotent and bounded; RelayAway when the relay cannot be reached."""

    async def open(self, sandbox: SandboxId, keys: RelayKeys) -> str:
        """Listen on the agent socket; its path."""

    async def link(self, sandbox: SandboxId, host: str, port: int, timeout: float) -> None:
        """Link to the VM and see the agent answer; LinkError with the class of failure, RelayForgot."""

    async def close(self, sandbox: SandboxId) -> None:
        """Close socket, connections and link, and forget the sandbox. Unknown is success."""

    async def facts(self) -> list[LinkFacts]:
        """All sandboxes that the relay has."""


class NetworkPort(Protocol):
    """The worker's end of the pods' networks."""

    async def inspect(self, netns: str) -> PodNetwork:
        """What the pod's namespace looks like; Refused with a remedy."""

    async def choose_vni(self, used: Collection[int]) -> int:
        """A network id that neither the journal nor a living device has."""

    def exists(self, netns: str) -> bool:
        """Whether the namespace is still there."""

    def tunnel(self, sandbox: Sandbox) -> Tunnel | None:
        """The sandbox's tunnel, or None when its facts are not known."""

    async def set_up(self, tunnel: Tunnel) -> None:
        """Make the tunnel. Idempotent."""

    async def tear_down(self, tunnel: Tunnel) -> None:
        """Remove it, also when the namespace is gone. Idempotent."""


class KeyPort(Protocol):
    """Keys of the link."""

    def issue(self, server_name: str) -> str:
        """New keys, as the text that the journal keeps."""

    def relay_keys(self, keys: str) -> RelayKeys:
        """The relay's part of them."""


class UserDataPort(Protocol):
    """What a VM is told at birth."""

    def compose(self, sandbox: Sandbox, secrets: Secrets) -> bytes:
        """The user data document; Refused when a part of it is malformed."""


class Folders(Protocol):
    """The sandboxes' folders below pods-dir."""

    def remove(self, sandbox: SandboxId) -> None:
        """Remove the sandbox's folder if it is there; OSError when it cannot be."""


@attrs.frozen(kw_only=True)
class PodFacts:
    """What the cluster says of a pod at CreateVM; all empty when it could not be asked."""

    uid: str = ""
    auth_json: str = attrs.field(default="", repr=False)
    """Credentials of the pod's pull secrets (containers-auth.json), or empty."""
    pull_secrets: tuple[str, ...] = ()
    """Names of the secrets that they are from."""


@attrs.frozen
class Limit:
    """How many sandboxes the node may have."""

    count: int
    where: str
    """Who says so, and where it is changed."""


class Notice(enum.Enum):
    """What a pod's user must be told before there is a record; the values are event reasons."""

    LIMIT = "PeerPodLimitReached"
    PULL_SECRET = "PeerPodPullSecret"  # noqa: S105
    USER_DATA = "PeerPodUserDataTooLarge"


@attrs.frozen(kw_only=True)
class Host:
    """What the cluster's side asks of the adaptor."""

    records: Mapping[SandboxId, Sandbox]
    """All records, also of sandboxes that ended lately; read only."""
    post: Callable[[SandboxId, Event], None]
    """Something happened to a sandbox."""
    instances_of: Callable[[SandboxId], Awaitable[Mapping[str, Instance]]]
    """Every instance of a sandbox that the cloud shows; CloudError, DeadlineExceeded."""
    look_at_instance: Callable[[Sandbox], Awaitable[None]]
    """Ask the cloud for a sandbox's instance, and end the sandbox if it has gone."""


class ClusterPort(Protocol):
    """The cluster that the node is part of. Nothing here raises because the cluster does not answer."""

    async def start(self, host: Host) -> None:
        """Begin to watch, in the background. Called when the records are about to be loaded."""

    async def stop(self) -> None:
        """End, within seconds."""

    async def pod_facts(self, pod: Pod) -> PodFacts:
        """Ask for the pod and its pull secrets; bounded, and empty when there is no answer."""

    def limit(self) -> Limit | None:
        """How many sandboxes this node may have, or None for no limit."""

    def tell(self, pod: Pod, notice: Notice, text: str) -> None:
        """Tell the pod's user. Returns at once."""

    async def announce(self, sandbox: Sandbox) -> None:
        """Have the cluster know that a VM is about to be made; waits a bounded time, then goes on without.

        Raises:
            Refused: the cluster does not want it: its namespace is being deleted.
        """

    def changed(self, before: Sandbox | None, after: Sandbox) -> None:
        """A record changed, or was loaded (`before` None). Returns at once."""

    def name_of(self, sandbox: Sandbox) -> str:
        """What the cluster calls the sandbox's VM (the PeerPod's name), or empty."""


class Alone:
    """`ClusterPort` of an adaptor without Kubernetes.

    Args:
        limit: how many sandboxes the node may have; negative for no limit.
    """

    def __init__(self, limit: int = -1) -> None:
        self._limit = flag_limit(limit)

    async def start(self, host: Host) -> None: ...

    async def stop(self) -> None: ...

    async def pod_facts(self, pod: Pod) -> PodFacts:
        return PodFacts(uid=pod.uid)

    def limit(self) -> Limit | None:
        return self._limit

    def tell(self, pod: Pod, notice: Notice, text: str) -> None: ...

    async def announce(self, sandbox: Sandbox) -> None: ...

    def changed(self, before: Sandbox | None, after: Sandbox) -> None: ...

    def name_of(self, sandbox: Sandbox) -> str:
        return ""


def flag_limit(count: int) -> Limit | None:
    """The limit of the flag --limit-per-node; None when it is negative."""
    return Limit(count, "the adaptor's setting --limit-per-node") if count >= 0 else None


Clock = Callable[[], float]
"""Seconds since the epoch."""
