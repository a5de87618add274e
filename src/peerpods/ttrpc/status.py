"""How a call ends: the code, the text, the details."""

from __future__ import annotations

import enum

import attrs


class Code(enum.IntEnum):
    """Status codes; the numbers are gRPC's."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@attrs.frozen(slots=True)
class Status:
    """The end of a call.

    Attributes:
        code: a `Code`, or any other 32-bit number a peer chose.
        message: text for people.
        details: encoded `google.protobuf.Any` messages, one per entry, as they were on the wire.
        unknown: fields of the status that this code does not know, encoded.
    """

    code: int
    message: str = ""
    details: tuple[bytes, ...] = ()
    unknown: bytes = b""


class StatusError(Exception):
    """A call that ended with a status other than OK. Raise it in a handler to choose code, text and details."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status

    def __str__(self) -> str:
        return self.status.message

    @property
    def code(self) -> int:
        """Short for `status.code`."""
        return self.status.code


class ConnectionClosed(StatusError):
    """The connection is gone, so the call's fate is unknown.

    The text is the one that the shim compares with, so that it is recognised when it travels on.
    """

    def __init__(self) -> None:
        super().__init__(Status(Code.UNAVAILABLE, "ttrpc: closed"))


def oversize_status(length: int, limit: int) -> Status:
    """The status of a message that is too long; the words are those that Go peers look for."""
    return Status(Code.RESOURCE_EXHAUSTED, f"message length {length} exceed maximum message size of {limit}")


DEADLINE = Status(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
