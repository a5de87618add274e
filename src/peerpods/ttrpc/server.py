"""The Twisted shell of a server: runs handlers for the calls that `ServerCore` finds."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from peerpods.ttrpc.connection import (
    CallAborted,
    CallStarted,
    MessageReceived,
    ServerCore,
    ServerEvent,
    Shape,
)
from peerpods.ttrpc.envelope import Request, Response
from peerpods.ttrpc.flow import Flow
from peerpods.ttrpc.inbox import Inbox
from peerpods.ttrpc.service import CallContext, Fallback, MapError, Method, Service, default_map_error
from peerpods.ttrpc.status import DEADLINE, Code, ConnectionClosed, Status, StatusError

log = Logger()
_ids = itertools.count(1)
MAX_UNSENT = 64 << 20  # bytes of answers kept for a client that does not read; then its connection is cut
CLOSE_WAIT = 1.0  # seconds for the peer to take what is written before the connection is cut


class _Call:
    """A call that runs."""

    __slots__ = ("context", "deferred", "done", "inbox", "method", "started", "timer")

    def __init__(self, context: CallContext, method: Method | None, started: float) -> None:
        self.context = context
        self.method = method
        self.started = started
        self.deferred: Deferred[Any] | None = None
        self.timer: IDelayedCall | None = None
        self.inbox: Inbox[Message] | None = None
        self.done = False

    def stop(self) -> None:
        """Nobody waits for this call any more: cancel its handler."""
        self.done = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if self.deferred is not None:
            self.deferred.cancel()


def _decode(kind: type[Message], payload: bytes) -> Message:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        status = Status(Code.INTERNAL, f"ttrpc: error unmarshalling payload: {error}")
        raise StatusError(status) from error


class ServerConnection(Protocol):
    """One client. Made by `Server`; handlers see it as `CallContext.connection`."""

    transport: Any = None

    def __init__(self, server: Server) -> None:
        self.id = next(_ids)
        self.peer: IAddress | None = None
        self.completed = 0
        self.lost = False
        self._server = server
        self._core = ServerCore(server.route, server.max_in_flight)
        self._calls: dict[int, _Call] = {}
        self._receiving = False
        self._unsent = 0
        self._flow: Flow
        self._gone: Deferred[None] = Deferred()

    @property
    def in_flight(self) -> int:
        """Calls whose handler runs and whose answer is still to come."""
        return len(self._calls)

    @property
    def calls(self) -> tuple[CallContext, ...]:
        """The contexts of the calls in flight."""
        return tuple(call.context for call in self._calls.values())

    def close(self) -> None:
        """End the connection after what is already written."""
        if not self.lost and self.transport is not None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        """End the connection at once."""
        if not self.lost and self.transport is not None:
            self.transport.abortConnection()

    def when_gone(self) -> Deferred[None]:
        """Fires once the connection is lost."""
        waiter: Deferred[None] = Deferred()
        self._gone.addCallback(lambda _: waiter.callback(None))
        return waiter

    # Twisted's side

    def connectionMade(self) -> None:
        self.peer = self.transport.getPeer()
        self._flow = Flow(self.transport, self._server.reactor)
        self.transport.registerProducer(self, True)
        self._server.connected(self)

    def dataReceived(self, data: bytes) -> None:
        self._receiving = True
        try:
            for event in self._core.receive(data):
                if self.lost:
                    return
                self._act(event)
        finally:
            self._receiving = False
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._flow.end()
        self._server.disconnected(self)
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            if call.inbox is not None:
                call.inbox.clear()
            call.stop()
        self._gone.callback(None)

    def pauseProducing(self) -> None:
        """The client does not read: take no more calls from it until it does."""
        self._flow.choke()
        self._flow.hold("writes")

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._unsent = 0
        self._flow.release("writes")
        self._flow.unchoke()

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` does what is to be done."""

    # Calls

    def _flush(self) -> None:
        if not self._receiving and not self.lost:
            data = self._core.take()
            if data:
                self.transport.write(data)
                if self._flow.choked:
                    self._unsent += len(data)
                    if self._unsent > MAX_UNSENT:
                        log.error("client {id} does not read its answers: its connection is cut", id=self.id)
                        self.abort()

    def _act(self, event: ServerEvent) -> None:
        if isinstance(event, CallStarted):
            self._start(event.stream, event.shape, event.request)
            return
        call = self._calls.get(event.stream)
        if call is None:
            return
        if isinstance(event, CallAborted):
            self._close_call(event.stream, event.status.code)
            call.stop()
        elif call.inbox is None:
            return
        elif isinstance(event, MessageReceived):
            call.inbox.put(event.payload)
        else:
            call.inbox.end()

    def _start(self, stream: int, shape: Shape, request: Request) -> None:
        server = self._server
        now = server.reactor.seconds()
        nano = request.timeout_nano
        context = CallContext(
            request.service,
            request.method,
            request.metadata,
            stream,
            now + nano / 1e9 if nano else None,
            self,
            server.reactor,
        )
        service = server.services.get(request.service)
        call = _Call(context, service.methods[request.method] if service else None, now)
        self._calls[stream] = call
        if nano < 0:
            self._answer(stream, Response(DEADLINE))
            return
        if nano:
            call.timer = server.reactor.callLater(nano / 1e9, self._expire, stream)
        try:
            result = self._invoke(call, shape, request)
        except Exception as error:  # the boundary: whatever a handler raises becomes a status
            self._failed(error, stream, call)
            return
        if inspect.iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            call.deferred = result
            result.addCallbacks(self._succeeded, self._errback, callbackArgs=(stream, call), errbackArgs=(stream, call))
            if call.done:  # ended while its first steps ran
                result.cancel()
        else:
            self._succeeded(result, stream, call)

    def _invoke(self, call: _Call, shape: Shape, request: Request) -> Any:
        context, method = call.context, call.method
        if method is None:
            assert self._server.fallback is not None
            return self._server.fallback(context, request)
        arguments: list[Any] = [context]
        if shape.client_streams:
            call.inbox = self._make_inbox(context.stream, method)
            arguments.append(call.inbox.receive)
        else:
            arguments.append(_decode(method.request, request.payload))
        if shape.server_streams:
            arguments.append(lambda message: self._send(call, message))
        return method.handler(*arguments)

    def _make_inbox(self, stream: int, method: Method) -> Inbox[Message]:
        def give_up() -> None:
            status = Status(Code.RESOURCE_EXHAUSTED, "ttrpc: stream buffer full")
            call = self._calls[stream]
            self._answer(stream, Response(status))
            call.stop()

        return Inbox(
            lambda payload: _decode(method.request, payload),
            on_full=lambda: self._flow.stall(stream, give_up),
            on_room=lambda: self._flow.unstall(stream),
        )

    def _send(self, call: _Call, message: Message) -> Deferred[None]:
        if call.done or self.lost:
            raise ConnectionClosed
        if call.method is None or (call.method.response is not None and not isinstance(message, call.method.response)):
            raise TypeError(f"{call.context.method} sent a {type(message).__name__}")
        self._core.send_message(call.context.stream, message.SerializeToString())
        self._flush()
        return self._flow.ready()

    def _expire(self, stream: int) -> None:
        call = self._calls[stream]
        self._answer(stream, Response(DEADLINE))
        call.stop()

    def _errback(self, failure: Failure, stream: int, call: _Call) -> None:
        assert failure.value is not None
        self._failed(failure.value, stream, call)

    def _failed(self, error: BaseException, stream: int, call: _Call) -> None:
        if call.done:  # cancelled, or too late: nobody waits
            return
        status = self._server.status_of(error)
        self._answer(stream, Response(status))

    def _succeeded(self, result: Any, stream: int, call: _Call) -> None:
        if call.done:
            return
        method = call.method
        if method is not None and method.kind in ("server_stream", "bidi"):
            self._close_call(stream, Code.OK)
            self._core.finish(stream)
            self._flush()
            return
        if method is None and isinstance(result, Response):
            answer = result
        elif method is not None and isinstance(result, method.response or Message):
            answer = Response(None, result.SerializeToString())
        else:
            text = f"the handler of {call.context.method} gave a {type(result).__name__} for an answer"
            log.error(text)
            answer = Response(Status(Code.INTERNAL, text))
        self._answer(stream, answer)

    def _answer(self, stream: int, response: Response) -> None:
        self._close_call(stream, response.status.code if response.status else Code.OK)
        self._core.respond(stream, response)
        self._flush()

    def _close_call(self, stream: int, code: int) -> None:
        call = self._calls.pop(stream)
        call.done = True
        if call.timer is not None and call.timer.active():
            call.timer.cancel()
        if call.inbox is not None:
            self._flow.unstall(stream)
        self.completed += 1
        self._server.call_done(call.context, code, call.started)
        if self._server.closing and not self._calls:
            self.close()


class Server(Factory):
    """Serves services on every connection it is given: `endpoint.listen(Server(reactor, [service]))`.

    Args:
        services: what is served; two of the same name are an error (ValueError).
        map_error: makes the status of what a handler raised; it decides alone, StatusError too.
        fallback: gets the calls of services that are not in `services`, undecoded, and gives the whole Response.
        on_connect: called with each new connection.
        on_disconnect: called with a lost one, before its handlers are cancelled: `in_flight` and `calls` still tell
            what the loss cuts off.
        max_in_flight: calls open at once on one connection; the next is refused with RESOURCE_EXHAUSTED.
        on_call_done: called with (context, code, seconds) when a call is answered; not for calls cut off by a loss.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        services: Iterable[Service],
        *,
        map_error: MapError | None = None,
        fallback: Fallback | None = None,
        on_connect: Callable[[ServerConnection], object] | None = None,
        on_disconnect: Callable[[ServerConnection], object] | None = None,
        max_in_flight: int = 1024,
        on_call_done: Callable[[CallContext, int, float], object] | None = None,
    ) -> None:
        self.reactor = reactor
        self.services: dict[str, Service] = {}
        for service in services:
            if service.name in self.services:
                raise ValueError(f"service {service.name} is given twice")
            self.services[service.name] = service
        self.fallback = fallback
        self.max_in_flight = max_in_flight
        self.connections: set[ServerConnection] = set()
        self.closing = False
        self._map_error = map_error or default_map_error
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_call_done = on_call_done

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection:
        return ServerConnection(self)

    def route(self, request: Request) -> Shape | Status:
        """The shape of the call, or why it is refused."""
        if self.closing:
            return Status(Code.UNAVAILABLE, "the server is shutting down")
        service = self.services.get(request.service)
        if service is None:
            if self.fallback is not None:
                return Shape.UNARY
            return Status(Code.UNIMPLEMENTED, f"service {request.service}")
        method = service.methods.get(request.method)
        if method is None:
            return Status(Code.UNIMPLEMENTED, f"method {request.method}")
        return Shape(method.kind)

    def status_of(self, error: BaseException) -> Status:
        """The status of what a handler raised; never OK."""
        try:
            status = self._map_error(error)
        except Exception:
            log.failure("the mapping of errors failed")
            status = default_map_error(error)
        if status.code == Code.UNKNOWN and not hasattr(error, "code"):
            log.failure("a handler failed", Failure(error))  # type: ignore[no-untyped-call]
        if status.code == Code.OK:
            return Status(Code.UNKNOWN, status.message, status.details)
        return status

    def connected(self, connection: ServerConnection) -> None:
        """A connection is made."""
        self.connections.add(connection)
        self._tell(self._on_connect, connection)

    def disconnected(self, connection: ServerConnection) -> None:
        """A connection is lost."""
        self.connections.discard(connection)
        self._tell(self._on_disconnect, connection)

    def call_done(self, context: CallContext, code: int, started: float) -> None:
        """A call is answered."""
        if self._on_call_done is not None:
            self._tell(self._on_call_done, context, code, self.reactor.seconds() - started)

    def _tell(self, callback: Callable[..., object] | None, *arguments: object) -> None:
        if callback is not None:
            try:
                callback(*arguments)
            except Exception:
                log.failure("a callback of the server failed")

    async def close(self, grace: float) -> None:
        """End all connections: idle ones now, the others when their calls are answered, at the latest after `grace`.

        New calls are refused with UNAVAILABLE. Stop the listening port first; this knows no port. Takes `grace`
        plus CLOSE_WAIT seconds at most.
        """
        self.closing = True
        connections = list(self.connections)
        for connection in connections:
            if not connection.in_flight:
                connection.close()
        cut = [
            self.reactor.callLater(grace, self._each, "close"),
            self.reactor.callLater(grace + CLOSE_WAIT, self._each, "abort"),
        ]
        await DeferredList([connection.when_gone() for connection in connections])
        for timer in cut:
            if timer.active():
                timer.cancel()

    def _each(self, action: str) -> None:
        for connection in list(self.connections):
            getattr(connection, action)()
