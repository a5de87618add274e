"""One way to fail: the errors that cross rooms.

Each says what happened, to which sandbox or setting, and what the reader can do. The ttrpc layer turns one into a
status once (`adaptor.hypervisor.to_status`); the same text reaches the log, the pod's event and `peerpods inspect`.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class PeerPodError(Exception):
    """Base of all errors that a user may see.

    `str()` of an error is one line for people: the message and, when there is one, what to do about it.
    """

    code: ClassVar[int] = 2
    """Status code (gRPC numbers) under which the error crosses a ttrpc connection; 2 is UNKNOWN."""

    def __init__(self, message: str, *, sandbox: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.sandbox = sandbox
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(PeerPodError):
    """A setting is wrong: found before a service starts, or by a provider's check of its configuration."""

    code = 9

    def __init__(self, message: str, *, setting: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.setting = setting


class Refused(PeerPodError):
    """A request that will not be served: malformed, unknown, out of order, or not allowed."""

    code = 3


class NotFound(Refused):
    """The request names something that does not exist."""

    code = 5


class AlreadyExists(Refused):
    """The same id is in use with other facts."""

    code = 6


class OutOfOrder(Refused):
    """The request does not fit the state of what it names."""

    code = 9


class CloudFailure(enum.Enum):
    """Why a cloud call failed, chosen by what can be done about it."""

    RETRYABLE = "retryable"
    """Passing fault, throttling, or no answer: the same call may work later."""
    QUOTA = "quota"
    """The account, host or node is at its limit; another type or place may still work."""
    DENIED = "denied"
    """Credentials or rights are missing."""
    NOT_FOUND = "not_found"
    """An instance, image, network or pool that the call names does not exist."""
    INVALID = "invalid"
    """The request can never work as it is."""


class CloudError(PeerPodError):
    """A provider could not do what was asked. The message has the cloud's own words."""

    code = 14

    def __init__(
        self,
        message: str,
        *,
        kind: CloudFailure = CloudFailure.RETRYABLE,
        sandbox: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, sandbox=sandbox, remedy=remedy)
        self.kind = kind


class LinkFailure(enum.Enum):
    """Why the relay has no link to a VM. The values are the names of LinkFailure in relay.proto."""

    REFUSED = "REFUSED"
    TIMEOUT = "TIMEOUT"
    TLS = "TLS"
    WRONG_PEER = "WRONG_PEER"
    AGENT = "AGENT"
    CLOSED = "CLOSED"


class LinkError(PeerPodError):
    """The link to a VM could not be made, or was lost."""

    code = 14

    def __init__(
        self, message: str, *, kind: LinkFailure, sandbox: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message, sandbox=sandbox, remedy=remedy)
        self.kind = kind


class GuestError(PeerPodError):
    """Something inside the VM failed: user data, pod network, agent."""

    code = 13


class DeadlineExceeded(PeerPodError):
    """A step did not end in the time it had."""

    code = 4


class LocalFailure(PeerPodError):
    """This machine failed us: disk full, no permission, a socket in use."""

    code = 13
