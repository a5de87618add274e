"""structlog behind the loggers of `obs.log`. Node only."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from peerpods.obs import log

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up(fmt: str, service: str, level: str = "info") -> None:
    """All loggers write to standard error: JSON lines (`json`) or aligned text (`console`)."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    bound = structlog.get_logger().bind(service=service)

    def sink(level_name: str, event: str, fields: dict[str, Any]) -> None:
        getattr(bound, level_name)(event, **fields)

    log.set_sink(sink)
