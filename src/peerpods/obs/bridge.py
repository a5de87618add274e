"""Twisted's own log lines, brought in line with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import ILogObserver, LogLevel, formatEvent
from zope.interface import provider

from peerpods.obs import log


def twisted_observer() -> Callable[[Any], None]:
    """What twistd logs through instead of its own file: warnings and failures always, its chatter never."""

    @provider(ILogObserver)
    def observe(event: Any) -> None:
        level = event.get("log_level") or LogLevel.info
        if level < LogLevel.warn:
            return
        fields: dict[str, Any] = {"source": event.get("log_namespace", "")}
        failure = event.get("log_failure")
        if failure is not None:
            fields["trace"] = failure.getTraceback()
        log.emit("error" if level >= LogLevel.error else "warning", formatEvent(event) or "twisted", fields)

    return observe
