"""The Twisted shell of a client: many calls at once on one connection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from peerpods.ttrpc.connection import Answered, CallFailed, ClientCore, ClientEvent, MessageReceived, Shape
from peerpods.ttrpc.envelope import Request, Response, lower_keys
from peerpods.ttrpc.flow import Flow
from peerpods.ttrpc.inbox import Inbox
from peerpods.ttrpc.service import Kind
from peerpods.ttrpc.status import DEADLINE, Code, ConnectionClosed, Status, StatusError

M = TypeVar("M", bound=Message)
MetadataLike = Mapping[str, str] | Iterable[tuple[str, str]]

MAX_UNSENT = 16 << 20  # bytes of calls that may wait for a server that does not read
CLOSE_WAIT = 1.0  # seconds for the peer to take what is written before the connection is cut
_MAX_NANO = (1 << 63) - 1


def _nano(timeout: float | None) -> int:
    if timeout is None or math.isinf(timeout):
        return 0
    return max(1, min(int(timeout * 1e9), _MAX_NANO))


def _parse(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise StatusError(Status(Code.INTERNAL, f"the answer is no {kind.__name__}: {error}")) from error


class _Unary:
    """A call with one answer."""

    __slots__ = ("deferred", "timer")

    def __init__(self, deferred: Deferred[Response]) -> None:
        self.deferred = deferred
        self.timer: IDelayedCall | None = None

    def event(self, event: ClientEvent) -> None:
        if isinstance(event, Answered):
            self.deferred.callback(event.response)
        elif isinstance(event, CallFailed):
            self.deferred.errback(StatusError(event.status))

    def fail(self, error: StatusError) -> None:
        self.deferred.errback(error)


class ClientStream(Generic[M]):
    """A call with more than one message in some direction. Made by `Client.stream`."""

    def __init__(self, client: Client, shape: Shape, response_type: type[M], stream: int) -> None:
        self.stream = stream
        self.timer: IDelayedCall | None = None
        self._client = client
        self._shape = shape
        flow = client.flow
        self._inbox: Inbox[M] = Inbox(
            lambda payload: _parse(response_type, payload),
            on_full=lambda: flow.stall(stream, self._give_up),
            on_room=lambda: flow.unstall(stream),
        )

    def _give_up(self) -> None:
        self._client.drop(self.stream)
        self.fail(StatusError(Status(Code.RESOURCE_EXHAUSTED, "ttrpc: stream buffer full")))

    def send(self, message: Message) -> Deferred[None]:
        """Send one message; fires when the connection takes more.

        Fails with StatusError when the call has ended or is closed on our side, or the message is too long.
        """
        return self._client.send_message(self.stream, message.SerializeToString())

    def close_send(self) -> Deferred[None]:
        """Say that nothing more comes from us; the server's messages still arrive. Doing it twice is no error."""
        return self._client.close_send(self.stream)

    def receive(self) -> Deferred[M | None]:
        """The next message, None at the end; fails with the StatusError the call ended with.

        For a client_stream call: the one answer, then None.
        """
        return self._inbox.receive()

    def cancel(self) -> None:
        """Give the call up, on our side alone: the protocol cannot tell the server. `receive` fails with CANCELLED."""
        self._client.drop(self.stream)
        self.fail(StatusError(Status(Code.CANCELLED, "context canceled")))

    def event(self, event: ClientEvent) -> None:
        """What the connection received for this call."""
        if isinstance(event, MessageReceived):
            self._inbox.put(event.payload)
        elif isinstance(event, CallFailed):
            self.fail(StatusError(event.status))
        elif isinstance(event, Answered) and not event.response.ok:
            assert event.response.status is not None
            self._inbox.fail_after(StatusError(event.response.status))
        else:
            if isinstance(event, Answered) and (self._shape is Shape.CLIENT_STREAM or event.response.payload):
                self._inbox.put(event.response.payload)
            self._inbox.end()

    def fail(self, error: StatusError) -> None:
        """End the call with an error now."""
        self._client.flow.unstall(self.stream)
        self._inbox.fail(error)


class Client(Protocol):
    """One connection to a server. Get it with `connect_client`, or use it as the protocol of any stream transport.

    Args:
        max_in_flight: calls that may wait for their answer at once; the next fails with RESOURCE_EXHAUSTED.
    """

    transport: Any = None

    def __init__(self, reactor: Any, *, max_in_flight: int = 16384) -> None:
        self.connected = False
        self.flow: Flow
        self._reactor = reactor
        self._core = ClientCore()
        self._max = max_in_flight
        self._calls: dict[int, _Unary | ClientStream[Any]] = {}
        self._unsent = 0
        self._lost = False
        self._when_lost: list[Deferred[None]] = []

    @property
    def in_flight(self) -> int:
        """Calls whose answer is awaited."""
        return len(self._calls)

    # Calls

    def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: MetadataLike = (),
    ) -> Deferred[M]:
        """Call a unary method.

        Args:
            timeout: seconds; the server is told, and the call fails here with DEADLINE_EXCEEDED when they are over.
                None waits for ever; zero or less fails at once.
            metadata: pairs or a mapping; keys are sent in lower case.

        Fails with StatusError (ConnectionClosed when the connection is gone). Cancelling gives the call up on this
        side alone; a late answer is dropped.
        """
        raw = self.call_raw(service, method, request.SerializeToString(), timeout=timeout, metadata=metadata)
        return raw.addCallback(lambda payload: _parse(response_type, payload))

    def call_raw(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: MetadataLike = (),
    ) -> Deferred[bytes]:
        """As `call`, with encoded messages."""
        return self.forward(Request(service, method, payload, 0, lower_keys(metadata)), timeout=timeout).addCallback(
            _payload
        )

    def forward(self, request: Request, *, timeout: float | None = None) -> Deferred[Response]:
        """Pass a call on as it is: metadata verbatim, unknown fields kept, `timeout` (seconds) in place of its own.

        Gives the server's whole Response, whatever its status; fails only when there is none (connection gone,
        deadline, too long, junk).
        """
        if timeout is not None and timeout <= 0:
            return fail(StatusError(DEADLINE))
        deferred: Deferred[Response] = Deferred(lambda _: self._abandon(stream))
        call = _Unary(deferred)
        try:
            stream = self._start(request, Shape.UNARY, timeout)
        except StatusError as error:
            return fail(error)
        self._calls[stream] = call
        self._arm(stream, call, timeout)
        self._flush()
        return deferred

    def stream(
        self,
        service: str,
        method: str,
        request: Message | None,
        response_type: type[M],
        *,
        kind: Kind,
        timeout: float | None = None,
        metadata: MetadataLike = (),
    ) -> ClientStream[M]:
        """Begin a streaming call.

        Args:
            request: for server_stream the request; for the other kinds the first message, or None.
            kind: server_stream, client_stream or bidi; "unary" is a ValueError.

        Raises StatusError when the call cannot begin.
        """
        shape = Shape(kind)
        if shape is Shape.UNARY:
            raise ValueError("a unary call is no stream: use call")
        if timeout is not None and timeout <= 0:
            raise StatusError(DEADLINE)
        payload = b"" if request is None else request.SerializeToString()
        stream = self._start(Request(service, method, payload, 0, lower_keys(metadata)), shape, timeout)
        call = ClientStream(self, shape, response_type, stream)
        self._calls[stream] = call
        self._arm(stream, call, timeout)
        if request is not None and not payload and shape.client_streams:
            # An empty first message would be taken for none.
            self._core.send_message(stream, b"")
        self._flush()
        return call

    def _start(self, request: Request, shape: Shape, timeout: float | None) -> int:
        if not self.connected:
            raise ConnectionClosed
        if len(self._calls) >= self._max or self._unsent > MAX_UNSENT:
            text = "too many calls are waiting on this connection"
            if self._unsent > MAX_UNSENT:
                text = f"the server has not read the last {self._unsent} bytes"
            raise StatusError(Status(Code.RESOURCE_EXHAUSTED, text))
        nano = _nano(timeout)
        if nano != request.timeout_nano:
            request = Request(request.service, request.method, request.payload, nano, request.metadata, request.unknown)
        return self._core.start(request, shape)

    def _arm(self, stream: int, call: _Unary | ClientStream[Any], timeout: float | None) -> None:
        if timeout is not None and not math.isinf(timeout):
            call.timer = self._reactor.callLater(timeout, self._expire, stream)

    def _expire(self, stream: int) -> None:
        call = self.drop(stream)
        if call is not None:
            call.fail(StatusError(DEADLINE))

    def _abandon(self, stream: int) -> None:
        self.drop(stream)

    def drop(self, stream: int) -> _Unary | ClientStream[Any] | None:
        """Forget a call; what arrives for it is dropped."""
        self._core.forget(stream)
        call = self._calls.pop(stream, None)
        if call is not None and call.timer is not None and call.timer.active():
            call.timer.cancel()
        return call

    def send_message(self, stream: int, payload: bytes) -> Deferred[None]:
        """Send one message of a stream."""
        if not self.connected:
            return fail(ConnectionClosed())
        try:
            if not self._core.send_message(stream, payload):
                text = "the stream has ended or is closed for sending"
                return fail(StatusError(Status(Code.FAILED_PRECONDITION, text)))
        except StatusError as error:
            return fail(error)
        self._flush()
        return self.flow.ready()

    def close_send(self, stream: int) -> Deferred[None]:
        """Half-close a stream."""
        if not self.connected:
            return fail(ConnectionClosed())
        if self._core.close_send(stream):
            self._flush()
        return succeed(None)

    # The connection

    def when_lost(self) -> Deferred[None]:
        """Fires once the connection is gone, for whatever reason; each caller gets its own."""
        if self._lost:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._when_lost.append(waiter)
        return waiter

    async def close(self) -> None:
        """Close the connection; calls in flight fail with ConnectionClosed. Doing it twice is no error."""
        if self.transport is None or self._lost:
            return
        lost = self.when_lost()
        if self.connected:
            self.connected = False
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        cut = self._reactor.callLater(CLOSE_WAIT, self.transport.abortConnection)
        await lost
        if cut.active():
            cut.cancel()

    def connectionMade(self) -> None:
        self.flow = Flow(self.transport, self._reactor)
        self.transport.registerProducer(self, True)
        self.connected = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = False
        self._lost = True
        calls, self._calls = self._calls, {}
        self.flow.end()
        for call in calls.values():
            if call.timer is not None and call.timer.active():
                call.timer.cancel()
            call.fail(ConnectionClosed())
        waiters, self._when_lost = self._when_lost, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    def dataReceived(self, data: bytes) -> None:
        for event in self._core.receive(data):
            call = self._calls.get(event.stream)
            if call is None:
                continue
            if not isinstance(event, MessageReceived):  # every other event is a call's last
                self.drop(event.stream)
            call.event(event)

    def pauseProducing(self) -> None:
        """The server does not read. Answers are still taken, or both ends could wait for each other."""
        self.flow.choke()

    def resumeProducing(self) -> None:
        """The server reads again."""
        self._unsent = 0
        self.flow.unchoke()

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` does what is to be done."""

    def _flush(self) -> None:
        data = self._core.take()
        if data:
            self.transport.write(data)
            if self.flow.choked:
                self._unsent += len(data)


def _payload(response: Response) -> bytes:
    if not response.ok:
        assert response.status is not None
        raise StatusError(response.status)
    return response.payload


class _ClientFactory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], Client]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> Client:
        return self._build()


def connect_client(reactor: Any, endpoint: IStreamClientEndpoint, timeout: float = 10.0) -> Deferred[Client]:
    """Connect; gives the Client.

    Args:
        timeout: seconds for the connection to be made.

    Fails with what the endpoint fails with (twisted.internet.error.ConnectError and its kinds), and with
    twisted.internet.error.ConnectingCancelledError or TimeoutError (of Twisted or Python) when the time is over.
    """
    connecting: Deferred[Any] = endpoint.connect(_ClientFactory(lambda: Client(reactor)))
    return connecting.addTimeout(timeout, reactor)
