"""A stream transport that moves bytes in one reactor turn: recv_into shared buffers, send at once, queue on EAGAIN.

It looks like a Twisted transport to an ordinary Protocol. Twisted's own queues each write and sends it in the next
turn, which doubles the cost of a small answer (docs/decisions/0002-data-path.md). Works on any reactor of file
descriptors (epoll, asyncio).
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from twisted.internet import address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReadWriteDescriptor,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

READ = 262144
"""Bytes taken from a socket in one turn: large enough for bulk, small enough to be fair to the other sockets."""
HIGH = 524288
"""Bytes queued above which a registered producer is paused."""
LOW = 131072
"""Bytes queued at or below which it is resumed."""
CLOSE_TIMEOUT = 10.0
"""Longest time, in seconds, that an orderly close may take."""
JOIN = 16384
"""Pieces up to this many bytes in all are joined before they are sent."""
_IOV = 64
_NOTHING: deque[memoryview | bytes] = deque(maxlen=0)
"""Queue of a pump that never had to wait: most never do, and an empty deque takes 0.7 KiB."""
_RECEIVED = memoryview(bytearray(READ))
"""Shared by all sockets of the process: it is used and emptied within one turn."""


class Phase(enum.Enum):
    """Where a pump is in its life."""

    STARTING = "starting"
    OPEN = "open"
    CLOSING = "closing"
    """Nothing more is taken from the protocol; what is queued still goes out."""
    LINGER = "linger"
    """Our side has ended; waiting for the peer's end, so that what we sent is not lost to a reset."""
    CLOSED = "closed"


def failure(error: BaseException) -> Failure:
    """A Failure of an error that was not raised."""
    return Failure(error)  # type: ignore[no-untyped-call]


def address_of(name: Any, family: int) -> IAddress:
    """What `getpeername` or `getsockname` gave, as a Twisted address."""
    if family == socket.AF_INET:
        return address.IPv4Address("TCP", name[0], name[1])
    if family == socket.AF_INET6:
        return address.IPv6Address("TCP", name[0], name[1])
    return address.UNIXAddress(name or None)


@implementer(ITransport, IConsumer, IPushProducer, IReadWriteDescriptor)
class Pump:
    """A connected socket. Call `begin` once; reactor thread only.

    A protocol with a true attribute `takes_views` gets memoryviews that are good only during `dataReceived`: one copy
    less of everything.

    Protocol methods are never called from within `write`, `loseConnection` or `abortConnection`.
    """

    linger = False
    """Whether an orderly close waits for the peer's end (TCP; a unix socket never loses what was sent)."""

    def __init__(self, reactor: Any, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.protocol: IProtocol | None = None
        self.phase = Phase.STARTING
        self.queued = 0
        self.producer: Any = None
        self._streaming = True
        self._producer_paused = False
        self._queue: deque[memoryview | bytes] = _NOTHING
        self._reading = False
        self._writing = False
        self._half_closing = False
        self._reason: Failure | None = None
        self._timer: Any = None
        self._peer: IAddress | None = None
        self._views = False

    # -- what the owner calls

    def begin(self, protocol: IProtocol) -> None:
        """Connect the protocol and start to read."""
        self.protocol = protocol
        self._views = bool(getattr(protocol, "takes_views", False))
        self.phase = Phase.OPEN
        protocol.makeConnection(self)
        if self.phase is Phase.OPEN:
            self._read_more()

    # -- ITransport

    @property
    def connected(self) -> bool:
        """Whether the socket still exists."""
        return self.phase is not Phase.CLOSED

    @property
    def disconnecting(self) -> bool:
        """Whether writes are dropped because the connection is ending."""
        return self.phase is not Phase.OPEN

    def write(self, data: bytes) -> None:
        """Send now what the socket takes, queue the rest. Dropped when the connection is ending."""
        if self.phase is Phase.OPEN and data and not self._half_closing:
            self._send(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """As one `write` of the joined pieces; large ones are not copied."""
        pieces = data if isinstance(data, list) else list(data)
        total = sum(map(len, pieces))
        if total <= JOIN or self._queue or self._half_closing or len(pieces) > _IOV:
            self.write(b"".join(pieces))
        elif self.phase is Phase.OPEN:
            self._send_pieces(pieces)

    def loseConnection(self) -> None:
        """End in order: what was written goes out first. The protocol hears of it in a later turn."""
        if self.phase is not Phase.OPEN:
            return
        self.phase = Phase.CLOSING
        self._timer = self.reactor.callLater(CLOSE_TIMEOUT, self._lose, failure(ConnectionAborted()))
        self._write_more()

    def loseWriteConnection(self) -> None:
        """End our side only (half-close); reading goes on."""
        if self.phase is Phase.OPEN and not self._half_closing:
            self._half_closing = True
            self._write_more()

    def abortConnection(self) -> None:
        """Drop the connection, queue and all. The protocol hears of it in a later turn."""
        if self.phase is Phase.CLOSED or self._reason is not None:
            return
        self._lose_soon(failure(ConnectionAborted()))

    def getPeer(self) -> IAddress:
        """Address of the peer."""
        if self._peer is None:
            try:
                self._peer = address_of(self.socket.getpeername(), self.socket.family)
            except OSError:
                self._peer = address.UNIXAddress(None)
        return self._peer

    def getHost(self) -> IAddress:
        """Our own address."""
        return address_of(self.socket.getsockname(), self.socket.family)

    # -- IPushProducer

    def pauseProducing(self) -> None:
        """Stop reading; at most what one turn brought is still delivered."""
        if self._reading:
            self._reading = False
            self.reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Read on."""
        if self.phase is Phase.OPEN:
            self._read_more()

    def stopProducing(self) -> None:
        """As `loseConnection`."""
        self.loseConnection()

    # -- IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have `producer` paused while more than HIGH bytes wait."""
        if self.producer is not None:
            raise RuntimeError("a producer is registered already")
        if self.phase is Phase.CLOSED:
            producer.stopProducing()
            return
        self.producer = producer
        self._streaming = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Forget the producer; a pending `loseConnection` may end now."""
        self.producer = None
        if self.phase is Phase.CLOSING:
            self._write_more()

    # -- file descriptor

    def fileno(self) -> int:
        """For the reactor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return type(self).__name__

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the socket's end while nothing was read, or stops."""
        self._lose(reason)

    def doRead(self) -> None:
        """One bounded read."""
        try:
            count = self.socket.recv_into(_RECEIVED)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(self._lost_by(error))
            return
        if self.phase in (Phase.CLOSING, Phase.LINGER) or self._reason is not None:
            if not count:
                self._lose(self._reason or failure(ConnectionDone()))
            return
        if count:
            self._received(_RECEIVED[:count])
        else:
            self._peer_ended()

    def doWrite(self) -> None:
        """One bounded write of what waits, then whatever its end allows."""
        queue = self._queue
        if queue:
            try:
                sent = self.socket.sendmsg(list(islice(queue, _IOV)))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(self._lost_by(error))
                return
            self.queued -= sent
            while sent:
                head = queue[0]
                if len(head) > sent:
                    queue[0] = memoryview(head)[sent:]
                    break
                sent -= len(head)
                queue.popleft()
        if self.producer is not None and self.phase is Phase.OPEN:
            self._drained()
        if queue or self.phase is Phase.CLOSED:
            return
        self._stop_writing()
        if self.phase is Phase.CLOSING and (self.producer is None or not self._streaming):
            self._end_own_side()
        elif self._half_closing and self.phase is Phase.OPEN:
            self._shutdown_write()

    # -- hooks of the TLS pump

    def _received(self, data: memoryview) -> None:
        assert self.protocol is not None
        self.protocol.dataReceived(data if self._views else bytes(data))  # type: ignore[arg-type]

    def _peer_ended(self) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol) and not self._half_closing:
            self.pauseProducing()
            self.protocol.readConnectionLost()
            return
        self._lose(failure(ConnectionDone()))

    def _end_own_side(self) -> None:
        self._close_own_side()

    # -- machinery

    def _send(self, data: bytes | memoryview) -> None:
        if self._queue:
            self._send_later(data)
        else:
            try:
                sent = self.socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose_soon(self._lost_by(error))
                return
            if sent == len(data):
                return
            self._send_later(memoryview(data)[sent:])
        self._check_queue()

    def _send_pieces(self, pieces: list[bytes]) -> None:
        """With an empty queue: send what the socket takes, queue the rest."""
        try:
            sent = self.socket.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose_soon(self._lost_by(error))
            return
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
            else:
                self._send_later(memoryview(piece)[sent:])
                sent = 0
        self._check_queue()

    def _send_later(self, data: bytes | memoryview) -> None:
        if self._queue is _NOTHING:
            self._queue = deque()
        self._queue.append(data)
        self.queued += len(data)
        self._write_more()

    def _check_queue(self) -> None:
        if self.queued > HIGH and self.producer is not None and not self._producer_paused:
            self._producer_paused = True
            self.producer.pauseProducing()

    def _drained(self) -> None:
        if not self._streaming:
            if not self._queue:
                self.producer.resumeProducing()
        elif self._producer_paused and self.queued <= LOW:
            self._producer_paused = False
            self.producer.resumeProducing()

    def _close_own_side(self) -> None:
        """Everything is out: end the socket, or its sending half first."""
        if not self.linger:
            self._lose(failure(ConnectionDone()))
            return
        self.phase = Phase.LINGER
        self._shutdown_write()
        if self.phase is Phase.LINGER:
            self._read_more()

    def _shutdown_write(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(self._lost_by(error))

    def _lost_by(self, error: OSError) -> Failure:
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            return failure(ConnectionLost(f"the peer has gone ({error.strerror})"))
        return failure(ConnectionLost(str(error.strerror)))

    def _lose_soon(self, reason: Failure) -> None:
        """The connection is over; tell the protocol in a turn of its own."""
        self._reason = reason
        self.phase = Phase.CLOSING
        self._queue.clear()
        self.queued = 0
        self._stop_writing()
        self.pauseProducing()
        if isinstance(reason.value, ConnectionAborted) and self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.reactor.callLater(0, self._lose, reason)

    def _lose(self, reason: Failure) -> None:
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self.pauseProducing()
        self._stop_writing()
        self._queue.clear()
        self.queued = 0
        self.getPeer()
        self.socket.close()
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self._tell_lost(reason)

    def _tell_lost(self, reason: Failure) -> None:
        if self.protocol is not None:
            self.protocol.connectionLost(reason)

    def _read_more(self) -> None:
        if not self._reading:
            self._reading = True
            self.reactor.addReader(self)

    def _write_more(self) -> None:
        if not self._writing:
            self._writing = True
            self.reactor.addWriter(self)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self.reactor.removeWriter(self)
