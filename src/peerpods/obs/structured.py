"""structlog behind the loggers of `obs.log`. Node only."""

from __future__ import annotations

import logging
import sys
from typing import Any

# structlog imports these where it finds them, for traces in colour and for gevent: 5 MiB in each service for nothing.
_OPTIONAL = ("rich", "greenlet")
_before = {name: sys.modules.get(name) for name in _OPTIONAL}
sys.modules.update(dict.fromkeys(_OPTIONAL))  # type: ignore[arg-type]
import structlog  # noqa: E402

for _name, _module in _before.items():
    if _module is None:
        del sys.modules[_name]
    else:
        sys.modules[_name] = _module

from peerpods.obs import log  # noqa: E402

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
