"""HTTP to the API server: connections, TLS, one exchange, one stream. Knows nothing of objects."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import weakref
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from peerpods.errors import LinkError, LinkFailure
from peerpods.kube.client import errors
from peerpods.kube.client.access import Access
from peerpods.tls import connect_tls

IN_FLIGHT = 32
"""Requests at once to the API server; more wait their turn. Watches do not count."""
IDLE = 60.0
"""Seconds after which an unused connection is closed."""
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of the largest answer taken."""
CONNECT_TIMEOUT = 10.0
"""Seconds for one address of the server: TCP and TLS."""

# Without types in Twisted.
_Agent: Any = Agent
_Pool: Any = HTTPConnectionPool


@attrs.frozen
class Answer:
    """One whole answer."""

    status: int
    headers: Headers
    body: bytes


class Trouble(Exception):
    """No whole answer: a reason of `errors`, a few words, and whether the request may have reached the server."""

    def __init__(self, reason: str, said: str, *, sent: bool = True) -> None:
        super().__init__(said)
        self.reason = reason
        self.said = said
        self.sent = sent


async def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order to try; an address is its own."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return [host]
    try:
        found = await deferToThread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Trouble(errors.UNKNOWN_HOST, f"cannot find the host {host!r}: {error.strerror}", sent=False) from None
    return list(dict.fromkeys(str(sockaddr[0]) for _, _, _, _, sockaddr in found))


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects to the API server: each of its addresses in turn, TLS on top unless the URL says http."""

    def __init__(self, reactor: Any, access: Access, host: str, port: int, opened: Callable[[Any], None]) -> None:
        self._reactor = reactor
        self._access = access
        self._host = host
        self._port = port
        self._opened = opened

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """A Deferred of the connected protocol; fails with LinkError, ConnectError or Trouble."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        last: Exception | None = None
        for address in (await _addresses(self._host, self._port))[:8]:
            try:
                protocol = await self._try(factory, address)
            except (LinkError, ConnectError, TimeoutError) as error:
                last = error
                continue
            self._opened(protocol.transport)
            return protocol  # type: ignore[no-any-return]
        raise last or Trouble(errors.UNKNOWN_HOST, f"the host {self._host!r} has no address", sent=False)

    def _try(self, factory: IProtocolFactory, address: str) -> Deferred[Any]:
        if self._access.context is None:
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            return kind(self._reactor, address, self._port, timeout=int(CONNECT_TIMEOUT)).connect(factory)
        return connect_tls(
            self._reactor,
            address,
            self._port,
            self._access.context,
            self._access.server_name or self._host.partition("%")[0],
            factory,
            CONNECT_TIMEOUT,
        )


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, reactor: Any, access: Access, opened: Callable[[Any], None]) -> None:
        self._reactor = reactor
        self._access = access
        self._opened = opened

    def endpointForURI(self, uri: URI) -> Endpoint:
        """Only the server's own."""
        host = urlsplit(self._access.url).hostname or ""
        return Endpoint(self._reactor, self._access, host, uri.port, self._opened)


class _Collector(Protocol):
    """Gathers a body up to a bound."""

    def __init__(self, limit: int, done: Deferred[bytes]) -> None:
        self._limit = limit
        self._done = done
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """Keep it, or give up."""
        self._size += len(data)
        if self._size > self._limit:
            self._pieces.clear()
            if not self._done.called:
                self._done.errback(Trouble(errors.TOO_LARGE, f"the answer is larger than {self._limit} bytes"))
            self.transport.loseConnection()  # type: ignore[union-attr]
            return
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # type: ignore[no-untyped-call] # noqa: B008
        """The body has ended, or broke off."""
        if self._done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self._done.callback(b"".join(self._pieces))
        else:
            self._done.errback(reason)


class _Stream(Protocol):
    """Hands a body on as it comes."""

    def __init__(self, receive: Callable[[bytes], None], done: Deferred[None]) -> None:
        self._receive = receive
        self._done = done

    def dataReceived(self, data: bytes) -> None:
        """A piece; what the receiver raises ends the stream."""
        if self._done.called:
            return
        try:
            self._receive(data)
        except Exception:
            self._done.errback()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # type: ignore[no-untyped-call] # noqa: B008
        """The end, in order or not."""
        if self._done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self._done.callback(None)
        else:
            self._done.errback(reason)


def in_words(failure: Failure) -> Trouble:
    """What became of a request that got no answer."""
    error: BaseException = failure.value  # type: ignore[assignment]
    sent = not isinstance(error, (RequestNotSent, ConnectError, LinkError, Trouble))
    if isinstance(error, (ResponseNeverReceived, ResponseFailed)) and error.reasons:
        # TLS 1.3: the server's refusal of our certificate comes only now.
        inner = [each.value for each in error.reasons if isinstance(each, Failure) and each.value is not None]
        error = next((each for each in inner if isinstance(each, (LinkError, Trouble))), inner[0] if inner else error)
    if isinstance(error, Trouble):
        return error
    if isinstance(error, LinkError):
        if error.kind in (LinkFailure.TLS, LinkFailure.WRONG_PEER):
            return Trouble(errors.TLS, error.message, sent=sent)
        reason = errors.TIMEOUT if error.kind is LinkFailure.TIMEOUT else errors.REFUSED
        return Trouble(reason, error.message, sent=sent)
    if isinstance(error, ConnectionRefusedError):
        return Trouble(errors.REFUSED, "nobody listens there", sent=False)
    if isinstance(error, (TimeoutError, ssl.SSLError)):
        return Trouble(errors.TIMEOUT, "no answer in time", sent=sent)
    said = str(error).strip() or type(error).__name__
    return Trouble(errors.LOST, f"the connection was lost: {said}"[:300], sent=sent)


class Wire:
    """Connections to one API server under one `Access`."""

    def __init__(self, reactor: Any, access: Access, gate: DeferredSemaphore) -> None:
        self._reactor = reactor
        self.access = access
        self._gate = gate
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pool: Any = _Pool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = IN_FLIGHT
        self._pool.cachedConnectionTimeout = IDLE
        self._agent = _Agent.usingEndpointFactory(reactor, _Endpoints(reactor, access, self._open.add), pool=self._pool)

    async def exchange(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None, timeout: float
    ) -> Answer:
        """Send one request and gather its answer, all within `timeout` seconds. Raises Trouble."""
        work = Deferred.fromCoroutine(self._exchange(method, target, headers, body))
        work.addTimeout(timeout, self._reactor)
        try:
            return await work
        except TimeoutError:
            raise Trouble(errors.TIMEOUT, f"no answer within {timeout:.3g} s") from None

    async def _exchange(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> Answer:
        await self._gate.acquire()
        try:
            response = await self._request(self._agent, method, target, headers, body)
            done: Deferred[bytes] = Deferred()
            collector = _Collector(BODY_LIMIT, done)
            response.deliverBody(collector)
            try:
                content = await done
            except BaseException:
                if collector.transport is not None:
                    collector.transport.loseConnection()
                raise
        except (Trouble, CancelledError):
            raise
        except Exception as error:
            raise _translated(error) from None
        finally:
            self._gate.release()
        return Answer(response.code, response.headers, content)

    async def _request(
        self, agent: Any, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None
    ) -> Any:
        sent = Headers()
        for name, value in headers:
            sent.addRawHeader(name, value)
        producer = _Body(body) if body is not None else None
        try:
            return await agent.request(method.encode(), (self.access.url + target).encode("ascii"), sent, producer)
        except CancelledError:
            raise
        except Exception as error:
            raise _translated(error) from None

    async def stream(
        self, target: str, headers: Sequence[tuple[str, str]], timeout: float, receive: Callable[[bytes], None]
    ) -> Answer | None:
        """GET on a connection of its own and hand the body to `receive` piece by piece until it ends.

        Cancelling drops the connection at once. Bounds on silence are the caller's.

        Args:
            timeout: seconds until the answer begins.

        Returns:
            None after a stream with code 200; else the whole answer.

        Raises:
            Trouble: no answer, or the stream broke off. What `receive` raises comes through.
        """
        mine: list[Any] = []
        endpoints = _Endpoints(self._reactor, self.access, mine.append)
        pool = _Pool(self._reactor, persistent=False)
        agent = _Agent.usingEndpointFactory(self._reactor, endpoints, pool=pool)
        try:
            asked = Deferred.fromCoroutine(self._request(agent, "GET", target, headers, None))
            asked.addTimeout(timeout, self._reactor)
            response = await asked
            if response.code == 200:
                ended: Deferred[None] = Deferred()
                response.deliverBody(_Stream(receive, ended))
                await ended
                return None
            done: Deferred[bytes] = Deferred()
            response.deliverBody(_Collector(1024 * 1024, done))
            done.addTimeout(timeout, self._reactor)
            return Answer(response.code, response.headers, await done)
        except (ResponseFailed, ConnectError, LinkError, TimeoutError, OSError) as error:
            raise _translated(error) from None
        finally:
            for transport in mine:
                transport.abortConnection()

    def retire(self) -> None:
        """Close what is idle; exchanges under way end well."""
        self._pool.closeCachedConnections().addErrback(lambda _: None)

    async def close(self) -> None:
        """Close all connections at once; exchanges under way fail."""
        closed = self._pool.closeCachedConnections()
        for transport in list(self._open):
            transport.abortConnection()
        await closed


def _translated(error: Exception) -> Exception:
    """Trouble in words; but who cancelled shall see that it was cancelled (the Agent hides it in its own error)."""
    reasons = getattr(error, "reasons", None) or ()
    if any(isinstance(each, Failure) and isinstance(each.value, CancelledError) for each in reasons):
        return CancelledError()
    return in_words(Failure(error))  # type: ignore[no-untyped-call]


@implementer(IBodyProducer)
class _Body:
    """A body that is in memory: one write."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write it all."""
        consumer.write(self._body)
        return succeed(None)

    def stopProducing(self) -> None:
        """Nothing is under way."""

    def pauseProducing(self) -> None:
        """Nothing is under way."""

    def resumeProducing(self) -> None:
        """Nothing is under way."""
