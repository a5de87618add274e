"""The connection to the agent's unix socket: dialled when a call needs it, and again after it was lost."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from peerpods.tls.pump import Pump

FIRST_PAUSE = 0.02  # seconds before the second attempt
LONGEST_PAUSE = 1.0
GROWTH = 1.1
"""Of the pause with each attempt: an agent is found at most a tenth late of the time it took to come."""


class AgentLine(Protocol):
    """One connection to the agent at a time.

    Args:
        path: of the agent's socket.
        up: called when a connection stands; `write` works from then on.
        data: gets the agent's bytes.
        lost: called when a connection that stood is gone; not after `close`.
        slow: called with True while the agent does not take what was written, with False when it does again.
    """

    transport: Any = None
    takes_views = True  # the decoder keeps nothing of what it is fed

    def __init__(
        self,
        reactor: Any,
        path: str,
        *,
        up: Callable[[], None],
        data: Callable[[bytes], None],
        lost: Callable[[], None],
        slow: Callable[[bool], None],
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._up = up
        self._data = data
        self._lost = lost
        self._slow = slow
        self._pause = 0.0
        self._timer: Any = None
        self.is_up = False
        self.closed = False

    def want(self) -> None:
        """See to it that a connection comes up. Idempotent; `give_up` takes it back."""
        if not self.closed and not self.is_up and self._timer is None:
            self._timer = self._reactor.callLater(self._pause, self._dial)

    def give_up(self) -> None:
        """Nobody needs the agent now: stop trying."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _dial(self) -> None:
        self._timer = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        # A unix socket connects at once or fails at once (EAGAIN: the agent's backlog is full).
        if sock.connect_ex(self._path) != 0:
            sock.close()
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, self._pause * GROWTH))
            self.want()
            return
        self.is_up = True
        Pump(self._reactor, sock).begin(self)

    def write(self, data: bytes) -> None:
        """Send to the agent."""
        self.transport.write(data)

    def read(self, yes: bool) -> None:
        """Take bytes from the agent, or leave them in the socket for now."""
        if self.is_up:
            if yes:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def close(self) -> None:
        """End it for good. Idempotent."""
        self.closed = True
        self.give_up()
        if self.is_up:
            self.transport.abortConnection()

    # -- Twisted's side

    def connectionMade(self) -> None:
        """The socket is connected."""
        self.transport.registerProducer(self, True)
        self._up()

    def dataReceived(self, data: bytes) -> None:
        """Bytes of answers."""
        self._pause = 0.0  # an agent that answers is alive: the next dial need not wait
        if not self.closed:
            self._data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The agent, or we, ended it."""
        self.is_up = False
        self._pause = max(FIRST_PAUSE, self._pause)
        if not self.closed:
            self._lost()

    def pauseProducing(self) -> None:
        """The agent does not read."""
        self._slow(True)

    def resumeProducing(self) -> None:
        """The agent reads again."""
        self._slow(False)

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` follows."""
