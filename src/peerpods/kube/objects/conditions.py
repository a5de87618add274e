"""Kubernetes conditions and times, as every controller writes them. Pure: the time is an argument."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any

MESSAGE_MAX = 4096
"""Characters; the API's own limit for a condition's message is 32768."""
_REASON = re.compile(r"[^A-Za-z0-9_,:]+")


def time_text(seconds: float) -> str:
    """Seconds since the epoch as the API writes a time: RFC 3339 in UTC with whole seconds."""
    at = datetime.datetime.fromtimestamp(int(seconds), tz=datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> float | None:
    """The inverse, for any RFC 3339 time; None for anything else."""
    if not isinstance(text, str) or not text:
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()


def cut(text: str, limit: int = MESSAGE_MAX) -> str:
    """Text of at most `limit` characters; what is left out is shown by an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _reason(text: str) -> str:
    return re.sub(r"^[^A-Za-z]+", "", _REASON.sub("", text))[:1024].rstrip(",:") or "Unknown"


def condition(
    kind: str, status: bool | None, reason: str, message: str, now: float, *, generation: int = 0
) -> dict[str, Any]:
    """One condition that changed now.

    Args:
        kind: its type: "Ready".
        status: None for "Unknown".
        reason: one CamelCase word; other characters are dropped, and an empty one becomes "Unknown".
        now: seconds since the epoch.
        generation: the object's generation that this was seen at; 0 leaves it out.
    """
    made: dict[str, Any] = {
        "type": kind,
        "status": "Unknown" if status is None else str(status),
        "reason": _reason(reason),
        "message": cut(message),
        "lastTransitionTime": time_text(now),
    }
    if generation:
        made["observedGeneration"] = generation
    return made


def find_condition(conditions: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """The condition of a type, or None."""
    return next((one for one in conditions if one.get("type") == kind), None)


def set_condition(conditions: Iterable[Mapping[str, Any]], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conditions with one of them put in; its place and, while its status stays, its transition time are kept.

    The rule is the API's own: `lastTransitionTime` moves only with `status`. Idempotent.
    """
    kept = [dict(one) for one in conditions]
    for index, one in enumerate(kept):
        if one.get("type") != new["type"]:
            continue
        if one.get("status") == new["status"] and one.get("lastTransitionTime"):
            new = {**new, "lastTransitionTime": one["lastTransitionTime"]}
        kept[index] = dict(new)
        return kept
    return [*kept, dict(new)]
