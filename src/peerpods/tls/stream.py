"""TLS over the pump."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.python.failure import Failure

from peerpods.errors import LinkError, LinkFailure
from peerpods.tls.core import PIECE, TlsCore
from peerpods.tls.pump import READ, Phase, Pump, failure

_PLAIN = memoryview(bytearray(READ + 2 * 16384 + 512))
"""Room for the plaintext of one read and of a record that began before it; shared by all connections."""


def tune(sock: socket.socket) -> None:
    """What a long-lived TCP link wants: no delay for small answers, and a dead peer noticed in about 30 s."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30000)


def tls_error(error: ssl.SSLError, *, established: bool) -> LinkError:
    """The class and the sentence of a TLS failure."""
    reason = (error.reason or type(error).__name__).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return LinkError(
            f"the peer's certificate is not the expected one: {error.verify_message}",
            kind=LinkFailure.WRONG_PEER,
            remedy="another machine answers at this address, or the VM has other keys",
        )
    if "alert" in reason:
        what = "after the handshake" if established else "in the handshake"
        return LinkError(
            f"the peer refused us {what}: {reason}",
            kind=LinkFailure.TLS,
            remedy="it expects another client certificate or TLS version",
        )
    return LinkError(f"TLS failed: {reason}", kind=LinkFailure.TLS)


class TlsPump(Pump):
    """A pump with a `TlsCore` in it. The protocol is connected when the handshake is complete.

    A refusal of our certificate reaches the protocol's `connectionLost` as a LinkError of kind TLS (TLS 1.3: it
    comes after the client's handshake).
    """

    linger = True

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        core: TlsCore,
        *,
        established: Callable[[TlsPump], IProtocol],
        failed: Callable[[LinkError], None],
        timeout: float,
    ) -> None:
        """Args:
        established: called once with this pump; gives the protocol, or raises LinkError to end the connection.
        failed: called once instead when the handshake fails; the socket is closed then or soon after.
        timeout: seconds for the handshake.
        """
        super().__init__(reactor, sock)
        self.core = core
        self._established = established
        self._failed: Callable[[LinkError], None] | None = failed
        self._heard = False
        self._timer = reactor.callLater(timeout, self._expired, timeout)

    def start(self) -> None:
        """Begin the handshake."""
        self._read_more()
        self._step()

    @property
    def peer_certificate(self) -> bytes | None:
        """DER of the peer's certificate."""
        return self.core.peer_certificate()

    def write(self, data: bytes) -> None:
        """Encrypt and send. Dropped when the connection is ending."""
        if self.phase is not Phase.OPEN or not data or self._half_closing:
            return
        encrypt = self.core.encrypt
        try:
            if len(data) <= PIECE:
                self._send(encrypt(data))
                return
            view = memoryview(data)
            for start in range(0, len(view), PIECE):
                self._send(encrypt(view[start : start + PIECE]))
                if self.phase is not Phase.OPEN:
                    return
        except ssl.SSLError as error:
            self._lose_soon(failure(tls_error(error, established=True)))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """As one `write` of the joined pieces: few records are made of them."""
        self.write(b"".join(data))

    def _expired(self, timeout: float) -> None:
        self._timer = None
        self._fail(
            LinkError(
                f"the TLS handshake was not complete after {timeout:g} s",
                kind=LinkFailure.TIMEOUT,
                remedy="the peer accepts connections but does not speak TLS, or is overloaded",
            )
        )

    def _step(self) -> bool:
        """One step of the handshake; True when it is complete and the protocol runs."""
        core = self.core
        try:
            done = core.handshake()
        except ssl.SSLError as error:
            self._fail(tls_error(error, established=False))
            return False
        self._flush()
        if not done:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            protocol = self._established(self)
        except LinkError as error:
            self._fail(error)
            return False
        self._failed = None
        self.begin(protocol)
        return True

    def _received(self, data: memoryview) -> None:
        self._heard = True
        core = self.core
        got = 0
        ended = False
        broken: LinkError | None = None
        for start in range(0, len(data), PIECE):
            core.feed(data[start : start + PIECE])
            # The protocol may end the connection when it is made; what follows is then not for it.
            if self.protocol is None and not self._step():
                if self.phase is not Phase.STARTING:
                    return
                continue
            try:
                count, ended = core.read_into(_PLAIN[got:])
            except ssl.SSLError as error:
                broken = tls_error(error, established=True)
                break
            got += count
            if ended:
                break
        if self.protocol is None:
            return
        self._flush()
        if got and self.phase is Phase.OPEN:
            view = _PLAIN[:got]
            self.protocol.dataReceived(view if self._views else bytes(view))  # type: ignore[arg-type]
        if broken is not None:
            self._break(failure(broken))
        elif ended:
            self._finished(failure(ConnectionDone()))

    def _peer_ended(self) -> None:
        if self.protocol is None:
            kind = LinkFailure.TLS if self._heard else LinkFailure.REFUSED
            self._fail(LinkError("the peer closed the connection before the handshake was complete", kind=kind))
            return
        self._finished(failure(ConnectionLost("the peer ended without a close_notify")))

    def _finished(self, reason: Failure) -> None:
        """The peer's side has ended."""
        if self.phase is Phase.CLOSED:
            return
        if IHalfCloseableProtocol.providedBy(self.protocol) and not self._half_closing:
            self.pauseProducing()
            self.protocol.readConnectionLost()
            return
        if self.phase is Phase.OPEN:
            self.core.close()
            self._flush()
        self._lose(reason)

    def _end_own_side(self) -> None:
        self.core.close()
        self._flush()
        if not self._queue and self.phase is Phase.CLOSING:
            self._close_own_side()

    def _shutdown_write(self) -> None:
        if self._half_closing and self.phase is Phase.OPEN:
            # close_notify is the half-close of TLS; the socket stays whole for what the peer still sends.
            self.core.close()
            self._flush()
            return
        super()._shutdown_write()

    def _flush(self) -> None:
        data = self.core.outgoing()
        if data and self.phase is not Phase.CLOSED:
            self._send(data)

    def _fail(self, error: LinkError) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            failed(error)
            self._break(failure(error))

    def _break(self, reason: Failure) -> None:
        """End after a TLS failure: the alert goes out, and is not lost to a reset."""
        if self.phase is Phase.CLOSED or self._reason is not None:
            return
        self._flush()
        protocol, self.protocol = self.protocol, None
        producer, self.producer = self.producer, None
        self._reason = reason
        self.phase = Phase.CLOSING
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.reactor.callLater(1.0, self._lose, reason)
        self._close_own_side()
        if producer is not None:
            producer.stopProducing()
        if protocol is not None:
            protocol.connectionLost(reason)

    def _tell_lost(self, reason: Failure) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            kind = LinkFailure.TLS if self._heard else LinkFailure.REFUSED
            message = f"the connection was lost in the handshake: {reason.getErrorMessage()}"
            failed(LinkError(message, kind=kind))
            return
        super()._tell_lost(reason)
