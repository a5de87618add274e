"""What shall go wrong in the provider `memory`, and when. Counters count down as faults happen."""

from __future__ import annotations

import enum

import attrs

from peerpods.errors import CloudError, CloudFailure


class When(enum.Enum):
    """On which side of the effect a create fails."""

    BEFORE = "before"
    """Nothing was made."""
    AFTER = "after"
    """The instance exists, the answer is an error."""
    LOST = "lost"
    """The instance exists, and no answer ever comes: the caller must give up by itself."""


class Guest(enum.Enum):
    """What answers at an instance's address."""

    NORMAL = "normal"
    REFUSES = "refuses"
    """Nobody listens: a VM that never boots."""
    SILENT = "silent"
    """TLS comes up, and no call is ever answered: an agent that hangs."""


@attrs.define(kw_only=True)
class FaultPlan:
    """Faults to inject; change it at any time, also while calls run.

    All counts are in calls. A fresh plan injects nothing.
    """

    creates: dict[int, tuple[When, CloudError | None]] = attrs.field(factory=dict)
    """Number of a create (1 is the first of this provider) to where it fails and with what."""
    hidden_for: int = 0
    """`find` and `list` do not show a new instance in this many calls after its create."""
    throttled: int = 0
    """The next calls of any kind that are refused as too many."""
    delete_errors: int = 0
    """Deletes that are accepted, answered with an error, and carried out by none."""
    delete_polls: int = 0
    """How often a delete has to look before an instance is gone."""
    address_delay: float | None = 0.0
    """Seconds from create to the address; None: it never gets one."""
    dies_after: float | None = None
    """Seconds after which a new instance stops by itself."""
    guest: Guest = Guest.NORMAL

    def throttle(self, call: str) -> None:
        """Raise when this call is one of the throttled."""
        if self.throttled > 0:
            self.throttled -= 1
            raise CloudError(f"{call}: too many requests", kind=CloudFailure.RETRYABLE)
