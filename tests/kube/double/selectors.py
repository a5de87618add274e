"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.kube.double.kinds import Kind
from tests.kube.double.refusal import Refusal

Test = Callable[[dict[str, Any]], bool]
_SETS = re.compile(r"^(\S+)\s+(in|notin)\s+\(([^)]*)\)$")


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _label(part: str) -> Callable[[dict[str, str]], bool]:
    found = _SETS.match(part)
    if found:
        name, values = found[1], {each.strip() for each in found[3].split(",")}
        if found[2] == "in":
            return lambda labels: labels.get(name) in values
        return lambda labels: labels.get(name) not in values
    for sign in ("!=", "==", "="):
        if sign in part:
            name, _, value = (each.strip() for each in part.partition(sign))
            if "=" in value:
                raise Refusal(400, f"unable to parse requirement: found {value!r}, expected: identifier")
            if sign == "!=":
                return lambda labels: labels.get(name) != value
            return lambda labels: labels.get(name) == value
    if not re.match(r"^!?[\w./-]+$", part):
        raise Refusal(400, f"unable to parse requirement: found {part!r}")
    if part.startswith("!"):
        return lambda labels: part[1:] not in labels
    return lambda labels: part in labels


def _field(obj: dict[str, Any], path: str) -> str:
    value: Any = obj
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "false" if path == "spec.unschedulable" else ""
    return str(value)


def parse(kind: Kind, labels: str, fields: str) -> Test:
    """Whether an object is selected.

    Raises:
        Refusal: 400 for a selector that is malformed or names a field that this kind does not offer.
    """
    wanted = [_label(part) for part in _split(labels)]
    pairs = []
    for part in _split(fields):
        found = re.match(r"^([\w.]+)\s*(!=|==|=)\s*(.*)$", part)
        if not found:
            raise Refusal(400, f"invalid field selector {part!r}")
        if found[1] not in kind.fields:
            raise Refusal(400, f"field label not supported: {found[1]}")
        pairs.append((found[1], found[2] != "!=", found[3]))

    def test(obj: dict[str, Any]) -> bool:
        own = obj["metadata"].get("labels") or {}
        return all(each(own) for each in wanted) and all((_field(obj, p) == v) == equal for p, equal, v in pairs)

    return test


def matches(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Whether a LabelSelector object selects these labels; an absent or empty one selects all."""
    selector = selector or {}
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or ():
        name, values = each["key"], each.get("values") or ()
        right = {
            "In": labels.get(name) in values,
            "NotIn": labels.get(name) not in values,
            "Exists": name in labels,
            "DoesNotExist": name not in labels,
        }[each["operator"]]
        if not right:
            return False
    return True
