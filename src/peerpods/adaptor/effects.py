"""What the shell has to do. Every effect may be done twice: it is idempotent under the sandbox's own token."""

from __future__ import annotations

import enum

import attrs

from peerpods.adaptor.sandbox import Problem


@attrs.frozen
class Effect:
    """Base of all effects."""


@attrs.frozen
class OpenSocket(Effect):
    """Have the relay listen on the agent socket. Ends in SocketOpened or StepFailed(OPEN)."""


@attrs.frozen
class Launch(Effect):
    """Create the instance. Ends in Launched or StepFailed(LAUNCH)."""

    delay: float = 0.0


@attrs.frozen
class AwaitAddress(Effect):
    """Ends in AddressKnown or StepFailed(ADDRESS)."""


@attrs.frozen
class SetUpTunnel(Effect):
    """Ends in TunnelUp or StepFailed(TUNNEL)."""


@attrs.frozen
class MakeLink(Effect):
    """Ends in LinkUp or StepFailed(LINK)."""


@attrs.frozen
class SetDeadline(Effect):
    """Ends in DeadlinePassed after so many seconds, unless the start has ended."""

    seconds: float


@attrs.frozen
class ReadConsole(Effect):
    """Ends in ConsoleRead, whatever happens."""


@attrs.frozen
class Keep(Effect):
    """Ends in KeepExpired at this time (seconds since the epoch)."""

    until: float


@attrs.frozen
class CloseAgent(Effect):
    """Have the relay close the agent socket and its connections. No event: CleanUp does it again."""


@attrs.frozen
class Delete(Effect):
    """Delete every instance of the sandbox. Ends in CloudGone or DeleteFailed."""

    delay: float = 0.0


@attrs.frozen
class CleanUp(Effect):
    """Remove tunnel, agent socket and folder. Ends in CleanedUp or CleanUpFailed."""

    delay: float = 0.0


@attrs.frozen
class DeleteStrays(Effect):
    """Delete whatever carries the tag of a sandbox that the journal does not know as alive. No event."""


class Question(enum.Enum):
    """Which call is answered."""

    CREATE = "CreateVM"
    START = "StartVM"
    STOP = "StopVM"


@attrs.frozen(kw_only=True)
class Answer(Effect):
    """Answer one call, or with `call` None all that wait for this question."""

    question: Question
    call: int | None = None
    problem: Problem | None = None
