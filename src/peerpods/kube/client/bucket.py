"""Token buckets. Pure."""

from __future__ import annotations


class Bucket:
    """Lets `burst` through at once and `rate` a second for ever."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if self.wait(now) > 0:
            return False
        self._tokens -= 1
        return True

    def wait(self, now: float) -> float:
        """Seconds until there is one; 0 if there is."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
        # A hair below one is one: waiting the exact time must be enough, whatever the rounding.
        return max(0.0, (1 - self._tokens) / self._rate) if self._tokens < 1 - 1e-9 else 0.0

    def full(self, now: float) -> bool:
        """Whether it is as good as new."""
        self.wait(now)
        return self._tokens >= self._burst
