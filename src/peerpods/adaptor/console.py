"""A VM's console as text that can stand in an error: a pure filter."""

from __future__ import annotations

import re

LINES = 20
LINE_MAX = 200
"""Characters of a line; what a loader draws with escapes can be very long."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]|[ -/]+[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2028\u2029]")


def clean(data: bytes) -> str:
    """Console bytes as text: escape sequences and control characters but newline and tab removed."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def tail(data: bytes, lines: int = LINES) -> tuple[str, ...]:
    """The last lines that say something, oldest first, each at most LINE_MAX characters."""
    kept = [line.rstrip()[:LINE_MAX] for line in clean(data).replace("\t", " ").split("\n")]
    return tuple([line for line in kept if line][-lines:]) if lines > 0 else ()
