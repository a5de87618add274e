"""A strict reading of an encoded message: what two protobuf decoders could read differently is refused.

Of a checked call the guard reads some fields, and the agent, another decoder, reads them again. So a checked message
may hold no unknown field, no single field twice, no wrong wire type, no deep nesting and no text that is not UTF-8.
Rule: security.md 6, duty 9.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from peerpods.ttrpc.fields import BYTES, FIXED32, FIXED64, VARINT, fields

MAX_DEPTH = 16  # nested messages; the deepest of a CreateContainer is 6
MAX_FIELDS = 65536  # fields of one request, nested ones included


class Malformed(ValueError):
    """The message is not strictly what it should be. The text names the field, never its value."""


class _Field(NamedTuple):
    name: str
    wire: int
    repeated: bool
    packable: bool
    text: bool
    message: Any
    """Descriptor of the nested message, or None."""


_WIRES = {1: FIXED64, 2: FIXED32, 6: FIXED64, 7: FIXED32, 15: FIXED32, 16: FIXED64, 9: BYTES, 11: BYTES, 12: BYTES}
_STRING = 9
_schemas: dict[str, dict[int, _Field]] = {}


def _schema(descriptor: Any) -> dict[int, _Field]:
    schema = _schemas.get(descriptor.full_name)
    if schema is None:
        schema = {}
        for field in descriptor.fields:
            wire = _WIRES.get(field.type, VARINT)
            repeated = bool(field.is_repeated)
            schema[field.number] = _Field(
                field.name, wire, repeated, repeated and wire != BYTES, field.type == _STRING, field.message_type
            )
        _schemas[descriptor.full_name] = schema
    return schema


def check(descriptor: Any, data: bytes) -> None:
    """Check an encoded message against its protobuf descriptor.

    Raises:
        Malformed: at the first thing that is not strictly right.
    """
    _check(descriptor, data, 0, [MAX_FIELDS])


def _check(descriptor: Any, data: bytes, depth: int, left: list[int]) -> None:
    if depth > MAX_DEPTH:
        raise Malformed(f"{descriptor.name} is nested too deep")
    schema = _schema(descriptor)
    seen: set[int] = set()
    walk = fields(data)
    while True:
        try:
            tag, _, pos, stop = next(walk)
        except StopIteration:
            return
        except ValueError as error:
            raise Malformed(f"{descriptor.name}: {error}") from None
        left[0] -= 1
        if left[0] < 0:
            raise Malformed(f"more than {MAX_FIELDS} fields")
        field = schema.get(tag >> 3)
        if field is None:
            raise Malformed(f"{descriptor.name} has an unknown field {tag >> 3}")
        if tag & 7 != field.wire and not (field.packable and tag & 7 == BYTES):
            raise Malformed(f"{descriptor.name}.{field.name} has the wrong wire type {tag & 7}")
        if not field.repeated:
            if tag >> 3 in seen:
                raise Malformed(f"{descriptor.name}.{field.name} is there twice")
            seen.add(tag >> 3)
        if field.message is not None:
            _check(field.message, data[pos:stop], depth + 1, left)
        elif field.text:
            try:
                str(memoryview(data)[pos:stop], "utf-8")
            except UnicodeDecodeError:
                raise Malformed(f"{descriptor.name}.{field.name} is not UTF-8") from None
