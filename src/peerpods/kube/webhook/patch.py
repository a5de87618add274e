"""JSON patch operations (RFC 6902).

No `test` operations: the API server applies a patch to the very object that it sent, and one that fails is an error
500 even under failurePolicy Ignore.
"""

from __future__ import annotations

from typing import Any

Operation = dict[str, Any]


def pointer(*parts: str | int) -> str:
    """A JSON pointer, escaped (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def change(holder: dict[str, Any], key: str, value: Any, *path: str | int) -> list[Operation]:
    """Make `holder[key]` be `value`; no operation when it is so already.

    Args:
        path: where `holder` is.
    """
    if key not in holder:
        return [{"op": "add", "path": pointer(*path, key), "value": value}]
    if holder[key] == value:
        return []
    return [{"op": "replace", "path": pointer(*path, key), "value": value}]
