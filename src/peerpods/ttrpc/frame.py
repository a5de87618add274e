"""Frames: a ten-byte header and a body, the same in both directions.

| bytes | field                                                |
|-------|------------------------------------------------------|
| 0-3   | length of the body, unsigned, big-endian, max 4 MiB  |
| 4-7   | stream id, unsigned, big-endian                      |
| 8     | type: 1 request, 2 response, 3 data                  |
| 9     | flags: 1 remote closed, 2 remote open, 4 no data     |

There is no hand-shake, ping, reset or window: a connection begins with a frame.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

MAX_LENGTH = 4 << 20  # bytes of a body; more is refused by every known peer
HEADER = struct.Struct(">IIBB")
HEADER_SIZE = HEADER.size
MAX_STREAM = (1 << 32) - 1


class FrameType(enum.IntEnum):
    """Kinds of frame. A receiver ignores a kind it does not know."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(enum.IntFlag):
    """Bits of the flags byte."""

    NONE = 0
    REMOTE_CLOSED = 1
    """The sender will send no more data on this stream."""
    REMOTE_OPEN = 2
    """The sender will send data on this stream."""
    NO_DATA = 4
    """The frame has no message; without it an empty body is an empty message."""


class Frame(NamedTuple):
    """One whole frame. `type` and `flags` are as received, so they may be values that nobody has named."""

    stream: int
    type: int
    flags: int
    body: bytes


class Oversize(NamedTuple):
    """The header of a frame whose body was too long. The body has been read and thrown away."""

    stream: int
    type: int
    flags: int
    length: int


def encode_header(length: int, stream: int, type_: int, flags: int) -> bytes:
    """The ten bytes before a body of `length` bytes.

    Use it to pass a large body on under another stream id without copying it:
    `transport.writeSequence([encode_header(len(f.body), new_id, f.type, f.flags), f.body])`.
    """
    if length > MAX_LENGTH:
        raise ValueError(f"a frame body of {length} bytes is over the limit of {MAX_LENGTH}")
    return HEADER.pack(length, stream, type_, flags)


def encode_frame(stream: int, type: int, flags: int, body: bytes) -> bytes:
    """The bytes of one frame. Raises ValueError when the body is over MAX_LENGTH."""
    length = len(body)
    if length > MAX_LENGTH:
        raise ValueError(f"a frame body of {length} bytes is over the limit of {MAX_LENGTH}")
    return HEADER.pack(length, stream, type, flags) + body


class FrameDecoder:
    """Cuts a stream of bytes into frames, however the bytes are divided.

    Holds at most one unfinished frame (MAX_LENGTH plus the header) and never keeps the body of an oversized one.
    No input makes it fail: any ten bytes are a header.
    """

    __slots__ = ("_buffer", "_drain", "_oversize")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._drain = 0
        self._oversize: Oversize | None = None

    @property
    def buffered(self) -> int:
        """Bytes kept of a frame that is not complete."""
        return len(self._buffer)

    @property
    def partial_header_or_body(self) -> bool:
        """Whether a frame has begun and is not complete (or is still being thrown away)."""
        return bool(self._buffer) or self._drain > 0

    def feed(self, data: bytes | memoryview) -> list[Frame | Oversize]:
        """Take bytes in; give the frames that are now complete, in order. An Oversize comes after its last byte.

        Nothing of `data` is kept: a memoryview of a buffer that is used again is fine.
        """
        frames: list[Frame | Oversize] = []
        pos = self._skip(data, 0, frames) if self._drain else 0
        if self._buffer:
            pos = self._complete(data, pos, frames)
        end = len(data)
        unpack = HEADER.unpack_from
        while pos + HEADER_SIZE <= end:
            length, stream, type_, flags = unpack(data, pos)
            if length > MAX_LENGTH:
                self._drain = length
                self._oversize = Oversize(stream, type_, flags, length)
                pos = self._skip(data, pos + HEADER_SIZE, frames)
                continue
            stop = pos + HEADER_SIZE + length
            if stop > end:
                break
            frames.append(Frame(stream, type_, flags, bytes(data[pos + HEADER_SIZE : stop])))
            pos = stop
        if pos < end:
            self._buffer += data[pos:]
        return frames

    def _complete(self, data: bytes | memoryview, pos: int, frames: list[Frame | Oversize]) -> int:
        """Take what the unfinished frame lacks, and no more; give the place after it."""
        buffer = self._buffer
        if len(buffer) < HEADER_SIZE:
            taken = data[pos : pos + HEADER_SIZE - len(buffer)]
            buffer += taken
            pos += len(taken)
            if len(buffer) < HEADER_SIZE:
                return pos
        length, stream, type_, flags = HEADER.unpack_from(buffer)
        if length > MAX_LENGTH:
            buffer.clear()
            self._drain = length
            self._oversize = Oversize(stream, type_, flags, length)
            return self._skip(data, pos, frames)
        taken = data[pos : pos + HEADER_SIZE + length - len(buffer)]
        buffer += taken
        pos += len(taken)
        if len(buffer) == HEADER_SIZE + length:
            with memoryview(buffer) as view:
                frames.append(Frame(stream, type_, flags, bytes(view[HEADER_SIZE:])))
            buffer.clear()
        return pos

    def _skip(self, chunk: bytes | memoryview, pos: int, frames: list[Frame | Oversize]) -> int:
        """Throw away bytes of an oversized body; give the place after them."""
        taken = min(self._drain, len(chunk) - pos)
        self._drain -= taken
        if not self._drain and self._oversize is not None:
            frames.append(self._oversize)
            self._oversize = None
        return pos + taken
