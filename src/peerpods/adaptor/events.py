"""What can happen to a sandbox. Each event says when it happened (`at`, seconds since the epoch)."""

from __future__ import annotations

import enum

import attrs

from peerpods.adaptor.sandbox import Problem, Sandbox, Secrets
from peerpods.model import Instance


@attrs.frozen(kw_only=True)
class Event:
    """Base of all events."""

    at: float = 0.0


@attrs.frozen(kw_only=True)
class CreateRequested(Event):
    """CreateVM, checked and with its facts gathered."""

    call: int
    digest: str
    draft: Sandbox | None
    """The record to begin with; None when the id was known, so that no facts were gathered."""
    secrets: Secrets | None = attrs.field(default=None, repr=False)
    """Written down together with the draft."""


@attrs.frozen(kw_only=True)
class StartRequested(Event):
    """StartVM."""

    call: int
    budget: float
    """Seconds until the start must have ended."""
    sandbox: str = ""
    """As asked for: where there is no record, only the event can name it."""


@attrs.frozen(kw_only=True)
class StopRequested(Event):
    """StopVM."""

    call: int


class Step(enum.Enum):
    """The steps of a start, as error texts and `peerpods inspect` name them."""

    OPEN = "create_vm"
    LAUNCH = "launch"
    ADDRESS = "address"
    TUNNEL = "tunnel"
    LINK = "link"


@attrs.frozen(kw_only=True)
class SocketOpened(Event):
    """The relay listens on the agent socket."""

    took_ms: float = 0.0


@attrs.frozen(kw_only=True)
class Launched(Event):
    """The cloud made, or already had, the instance of this attempt."""

    attempt: int
    instance: Instance
    took_ms: float = 0.0


@attrs.frozen(kw_only=True)
class AddressKnown(Event):
    """The instance has an address."""

    attempt: int
    instance: Instance
    took_ms: float = 0.0


@attrs.frozen(kw_only=True)
class TunnelUp(Event):
    """The worker's end of the tunnel is in place."""

    attempt: int
    took_ms: float = 0.0


@attrs.frozen(kw_only=True)
class LinkUp(Event):
    """The agent answered Health/Check through the relay."""

    attempt: int
    took_ms: float = 0.0


@attrs.frozen(kw_only=True)
class StepFailed(Event):
    """A step ended in an error."""

    attempt: int
    step: Step
    problem: Problem
    retryable: bool = False


@attrs.frozen(kw_only=True)
class DeadlinePassed(Event):
    """The start took longer than it may."""

    attempt: int


class Cause(enum.Enum):
    """Why a sandbox ends without a StopVM."""

    CONNECTION_LOST = "the shim's connection was lost with a call in flight"
    SHIM_GONE = "the shim's last connection to the agent socket closed"
    NETNS_GONE = "the pod's network namespace disappeared"
    LINK_LOST = "the link to the VM was lost"
    RELAY_LOST = "the relay no longer has the sandbox"
    INSTANCE_GONE = "the instance stopped or disappeared"
    POD_GONE = "the pod is gone from the cluster"


@attrs.frozen(kw_only=True)
class Ended(Event):
    """Something that ends the sandbox was seen."""

    cause: Cause
    detail: str = ""


@attrs.frozen(kw_only=True)
class PodKnown(Event):
    """The API server has told the UID of a sandbox's pod, later than at CreateVM."""

    uid: str


@attrs.frozen(kw_only=True)
class ConsoleRead(Event):
    """The console of an instance that never became ready; no lines when there was nothing to read."""

    lines: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class KeepExpired(Event):
    """A failed VM has been kept long enough."""


@attrs.frozen(kw_only=True)
class CloudGone(Event):
    """The cloud says that no instance of the sandbox is left."""


@attrs.frozen(kw_only=True)
class DeleteFailed(Event):
    """A deletion did not end in gone."""

    problem: Problem


@attrs.frozen(kw_only=True)
class CleanedUp(Event):
    """Tunnel, agent socket and folder are gone."""


@attrs.frozen(kw_only=True)
class CleanUpFailed(Event):
    """Some of the node's own things could not be removed yet."""

    problem: Problem


@attrs.frozen(kw_only=True)
class Restarted(Event):
    """The adaptor has loaded this record from its journal."""
