"""Envelopes: what the body of a request or response frame says around the user's message.

Written by hand because every forwarded call passes here; equal to `protocols/ttrpc.proto` for every input (a property
test holds the two together). The payload is never looked into.
"""

from __future__ import annotations

from typing import Any

import attrs

from peerpods.ttrpc.fields import field_bytes, fields, read_varint, varint
from peerpods.ttrpc.status import Status

# Tags: field number << 3 | wire type.
_SERVICE, _METHOD, _PAYLOAD, _TIMEOUT, _METADATA = 0x0A, 0x12, 0x1A, 0x20, 0x2A
_KEY, _VALUE = 0x0A, 0x12
_STATUS, _RESPONSE_PAYLOAD = 0x0A, 0x12
_CODE, _MESSAGE, _DETAILS = 0x08, 0x12, 0x1A


@attrs.frozen(slots=True)
class Request:
    """A call as it travels.

    Attributes:
        service: "package.Service", no leading slash.
        method: the bare name of the call.
        payload: the encoded user message.
        timeout_nano: nanoseconds left, signed 64 bits; 0 for none, negative for "already over".
        metadata: pairs in order, keys may repeat, verbatim.
        unknown: fields that this code does not know, encoded; they are written back at the end.
    """

    service: str
    method: str
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    unknown: bytes = b""

    def encode(self) -> bytes:
        """The body of a request frame. Raises ValueError when a text cannot be UTF-8."""
        parts = []
        if self.service:
            parts.append(field_bytes(_SERVICE, self.service.encode()))
        if self.method:
            parts.append(field_bytes(_METHOD, self.method.encode()))
        if self.payload:
            parts.append(field_bytes(_PAYLOAD, self.payload))
        if self.timeout_nano:
            parts.append(b"\x20" + varint(self.timeout_nano))
        for key, value in self.metadata:
            pair = b""
            if key:
                pair = field_bytes(_KEY, key.encode())
            if value:
                pair += field_bytes(_VALUE, value.encode())
            parts.append(field_bytes(_METADATA, pair))
        if self.unknown:
            parts.append(self.unknown)
        return b"".join(parts)


@attrs.frozen(slots=True)
class Response:
    """The answer to a call as it travels. No status means OK (as Go writes it); so does a status with code 0 (Rust)."""

    status: Status | None = None
    payload: bytes = b""
    unknown: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.status is None or self.status.code == 0

    def encode(self) -> bytes:
        """The body of a response frame; empty for success with an empty message."""
        parts = []
        if self.status is not None:
            parts.append(field_bytes(_STATUS, _encode_status(self.status)))
        if self.payload:
            parts.append(field_bytes(_RESPONSE_PAYLOAD, self.payload))
        if self.unknown:
            parts.append(self.unknown)
        return b"".join(parts)


def _encode_status(status: Status) -> bytes:
    out = b""
    if status.code:
        out = b"\x08" + varint(status.code)
    if status.message:
        # Texts come from errors, which may name files with bytes that are no UTF-8.
        out += field_bytes(_MESSAGE, status.message.encode("utf-8", "replace"))
    for detail in status.details:
        out += field_bytes(_DETAILS, detail)
    return out + status.unknown


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def decode_request(body: bytes) -> Request:
    """Read the body of a request frame; ValueError (with the reason) when it is not one."""
    service = method = ""
    payload = unknown = b""
    timeout = 0
    metadata: tuple[tuple[str, str], ...] = ()
    for tag, start, pos, stop in fields(body):
        if tag == _SERVICE:
            service = body[pos:stop].decode()
        elif tag == _METHOD:
            method = body[pos:stop].decode()
        elif tag == _PAYLOAD:
            payload = body[pos:stop]
        elif tag == _TIMEOUT:
            timeout = _signed(read_varint(body, pos)[0], 64)
        elif tag == _METADATA:
            metadata = (*metadata, _decode_pair(body[pos:stop]))
        else:
            unknown += body[start:stop]
    return Request(service, method, payload, timeout, metadata, unknown)


def _decode_pair(data: bytes) -> tuple[str, str]:
    key = value = ""
    for tag, _, pos, stop in fields(data):
        if tag == _KEY:
            key = data[pos:stop].decode()
        elif tag == _VALUE:
            value = data[pos:stop].decode()
    return key, value


def decode_response(body: bytes) -> Response:
    """Read the body of a response frame; ValueError (with the reason) when it is not one."""
    status: bytes | None = None
    payload = unknown = b""
    for tag, start, pos, stop in fields(body):
        if tag == _STATUS:
            _decode_status(body[pos:stop])  # each one must be sound by itself
            # Two of them merge, and merging is the same as reading one after the other.
            status = body[pos:stop] if status is None else status + body[pos:stop]
        elif tag == _RESPONSE_PAYLOAD:
            payload = body[pos:stop]
        else:
            unknown += body[start:stop]
    return Response(None if status is None else _decode_status(status), payload, unknown)


def _decode_status(data: bytes) -> Status:
    code = 0
    message = ""
    details: list[bytes] = []
    unknown = b""
    for tag, start, pos, stop in fields(data):
        if tag == _CODE:
            code = _signed(read_varint(data, pos)[0], 32)
        elif tag == _MESSAGE:
            message = data[pos:stop].decode()
        elif tag == _DETAILS:
            _check_any(data[pos:stop])
            details.append(data[pos:stop])
        else:
            unknown += data[start:stop]
    return Status(code, message, tuple(details), unknown)


def _check_any(data: bytes) -> None:
    for tag, _, pos, stop in fields(data):
        if tag == 0x0A:
            data[pos:stop].decode()


def peek_method(body: bytes) -> tuple[str, str]:
    """(service, method) of a request frame's body, without copying the payload; ValueError when it is not one.

    Walks over the whole body, because a second `method` field at the end would win at the receiver: what this
    says and what a full decode says are always the same.
    """
    service = method = ""
    for tag, _, pos, stop in fields(body):
        if tag == _SERVICE:
            service = body[pos:stop].decode()
        elif tag == _METHOD:
            method = body[pos:stop].decode()
    return service, method


def lower_keys(metadata: Any) -> tuple[tuple[str, str], ...]:
    """Metadata ready to send: a receiver looks keys up in lower case and does not change what arrives.

    Args:
        metadata: pairs, or a mapping.
    """
    pairs = metadata.items() if hasattr(metadata, "items") else metadata
    return tuple((key.lower(), value) for key, value in pairs)
