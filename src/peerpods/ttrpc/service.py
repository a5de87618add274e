"""What a server serves: services, their methods, and what a handler learns about its call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Literal, Protocol

import attrs
from google.protobuf.message import Message
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IAddress, IReactorTime

from peerpods.ttrpc.status import Code, Status, StatusError

Kind = Literal["unary", "server_stream", "client_stream", "bidi"]
Metadata = tuple[tuple[str, str], ...]
Handler = Callable[..., Any]
MapError = Callable[[BaseException], Status]


class Connection(Protocol, Hashable):
    """The client connection of a call, as handlers and the callbacks of a `Server` see it.

    Attributes:
        id: counts up from 1 within the process.
        peer: the address Twisted gives for the other end.
        in_flight: calls that have not been answered; in `on_disconnect` those that the loss cut off.
        completed: calls answered so far, errors too.
    """

    id: int
    peer: IAddress | None

    @property
    def in_flight(self) -> int: ...
    @property
    def completed(self) -> int: ...

    def close(self) -> None:
        """End the connection after what is already written; its handlers are cancelled."""


@attrs.frozen(slots=True)
class Method:
    """One call of a service.

    Attributes:
        handler: by `kind`:
            unary `async h(ctx, request) -> response`;
            server_stream `async h(ctx, request, send) -> None`;
            client_stream `async h(ctx, receive) -> response`;
            bidi `async h(ctx, receive, send) -> None`.
            `await send(message)` waits while the client does not read; `await receive()` gives None at the client's
            half-close. A handler may return a Deferred, or (unary) the message itself.
        request: class of the client's messages.
        response: class of the server's messages, checked when given.
    """

    handler: Handler
    request: type[Message]
    response: type[Message] | None = None
    kind: Kind = "unary"


@attrs.frozen(slots=True)
class Service:
    """A named set of methods. `name` is "package.Service"."""

    name: str
    methods: Mapping[str, Method]


@attrs.define(slots=True, eq=False)
class CallContext:
    """What a handler may know about its call.

    Attributes:
        metadata: pairs as they arrived, verbatim and in order.
        stream: the call's id on its connection.
        deadline: when the caller stops waiting, in the reactor's seconds; None for never.
        connection: which client; hashable.
    """

    service: str
    method: str
    metadata: Metadata
    stream: int
    deadline: float | None
    connection: Connection
    reactor: IReactorTime

    def remaining(self) -> float | None:
        """Seconds until the deadline, never negative; None when there is none."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self.reactor.seconds())


Fallback = Callable[[CallContext, Any], Awaitable[Any]]


def default_map_error(error: BaseException) -> Status:
    """The status of an error for which a server was given no mapping of its own."""
    if isinstance(error, StatusError):
        return error.status
    if isinstance(error, CancelledError):
        return Status(Code.CANCELLED, "context canceled")
    if isinstance(error, FileNotFoundError):
        return Status(Code.NOT_FOUND, str(error))
    if isinstance(error, PermissionError):
        return Status(Code.PERMISSION_DENIED, str(error))
    return Status(Code.UNKNOWN, str(error) or type(error).__name__)
