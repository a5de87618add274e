"""The two ways to get a TLS connection: `connect_tls` and `listen_tls`."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocol, IReadDescriptor, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from peerpods.errors import LinkError, LinkFailure
from peerpods.obs.log import get_logger
from peerpods.tls.core import TlsCore
from peerpods.tls.pump import Phase, Pump, address_of, failure
from peerpods.tls.stream import TlsPump, tune

BACKLOG = 128
MAX_HANDSHAKES = 64
"""Handshakes that may be under way at one listener; the oldest gives way, so strangers cannot lock the client out."""
_ACCEPTS = 16
"""Connections taken from the kernel in one turn."""
_log = get_logger("tls")


def _build(factory: Any, peer: Any) -> IProtocol:
    """A protocol from a Twisted factory or from a plain callable."""
    protocol = factory.buildProtocol(peer) if hasattr(factory, "buildProtocol") else factory()
    if protocol is None:
        raise LinkError("the connection was refused", kind=LinkFailure.CLOSED)
    return protocol  # type: ignore[no-any-return]


def connect_error(number: int, host: str, port: int) -> LinkError:
    """The class and the sentence of a failed connect, by its errno."""
    where = f"{host} port {port}"
    if number in (errno.ECONNREFUSED, errno.ECONNRESET):
        return LinkError(
            f"nobody listens at {where}",
            kind=LinkFailure.REFUSED,
            remedy="the VM is still starting, or its forwarder does not run",
        )
    if number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ENETDOWN):
        return LinkError(
            f"no way to {where}: {os.strerror(number).lower()}",
            kind=LinkFailure.TIMEOUT,
            remedy="the VM may not be up yet, or the node has no route to it",
        )
    return LinkError(f"cannot connect to {where}: {os.strerror(number).lower()}", kind=LinkFailure.REFUSED)


def connect_tls(
    reactor: Any,
    host: str,
    port: int,
    context: ssl.SSLContext,
    server_name: str,
    protocol_factory: Any,
    timeout: float,
    verify_peer: Callable[[bytes], None] | None = None,
    connect_timeout: float | None = None,
) -> Deferred[Any]:
    """Connect, shake hands, check the peer, then connect a protocol.

    Args:
        host: an IP address (IPv6 may have a scope).
        server_name: sent as SNI; the check of the name is `verify_peer`'s.
        protocol_factory: a callable without arguments, or a Twisted factory.
        timeout: seconds for all of it.
        connect_timeout: seconds for the TCP connect alone, when shorter.
        verify_peer: gets the peer's certificate (DER) before a byte of ours follows; raises LinkError to refuse.

    Returns:
        Deferred of the connected protocol. It fails with LinkError of kind REFUSED, TIMEOUT, TLS or WRONG_PEER.
        Cancelling it drops the attempt. TLS 1.3: success does not yet mean that the server took our certificate;
        a refusal comes to `connectionLost` as a LinkError.
    """
    attempt = _Connector(reactor, host, port, context, server_name, protocol_factory, timeout, verify_peer)
    attempt.start(timeout if connect_timeout is None else min(timeout, connect_timeout))
    return attempt.result


@implementer(IReadWriteDescriptor)
class _Connector:
    """One attempt: a socket on its way, then a pump in its handshake."""

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        context: ssl.SSLContext,
        server_name: str,
        factory: Any,
        timeout: float,
        verify_peer: Callable[[bytes], None] | None,
    ) -> None:
        self.reactor = reactor
        self.host, self.port = host, port
        self.context, self.server_name = context, server_name
        self.factory, self.verify_peer = factory, verify_peer
        self.until = reactor.seconds() + timeout
        self.timeout = timeout
        self.socket: socket.socket | None = None
        self.pump: TlsPump | None = None
        self.result: Deferred[Any] = Deferred(lambda _: self._drop())
        self._timer: Any = None
        self._ended = False

    def start(self, connect_timeout: float) -> None:
        """Begin; the result fires later, or already has on an immediate failure."""
        try:
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=flags)
            family, _, _, _, name = found[0]
        except OSError:
            self._fail(LinkError(f"{self.host!r} is not an IP address", kind=LinkFailure.REFUSED))
            return
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        tune(self.socket)
        number = self.socket.connect_ex(name)
        if number not in (0, errno.EINPROGRESS):
            self._fail(connect_error(number, self.host, self.port))
            return
        self._timer = self.reactor.callLater(connect_timeout, self._expired, connect_timeout)
        self.reactor.addWriter(self)

    def fileno(self) -> int:
        return self.socket.fileno() if self.socket is not None else -1

    def logPrefix(self) -> str:
        return "connect_tls"

    def doRead(self) -> None:
        """Never registered for reading."""

    def connectionLost(self, reason: Failure) -> None:
        self.doWrite()

    def doWrite(self) -> None:
        if self.socket is None or self.pump is not None:
            return
        self.reactor.removeWriter(self)
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(connect_error(number, self.host, self.port))
            return
        self._timer.cancel()
        left = max(0.001, self.until - self.reactor.seconds())
        core = TlsCore(self.context, server_side=False, server_name=self.server_name or None)
        sock, self.socket = self.socket, None
        self.pump = TlsPump(self.reactor, sock, core, established=self._established, failed=self._fail, timeout=left)
        self.pump.start()

    def _established(self, pump: TlsPump) -> IProtocol:
        if self.verify_peer is not None:
            try:
                self.verify_peer(pump.peer_certificate or b"")
            except LinkError:
                raise
            except Exception as error:
                raise LinkError(f"the peer's certificate was refused: {error}", kind=LinkFailure.WRONG_PEER) from error
        protocol = _build(self.factory, pump.getPeer())
        self._ended = True
        # The protocol is connected when this returns; the caller learns of it right after.
        self.reactor.callLater(0, self._succeed, protocol)
        return protocol

    def _succeed(self, protocol: IProtocol) -> None:
        if not self.result.called:
            self.result.callback(protocol)

    def _expired(self, timeout: float) -> None:
        self._fail(
            LinkError(
                f"no answer from {self.host} port {self.port} within {timeout:g} s",
                kind=LinkFailure.TIMEOUT,
                remedy=f"TCP {self.port} from the node to the VM may be closed by a security group",
            )
        )

    def _fail(self, error: LinkError) -> None:
        self._drop()
        if not self.result.called:
            self.result.errback(failure(error))

    def _drop(self) -> None:
        self._ended = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self.socket is not None:
            self.reactor.removeWriter(self)
            self.socket.close()
            self.socket = None
        if self.pump is not None and self.pump.phase in (Phase.STARTING, Phase.OPEN):
            self.pump.abortConnection()


@implementer(IListeningPort, IReadDescriptor)
class SocketPort:
    """A listening socket that hands each accepted one to `accepted(socket)`. Bounded per turn; survives EMFILE."""

    def __init__(self, reactor: Any, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.accepted = accepted
        self._address = address_of(sock.getsockname(), sock.family)
        self._pause: Any = None
        self._open = False

    def startListening(self) -> None:
        """Take connections from now on."""
        self._open = True
        self.reactor.addReader(self)

    def stopListening(self) -> Deferred[None]:
        """Close the listening socket at once; accepted connections live on. Idempotent."""
        if self._open:
            self._open = False
            self.reactor.removeReader(self)
            if self._pause is not None and self._pause.active():
                self._pause.cancel()
            self.socket.close()
        return succeed(None)

    def getHost(self) -> Any:
        """The address listened on, with the port the kernel chose."""
        return self._address

    def fileno(self) -> int:
        """For the reactor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return "SocketPort"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        self.stopListening()

    def doRead(self) -> None:
        """Accept what waits, a few at a time."""
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("accept_failed", error=str(error))
                self.reactor.removeReader(self)
                self._pause = self.reactor.callLater(0.5, self._again)
                return
            self.accepted(sock)
            if not self._open:
                return

    def _again(self) -> None:
        if self._open:
            self.reactor.addReader(self)


class _TlsAcceptor:
    """What a TLS listener keeps of its connections."""

    def __init__(
        self, reactor: Any, context: ssl.SSLContext, factory: Any, max_connections: int, timeout: float
    ) -> None:
        self.reactor = reactor
        self.context = context
        self.factory = factory
        self.max_connections = max_connections
        self.timeout = timeout
        self.shaking: dict[TlsPump, None] = {}
        self.open: set[Pump] = set()

    def accepted(self, sock: socket.socket) -> None:
        """Start a handshake."""
        tune(sock)
        while len(self.shaking) >= MAX_HANDSHAKES:
            oldest = next(iter(self.shaking))
            del self.shaking[oldest]
            oldest.abortConnection()
        core = TlsCore(self.context, server_side=True)
        pump = _ServerPump(self, sock, core)
        self.shaking[pump] = None
        pump.start()

    def established(self, pump: TlsPump) -> IProtocol:
        """The handshake is complete."""
        self.shaking.pop(pump, None)
        if len(self.open) >= self.max_connections:
            _log.warning("connection_refused", peer=str(pump.getPeer()), reason="too many connections")
            raise LinkError("too many connections", kind=LinkFailure.REFUSED)
        protocol = _build(self.factory, pump.getPeer())
        self.open.add(pump)
        return protocol


class _ServerPump(TlsPump):
    """A TLS pump that tells its listener of its end."""

    def __init__(self, acceptor: _TlsAcceptor, sock: socket.socket, core: TlsCore) -> None:
        self._acceptor = acceptor
        super().__init__(
            acceptor.reactor,
            sock,
            core,
            established=acceptor.established,
            failed=self._refused,
            timeout=acceptor.timeout,
        )

    def _refused(self, error: LinkError) -> None:
        self._acceptor.shaking.pop(self, None)
        _log.info("handshake_failed", peer=str(self.getPeer()), reason=str(error))

    def _lose(self, reason: Failure) -> None:
        self._acceptor.shaking.pop(self, None)
        self._acceptor.open.discard(self)
        super()._lose(reason)


def listen_tls(
    reactor: Any,
    interface: str,
    port: int,
    context: ssl.SSLContext,
    protocol_factory: Any,
    *,
    max_connections: int,
    handshake_timeout: float,
) -> IListeningPort:
    """Listen for TLS connections; a protocol is made for each one that has completed its handshake.

    Args:
        interface: an IP address; "::" takes IPv4 too.
        port: 0 for any; `getHost().port` of the result tells.
        protocol_factory: a callable without arguments, or a Twisted factory.
        max_connections: complete ones; further ones are closed after their handshake.
        handshake_timeout: seconds.

    Raises:
        OSError: the address cannot be bound.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_PASSIVE
    family, _, _, _, name = socket.getaddrinfo(interface, port, type=socket.SOCK_STREAM, flags=flags)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if interface == "::" else 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    acceptor = _TlsAcceptor(reactor, context, protocol_factory, max_connections, handshake_timeout)
    listening = SocketPort(reactor, sock, acceptor.accepted)
    listening.startListening()
    return listening
