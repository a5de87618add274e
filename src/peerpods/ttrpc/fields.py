"""Just enough of the protobuf wire format to read and write envelopes without building messages.

Follows what the protobuf library does with any input, so that both see the same fields: the last of a repeated single
field wins, a known number with another wire type is an unknown field, groups are skipped, over-long numbers refused.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)

_MAX_DEPTH = 100  # nested groups; the protobuf library's own limit
_U64 = (1 << 64) - 1


def varint(value: int) -> bytes:
    """A number of up to 64 bits, negative ones as two's complement, in groups of seven bits, lowest first."""
    value &= _U64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, pos: int, limit: int = 10) -> tuple[int, int]:
    """The number at `pos` and the place after it; ValueError when it is cut short or longer than `limit` bytes."""
    result = shift = 0
    for count in range(limit):
        if pos >= len(data):
            raise ValueError("a number is cut short")
        byte = data[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if count == 9 and byte > 1:
                raise ValueError("a number has more than 64 bits")
            return result, pos
        shift += 7
    raise ValueError("a number is too long")


def _read_tag(data: bytes, pos: int) -> tuple[int, int]:
    tag, pos = read_varint(data, pos, 5)
    if tag >> 32 or not tag >> 3:
        raise ValueError("a field number is out of range")
    return tag, pos


def _skip(data: bytes, pos: int, tag: int, depth: int) -> int:
    """The place after the value of the field with this tag."""
    wire = tag & 7
    if wire == VARINT:
        return read_varint(data, pos)[1]
    if wire == BYTES:
        length, pos = read_varint(data, pos)
        pos += length
    elif wire == FIXED64:
        pos += 8
    elif wire == FIXED32:
        pos += 4
    elif wire == GROUP:
        if depth >= _MAX_DEPTH:
            raise ValueError("groups are nested too deep")
        while True:
            if pos >= len(data):
                raise ValueError("a group does not end")
            inner, pos = _read_tag(data, pos)
            if inner & 7 == END_GROUP:
                if inner >> 3 != tag >> 3:
                    raise ValueError("a group ends with another field's number")
                return pos
            pos = _skip(data, pos, inner, depth + 1)
    else:
        raise ValueError(f"wire type {wire} does not exist here")
    if pos > len(data):
        raise ValueError("a field is cut short")
    return pos


def fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Walk over the fields: (tag, where the field starts, where its value starts, where it ends).

    For wire type BYTES the value starts after its length. Raises ValueError at the first thing that is not a field.
    """
    pos, end = 0, len(data)
    while pos < end:
        start = pos
        tag = data[pos]
        if tag < 0x80 and tag > 7:
            pos += 1
        else:
            tag, pos = _read_tag(data, pos)
        if tag & 7 == BYTES:
            length = data[pos] if pos < end else 0x80
            if length < 0x80:
                pos += 1
            else:
                length, pos = read_varint(data, pos)
            stop = pos + length
            if stop > end:
                raise ValueError("a field is cut short")
        else:
            stop = _skip(data, pos, tag, 0)
        yield tag, start, pos, stop
        pos = stop


def field_bytes(tag: int, value: bytes) -> bytes:
    """A field of wire type BYTES; `tag` must be below 128."""
    length = len(value)
    if length < 0x80:
        return bytes((tag, length)) + value
    return bytes((tag,)) + varint(length) + value
