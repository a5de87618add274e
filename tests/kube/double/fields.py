"""Sets of fields: who manages what, as paths.

A path is a tuple of steps `f:NAME`, `k:{"KEY":VALUE}` (an item of a list with keys) and `v:VALUE` (an item of a set),
as in `metadata.managedFields`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.kube.double.kinds import Kind

Path = tuple[str, ...]
SYSTEM = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace"),
    ("f:metadata", "f:uid"), ("f:metadata", "f:resourceVersion"), ("f:metadata", "f:generation"),
    ("f:metadata", "f:creationTimestamp"), ("f:metadata", "f:deletionTimestamp"), ("f:metadata", "f:selfLink"),
    ("f:metadata", "f:deletionGracePeriodSeconds"),
}  # fmt: skip
_DEFAULTS = {"protocol": "TCP"}
_dump = json.JSONEncoder(separators=(",", ":")).encode


def step_of(item: Any, keys: tuple[str, ...]) -> str:
    """How a path names an item of a list."""
    return "k:" + _dump({key: item.get(key, _DEFAULTS.get(key)) for key in keys}) if keys else "v:" + _dump(item)


def leaves(value: Any, kind: Kind) -> dict[Path, Any]:
    """All fields of an object with their values; items of keyed lists also for themselves (value None)."""
    found: dict[Path, Any] = {}
    body = {**value, "metadata": {k: v for k, v in value.get("metadata", {}).items() if k != "managedFields"}}
    _walk(body, kind, (), (), found)
    return {path: each for path, each in found.items() if path not in SYSTEM}


def _walk(value: Any, kind: Kind, path: Path, names: tuple[str, ...], found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            _walk(each, kind, (*path, f"f:{name}"), (*names, name), found)
        return
    keys = kind.list_keys(names) if isinstance(value, list) and names else None
    if keys is None or not value:
        found[path] = value
        return
    for item in value:
        here = (*path, step_of(item, keys))
        found[here] = None
        if keys:
            for name, each in item.items():
                _walk(each, kind, (*here, f"f:{name}"), (*names, name), found)


def to_tree(paths: Iterable[Path]) -> dict[str, Any]:
    """FieldsV1."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node["."] = {}

    def tidy(node: dict[str, Any]) -> dict[str, Any]:
        return {} if set(node) == {"."} else {step: tidy(below) if below else {} for step, below in node.items()}

    return tidy(tree)


def from_tree(tree: dict[str, Any], path: Path = ()) -> set[Path]:
    """The paths of FieldsV1."""
    found: set[Path] = set()
    for step, below in tree.items():
        if step == ".":
            found.add(path)
        elif not below:
            found.add((*path, step))
        else:
            found |= from_tree(below, (*path, step))
    return found


def words(path: Path) -> str:
    """`.spec.containers[name="a"].image`: how a conflict names a field."""
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step[2:]}"
        elif step.startswith("k:"):
            text += "[" + ",".join(f"{name}={_dump(value)}" for name, value in json.loads(step[2:]).items()) + "]"
        else:
            text += f"[={step[2:]}]"
    return text


def remove(value: Any, path: Path) -> bool:
    """Take a field or item out, in place, and the objects that become empty by that. True when `value` became empty."""
    step, rest = path[0], path[1:]
    if step.startswith("f:") and isinstance(value, dict) and step[2:] in value:
        name = step[2:]
        if not rest or remove(value[name], rest):
            del value[name]
    elif isinstance(value, list):
        for item in value:
            wanted = json.loads(step[2:])
            same = item == wanted if step.startswith("v:") else _matches(item, wanted)
            if same:
                if not rest:
                    value.remove(item)
                else:
                    remove(item, rest)
                break
    return value in ({}, [])


def _matches(item: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(item, dict) and all(item.get(k, _DEFAULTS.get(k)) == v for k, v in wanted.items())
