"""Lines of a watch stream. Pure."""

from __future__ import annotations

from collections.abc import Iterator

LIMIT = 8 * 1024 * 1024
"""Bytes of the longest line taken: an object has at most about 1.5 MiB in etcd, its JSON may be larger."""


class LineTooLong(ValueError):
    """A line exceeds the bound; the stream is of no more use."""


class LineSplitter:
    """Bytes in, whole lines out; lines may be cut anywhere and empty ones are passed over.

    Pieces of an unfinished line are kept apart until its end comes, so that a long line in many pieces costs no
    repeated copies.
    """

    __slots__ = ("_held", "_limit", "_pieces")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that end in `data`, without their newline; exhaust it before the next call.

        Raises:
            LineTooLong: the line under way is above the bound.
        """
        start = 0
        while True:
            end = data.find(b"\n", start)
            if end < 0:
                break
            piece = data[start:end]
            self._check(len(piece))
            if self._pieces:
                self._pieces.append(piece)
                piece = b"".join(self._pieces)
                self._pieces.clear()
                self._held = 0
            start = end + 1
            if piece.strip():
                yield piece
        if start < len(data):
            self._check(len(data) - start)
            self._pieces.append(data[start:] if start else data)
            self._held += len(data) - start

    def _check(self, more: int) -> None:
        if self._held + more > self._limit:
            raise LineTooLong(f"a line of the watch is longer than {self._limit} bytes")
