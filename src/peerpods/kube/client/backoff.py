"""Waiting longer after each failure, never all at the same moment. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Exponential delays with jitter.

    The n-th delay lies between half and all of `base * 2**n`, at most `cap`.
    """

    __slots__ = ("_base", "_cap", "_random", "failures")

    def __init__(self, base: float, cap: float, random: Callable[[], float]) -> None:
        """Args:
        random: gives numbers in [0, 1).
        """
        self._base = base
        self._cap = cap
        self._random = random
        self.failures = 0

    def reset(self) -> None:
        """All is well again."""
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait now."""
        delay = delay_after(self.failures, self._base, self._cap, self._random())
        self.failures += 1
        return delay


def delay_after(failures: int, base: float, cap: float, chance: float) -> float:
    """Seconds to wait after so many failures in a row before this one; `chance` in [0, 1)."""
    full = min(cap, base * float(2 ** min(failures, 62)))
    return full * (0.5 + 0.5 * chance)
