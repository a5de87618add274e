"""What the build says as it goes: one line a step, with its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Prints steps to standard error and keeps their times (seconds) in `steps`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self.steps: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            print(f"image: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Around one step: says its name at the begin, its time at the end."""
        began = time.monotonic()
        self.say(f"{name} …")
        yield
        self.steps[name] = time.monotonic() - began
        self.say(f"{name}: {self.steps[name]:.1f} s")
