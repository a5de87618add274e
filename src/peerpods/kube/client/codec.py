"""JSON in and out. msgspec: it decodes a list's items one by one, so a page never lies in memory as objects whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class _Meta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_list = msgspec.json.Decoder(_List)
_event = msgspec.json.Decoder(_Event)
_any = msgspec.json.Decoder()
DecodeError = msgspec.DecodeError
"""Raised for anything that is not the JSON expected."""


class Page:
    """One page of a list: its items are decoded as they are iterated over, once."""

    __slots__ = ("_items", "count", "resource_version", "token")

    def __init__(self, body: bytes) -> None:
        """Raises DecodeError."""
        page = _list.decode(body)
        self.resource_version = page.metadata.resourceVersion
        self.token = page.metadata.continue_
        """Where the next page begins; empty at the last."""
        self._items = page.items or []
        self.count = len(self._items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        decode = _any.decode
        for raw in self._items:
            yield decode(raw)


def decode_event(line: bytes | bytearray) -> tuple[str, dict[str, Any]]:
    """A line of a watch: its type and its object. Raises DecodeError."""
    event = _event.decode(line)
    found = _any.decode(event.object)
    if not isinstance(found, dict):
        raise DecodeError("the object of a watch event is not a JSON object")
    return event.type, found


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object; {} for no body. Raises DecodeError."""
    if not body.strip():
        return {}
    found = _any.decode(body)
    if not isinstance(found, dict):
        raise DecodeError("the answer is not a JSON object")
    return found


def encode(body: Any) -> bytes:
    """JSON of plain values."""
    return msgspec.json.encode(body)
