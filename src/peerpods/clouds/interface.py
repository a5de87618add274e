"""The provider interface: what the adaptor asks of a cloud, and the contract that every provider keeps.

`tests/contract/provider.py` is the contract as tests; every provider passes it.

Rules that hold for all methods:
- They run on the reactor thread and never block it: SDK calls go to a bounded pool of the provider's own.
- They may be cancelled; a cancelled create may still have made an instance, which `find` then shows.
- Failures are `CloudError` with the cloud's own words, or `ConfigError` from `verify`. Nothing else escapes.
- Only instances that carry our tags are listed, found or deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from peerpods.model import Instance, InstanceSpec

TAG_TOKEN = "peerpods-token"  # noqa: S105
TAG_SANDBOX = "peerpods-sandbox"
TAG_POD = "peerpods-pod"
TAG_NAMESPACE = "peerpods-namespace"
TAG_NODE = "peerpods-node"
TAG_CLUSTER = "peerpods-cluster"


@attrs.frozen(kw_only=True)
class Capabilities:
    """What a provider can do; constant for its life."""

    max_user_data: int
    """Largest user data in bytes before the provider's own encoding; checked before any cloud call."""
    name_limit: int = 63
    console: bool = False
    events: bool = False
    """`watch` reports instances that stop by themselves, so that nobody has to poll."""
    isolated: bool = True
    """False where an instance is no VM; said loudly at start."""


@attrs.frozen(kw_only=True)
class CreateRequest:
    """One instance to make."""

    token: str
    """Sandbox id and attempt: a second create with an equal token gives the same instance, never another."""
    name: str
    spec: InstanceSpec
    user_data: bytes = attrs.field(repr=False)
    """The `#cloud-config` document; holds secrets, so it is in no log."""
    tags: Mapping[str, str]


@attrs.frozen(kw_only=True)
class InstanceEvent:
    """Something happened to an instance that nobody asked for, or its address became known."""

    instance: Instance
    reason: str
    """A few words of the cloud's: "destroyed", "crashed", "reclaimed", "address"."""


class Provider(Protocol):
    """One cloud, configured. Made by its package's `make_provider(settings, reactor)`."""

    name: str

    def capabilities(self) -> Capabilities:
        """What this provider can do."""

    async def start(self) -> None:
        """Connect. Called once, before all methods but `capabilities`; a failure ends the adaptor's start."""

    async def stop(self) -> None:
        """Let go of connections and threads; instances stay. Idempotent."""

    async def verify(self) -> None:
        """Check that the configuration can work: credentials, image, network, pool.

        Raises:
            ConfigError: naming the first setting that cannot work and the remedy.
        """

    async def create(self, request: CreateRequest) -> Instance:
        """Make an instance, or give the one that already has this token.

        Returns as soon as the cloud has given it an id; addresses may be missing (see `wait_address`).

        Raises:
            CloudError: INVALID for user data over the limit, before any call to the cloud; QUOTA, DENIED,
                NOT_FOUND (image, network), RETRYABLE otherwise. Whether something was made: ask `find`.
        """

    async def wait_address(self, instance_id: str) -> Instance:
        """The instance once it has an address. No bound of its own: the caller cancels.

        Raises:
            CloudError: NOT_FOUND when it is gone; RETRYABLE when it stopped before it had one.
        """

    async def find(self, token: str) -> Instance | None:
        """The instance made with this token, whatever its state, or None."""

    async def list(self, tags: Mapping[str, str]) -> list[Instance]:
        """All instances that carry all of these tags."""

    async def describe(self, instance_id: str) -> Instance:
        """The instance as it is now.

        Raises:
            CloudError: NOT_FOUND.
        """

    async def delete(self, instance_id: str) -> None:
        """Delete the instance and all that was made for it; returns when the cloud says gone.

        An unknown id is success. Idempotent, also while an earlier delete runs, and for a half-made instance.
        """

    async def console(self, instance_id: str, max_bytes: int = 65536) -> bytes:
        """The newest bytes of the instance's console, oldest first; empty when there is none.

        Raises:
            CloudError: NOT_FOUND.
        """

    def watch(self, callback: Callable[[InstanceEvent], None]) -> Callable[[], None]:
        """Report events from now on, on the reactor thread; the answer stops it. A no-op without `events`."""
