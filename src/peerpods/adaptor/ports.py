"""What the adaptor needs of other rooms, as small interfaces: tests put fakes here, `service.py` the real ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import attrs

from peerpods.adaptor.sandbox import Sandbox, Secrets
from peerpods.errors import LinkError
from peerpods.model import PodNetwork, SandboxId, Tunnel


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


Clock = Callable[[], float]
"""Seconds since the epoch."""
