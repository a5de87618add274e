"""Structured log lines: one event name a fact, ids as fields, never in the text.

The same small face serves the node (backed by structlog) and the VM (backed by `json` alone: structlog would cost the
guest 19 MiB). No secret, user data or policy text is ever a field.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

Sink = Callable[[str, str, dict[str, Any]], None]
"""(level, event, fields)."""


def plain_sink(stream: TextIO | None = None) -> Sink:
    """One JSON object a line, without structlog."""

    def write(level: str, event: str, fields: dict[str, Any]) -> None:
        # twistd puts its log in the place of sys.stderr: lines written there would come back to us.
        out = stream or sys.__stderr__ or sys.stderr
        record = {"time": round(time.time(), 3), "level": level, "event": event, **fields}
        out.write(json.dumps(record, default=str) + "\n")
        out.flush()

    return write


class _State:
    sink: Sink = staticmethod(plain_sink())


def set_sink(sink: Sink) -> None:
    """Where all loggers write from now on. Called once by the command line layer, and by tests."""
    _State.sink = staticmethod(sink)  # type: ignore[assignment]


def emit(level: str, event: str, fields: dict[str, Any]) -> None:
    """Write one line through the sink in force."""
    _State.sink(level, event, fields)


class Logger(Protocol):
    """What rooms use to log."""

    def bind(self, **fields: Any) -> Logger:
        """A logger whose lines carry these fields too."""

    def debug(self, event: str, **fields: Any) -> None: ...

    def info(self, event: str, **fields: Any) -> None: ...

    def warning(self, event: str, **fields: Any) -> None: ...

    def error(self, event: str, **fields: Any) -> None: ...


class BoundLogger:
    """A `Logger` with fixed fields."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def bind(self, **fields: Any) -> BoundLogger:
        """A logger with these fields added."""
        return BoundLogger({**self._fields, **fields})

    def debug(self, event: str, **fields: Any) -> None:
        """For a developer at work."""
        _State.sink("debug", event, {**self._fields, **fields})

    def info(self, event: str, **fields: Any) -> None:
        """A fact of normal life."""
        _State.sink("info", event, {**self._fields, **fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something failed and is being mended."""
        _State.sink("warning", event, {**self._fields, **fields})

    def error(self, event: str, **fields: Any) -> None:
        """Something failed and needs a person."""
        _State.sink("error", event, {**self._fields, **fields})


def get_logger(room: str) -> Logger:
    """The logger of a room: its name is the field `room`."""
    return BoundLogger({"room": room})
