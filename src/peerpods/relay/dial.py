"""When to try again, and when to give up: the dial policy as plain functions."""

from __future__ import annotations

import attrs

from peerpods.errors import LinkFailure

FIRST_PAUSE = 0.02
LAST_PAUSE = 1.0
SHARE = 0.05
"""A pause is this share of the time spent so far: a VM that is up is found at most 5 % late, whatever its boot took."""
SHORT_CONNECT = 0.25
"""Seconds for the TCP connect at first: a SYN that was sent before the VM was up is lost, so send another soon."""
STUBBORN = 3
"""Tries in a row that end in a wrong peer or a TLS failure, after which it is no accident."""
DEFAULT_BOUND = 300.0
"""Seconds for a Link without a deadline."""
LONGEST_BOUND = 3600.0


def next_pause(elapsed: float, random: float) -> float:
    """Seconds to wait before the next try.

    Args:
        elapsed: seconds since the first try.
        random: from 0 to 1; takes up to half of the pause away, so that many pods do not dial in step.
    """
    pause = min(LAST_PAUSE, max(FIRST_PAUSE, elapsed * SHARE))
    return pause * (1 - random / 2)


def connect_timeout(elapsed: float, dial_timeout: float) -> float:
    """Seconds for the TCP connect of the next try; the handshake then has the rest of `dial_timeout`."""
    return min(dial_timeout, max(SHORT_CONNECT, elapsed * SHARE))


def bound(deadline_nano: int) -> float:
    """Seconds that a Link call may take in all, from what the caller said (0: nothing)."""
    return min(LONGEST_BOUND, deadline_nano / 1e9) if deadline_nano > 0 else DEFAULT_BOUND


@attrs.define
class Tries:
    """What the tries so far say."""

    started: float
    until: float
    stubborn: int = 0

    def after(self, kind: LinkFailure, now: float, random: float) -> float | None:
        """A try has failed: seconds until the next, or None to give up."""
        if kind in (LinkFailure.TLS, LinkFailure.WRONG_PEER):
            self.stubborn += 1
            if self.stubborn >= STUBBORN:
                return None
        else:
            self.stubborn = 0
        if kind is LinkFailure.CLOSED:
            return None
        pause = next_pause(now - self.started, random)
        return pause if now + pause < self.until else None
