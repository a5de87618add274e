"""Which failed request is sent again, and when. Pure."""

from __future__ import annotations

from peerpods.kube.client.errors import LOST, REFUSED, TLS, UNKNOWN_HOST, ApiError

TRIES = 4
"""Times a request is sent at most within its bound."""
LONGEST = 10.0
"""Seconds of the longest Retry-After that is waited for here; with a longer one the caller learns of it."""
_DELAYS = (0.1, 0.4, 1.0)


def next_try(method: str, error: ApiError, tries: int, chance: float) -> float | None:
    """Seconds to wait before the same request is sent again, or None to give up.

    Only reads are repeated after a failure that may have come after the request was served. A write is repeated
    when the server said that it did not look at it (429), or when it certainly never got there.

    Args:
        tries: how often it was sent, at least 1.
        chance: in [0, 1), for the jitter.
    """
    if tries >= TRIES:
        return None
    reading = method in ("GET", "HEAD")
    unsent = error.status == 0 and not error.sent and error.reason in (REFUSED, LOST, UNKNOWN_HOST)
    again = error.status == 429 or unsent
    if reading:
        again = again or error.status >= 500 or (error.status == 0 and error.reason == LOST)
    if not again or error.reason == TLS:
        return None
    if error.retry_after is not None:
        return None if error.retry_after > LONGEST else max(error.retry_after, 0.05) * (1 + 0.2 * chance)
    return _DELAYS[min(tries, len(_DELAYS)) - 1] * (0.5 + 0.5 * chance)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header; the form with a date is passed over."""
    if not value or not value.strip().isdigit():
        return None
    return float(min(int(value), 3600))
