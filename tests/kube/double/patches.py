"""JSON patch (RFC 6902), merge patch (RFC 7386) and as much of strategic merge as lists by name need."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

ListKeys = Callable[[tuple[str, ...]], tuple[str, ...] | None]


class PatchFault(Exception):
    """The patch does not fit the object."""


def _tokens(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise PatchFault(f"pointer {pointer!r} does not begin with a slash")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _step(value: Any, token: str) -> Any:
    try:
        return value[int(token)] if isinstance(value, list) else value[token]
    except (KeyError, IndexError, ValueError, TypeError):
        raise PatchFault(f"nothing at {token!r}") from None


def _place(document: Any, tokens: list[str]) -> tuple[Any, str]:
    for token in tokens[:-1]:
        document = _step(document, token)
    if not isinstance(document, dict | list):
        raise PatchFault(f"no object or list above {tokens[-1]!r}")
    return document, tokens[-1]


def _add(document: Any, tokens: list[str], value: Any) -> None:
    parent, token = _place(document, tokens)
    if isinstance(parent, dict):
        parent[token] = value
        return
    try:
        index = len(parent) if token == "-" else int(token)
    except ValueError:
        raise PatchFault(f"{token!r} is no index") from None
    if not 0 <= index <= len(parent):
        raise PatchFault(f"index {index} is out of range")
    parent.insert(index, value)


def _remove(document: Any, tokens: list[str]) -> Any:
    parent, token = _place(document, tokens)
    _step(parent, token)
    return parent.pop(int(token) if isinstance(parent, list) else token)


def json_patch(document: Any, operations: Any) -> Any:
    """The document after all operations.

    Raises:
        PatchFault: one of them does not fit, or a test fails.
    """
    document = copy.deepcopy(document)
    for each in operations:
        op, tokens = each.get("op"), _tokens(each.get("path", ""))
        if op in ("move", "copy"):
            value = copy.deepcopy(_follow(document, _tokens(each["from"])))
            if op == "move":
                _remove(document, _tokens(each["from"]))
        else:
            value = copy.deepcopy(each.get("value"))
        if op == "test":
            # a test of null passes where nothing is, as in the library of the API server
            found = _follow(document, tokens) if value is not None else _maybe(document, tokens)
            if found != value or isinstance(found, bool) != isinstance(value, bool):
                raise PatchFault(f"testing value {each['path']} failed")
        elif op == "remove":
            _remove(document, tokens)
        elif op == "replace" and tokens:
            if isinstance(_place(document, tokens)[0], list):
                _remove(document, tokens)
            _add(document, tokens, value)  # of a member that is not there, too: so does the API server's library
        elif op in ("add", "move", "copy", "replace"):
            if tokens:
                _add(document, tokens, value)
            else:
                document = value
        else:
            raise PatchFault(f"unknown operation {op!r}")
    return document


def _follow(document: Any, tokens: list[str]) -> Any:
    for token in tokens:
        document = _step(document, token)
    return document


def _maybe(document: Any, tokens: list[str]) -> Any:
    try:
        return _follow(document, tokens)
    except PatchFault:
        return None


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def strategic_patch(target: Any, patch: Any, list_keys: ListKeys, path: tuple[str, ...] = ()) -> Any:
    """Merge patch, but lists with keys are merged item by item; `$patch` replace and delete are understood."""
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
        result = dict(target) if isinstance(target, dict) else {}
        for name, value in patch.items():
            if value is None:
                result.pop(name, None)
            elif not name.startswith("$"):
                result[name] = strategic_patch(result.get(name), value, list_keys, (*path, name))
        return result
    keys = list_keys(path) if isinstance(patch, list) and path else None
    if keys is None:
        return copy.deepcopy(patch)
    items = list(target) if isinstance(target, list) else []
    for each in patch:
        if not keys:
            items += [] if each in items else [each]
            continue
        at = next((n for n, item in enumerate(items) if item.get(keys[0]) == each.get(keys[0])), None)
        if each.get("$patch") == "delete":
            items = items if at is None else items[:at] + items[at + 1 :]
        elif at is None:
            items.append(strategic_patch({}, each, list_keys, path))
        else:
            items[at] = strategic_patch(items[at], each, list_keys, path)
    return items
