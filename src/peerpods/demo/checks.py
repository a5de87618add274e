"""What the demo prints: headings, facts that held or did not, with the time since its start."""

from __future__ import annotations

import sys
import time

import attrs


class Broken(Exception):
    """Something the demo promises did not hold."""


@attrs.define
class Teller:
    """Prints progress as it happens; remembers nothing."""

    began: float = attrs.field(factory=time.monotonic)

    def _line(self, mark: str, text: str) -> None:
        print(f"[{time.monotonic() - self.began:7.2f}s] {mark} {text}", flush=True)

    def head(self, text: str) -> None:
        """A new part of the story."""
        print(flush=True)
        self._line("==", text)

    def note(self, text: str) -> None:
        """Something that happens."""
        self._line("..", text)

    def held(self, text: str) -> None:
        """Something that was to be shown, and was."""
        self._line("ok", text)

    def check(self, truth: object, text: str, why: str = "") -> None:
        """Show one fact.

        Raises:
            Broken: when it does not hold.
        """
        if truth:
            self.held(text)
            return
        self._line("NO", text)
        raise Broken(f"{text}: {why}" if why else text)


def complain(text: str) -> None:
    """The last line of a demo that did not hold."""
    print(f"demo: {text}", file=sys.stderr, flush=True)
