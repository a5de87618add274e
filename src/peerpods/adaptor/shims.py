"""When is a shim gone? Pure: from the relay's reports of connections to the sandboxes that are worth a closer look.

Only connections that completed a call count. A silent one (runtime-rs's log reader) keeps nobody alive, and its end is
no sign; neither is a closing by the relay itself. A connection that opens within the grace gets the same time for its
first call. What is due is confirmed by the relay's own count, so that a report missed or seen twice ends nobody.
"""

from __future__ import annotations

from peerpods.adaptor.ports import LinkFacts
from peerpods.model import SandboxId

GRACE = 2.0
"""Seconds after the last active connection's end within which another may take its place."""
_SLACK = 0.1  # seconds by which two processes' clocks and timers may differ


def is_gone(facts: LinkFacts) -> bool:
    """Whether the relay's count says that the shim has left for good."""
    return facts.was_active and not facts.active_connections and facts.idle >= GRACE - _SLACK


class ShimTracker:
    """Feed it reports with the time; `expired` gives the sandboxes to look at."""

    def __init__(self) -> None:
        self._due: dict[SandboxId, float] = {}

    def baseline(self, facts: LinkFacts, now: float) -> None:
        """What a listing says at the beginning of a watch."""
        if facts.was_active and not facts.active_connections:
            self._due[facts.sandbox] = now + max(0.0, GRACE - facts.idle)
        else:
            self._due.pop(facts.sandbox, None)

    def opened(self, sandbox: SandboxId, now: float) -> None:
        """A connection was opened, which has not said anything yet."""
        if sandbox in self._due:
            self._due[sandbox] = max(self._due[sandbox], now + GRACE)

    def gone(self, sandbox: SandboxId, active: bool, by_relay: bool, now: float) -> None:
        """A connection closed."""
        if active and not by_relay:
            self._due[sandbox] = now + GRACE

    def forget(self, sandbox: SandboxId) -> None:
        """The sandbox has ended, or a connection is active."""
        self._due.pop(sandbox, None)

    def next_due(self) -> float | None:
        """When `expired` has something, or None."""
        return min(self._due.values(), default=None)

    def expired(self, now: float) -> list[SandboxId]:
        """Sandboxes to look at now; each is told once."""
        over = [sandbox for sandbox, due in self._due.items() if due <= now]
        for sandbox in over:
            self.forget(sandbox)
        return over
