"""One TLS connection from a relay: the shell around `Calls`, with its connection to the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from peerpods.forwarder import effects
from peerpods.forwarder.agentline import AgentLine
from peerpods.forwarder.calls import Calls
from peerpods.forwarder.guard import Guard, Pass
from peerpods.obs.log import get_logger
from peerpods.ttrpc.status import Code, Status

HEADER_TIME = 10.0  # seconds from a header's first byte to its last; security.md 6, duty 3
AGENT_WAIT = 150.0  # seconds a call without a deadline waits for the agent; upstream.md 3.3
SWEEP = 1.0  # seconds between looks at deadlines
LINGER = 120.0  # seconds that calls which change the sandbox may still take after their caller has gone
MAX_WAITING = 8 << 20  # bytes of calls kept while the agent is away; then the client is not read
MAX_REFUSAL_LINES = 20  # log lines for refusals, one connection
_log = get_logger("forwarder")


class Link(Protocol):
    """One client.

    Args:
        guard: shared by all links of the VM.
        agent_path: of the agent's socket.
        changed: called after the guard's state may have changed.
        ended: called with this link when it is gone, its agent connection too.
        root: where the VM's files are, for tests.
    """

    transport: Any = None
    takes_views = True  # the decoder keeps nothing of what it is fed

    def __init__(
        self,
        reactor: Any,
        guard: Guard,
        agent_path: str,
        *,
        changed: Callable[[], None],
        ended: Callable[[Link], None],
        root: str = "/",
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        self._ended = ended
        self._root = root
        self._refusals = 0
        self._header_timer: Any = None
        self._sweeper: Any = None
        self._linger: Any = None
        self._holds: set[str] = set()
        self.lost = False
        self.calls = Calls(guard, self._note_refusal, self._act)
        self.agent = AgentLine(
            reactor,
            agent_path,
            up=self._agent_up,
            data=self._agent_data,
            lost=self._agent_lost,
            slow=lambda slow: self._hold("agent", slow),
        )

    # -- the client's side

    def connectionMade(self) -> None:
        """The handshake is complete: the peer has the certificate we were told to expect."""
        _log.info("connected", peer=str(getattr(self.transport.getPeer(), "host", "")))
        self.transport.registerProducer(self, True)
        self._sweeper = self._reactor.callLater(SWEEP, self._sweep)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of calls."""
        self.calls.client_data(data, self._reactor.seconds())
        if not self.calls.in_header:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif self._header_timer is None:
            self._header_timer = self._reactor.callLater(HEADER_TIME, self._header_expired)
        self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone. Calls that change the sandbox may end first, so that the guard learns how."""
        self.lost = True
        for timer in (self._header_timer, self._sweeper):
            if timer is not None and timer.active():
                timer.cancel()
        self.calls.client_lost()
        _log.info("disconnected", refusals=self._refusals)
        self.agent.read(True)
        if self.agent.is_up and self.calls.unsettled:
            self._linger = self._reactor.callLater(LINGER, self._end)
        else:
            self._end()

    def pauseProducing(self) -> None:
        """The client does not read: neither ask for more answers, nor take more calls."""
        self.agent.read(False)
        self._hold("client", True)

    def resumeProducing(self) -> None:
        """The client reads again."""
        self.agent.read(True)
        self._hold("client", False)

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` follows."""

    def _hold(self, reason: str, yes: bool) -> None:
        held = bool(self._holds)
        (self._holds.add if yes else self._holds.discard)(reason)
        if self.lost or held == bool(self._holds):
            return
        if self._holds:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def _header_expired(self) -> None:
        self._header_timer = None
        if self._holds:  # it is we who do not read
            self._header_timer = self._reactor.callLater(HEADER_TIME, self._header_expired)
            return
        _log.warning("header_timeout")
        self.transport.abortConnection()

    # -- the agent's side

    def _agent_up(self) -> None:
        self.calls.agent_up()
        if "client" in self._holds:
            self.agent.read(False)
        self._advance()

    def _agent_data(self, data: bytes) -> None:
        self.calls.agent_data(data)
        self._flush()
        self._changed()
        if self.lost and not self.calls.unsettled:
            self._end()

    def _agent_lost(self) -> None:
        _log.warning("agent_lost", calls=self.calls.in_flight)
        self.calls.agent_lost("the agent in the VM closed its connection, the call may or may not have been done")
        self._hold("agent", False)
        self._changed()
        if self.lost:
            self._end()
        else:
            self._advance()

    def _advance(self) -> None:
        """Pass on what waits, or see to it that it can be."""
        if self.calls.waiting and not self.lost:
            if self.agent.is_up:
                self.calls.send(self._reactor.seconds())
            else:
                self.agent.want()
        self._hold("waiting", self.calls.waiting and self.calls.waiting_bytes > MAX_WAITING)
        self._flush()

    def _flush(self) -> None:
        calls = self.calls
        if calls.to_agent:
            data = b"".join(calls.to_agent)
            calls.to_agent.clear()
            self.agent.write(data)
        if calls.to_client:
            data = b"".join(calls.to_client)
            calls.to_client.clear()
            if not self.lost:
                self.transport.write(data)

    def _sweep(self) -> None:
        self._sweeper = self._reactor.callLater(SWEEP, self._sweep)
        self.calls.expire(self._reactor.seconds(), AGENT_WAIT, "the agent in the VM does not take connections")
        if not self.calls.waiting:
            self.agent.give_up()
        self._advance()

    def _end(self) -> None:
        """Both sides are over."""
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self._linger = None
        if not self.agent.closed:
            self.agent.close()
            self.calls.agent_lost("")
            self._changed()
            self._ended(self)

    def close(self) -> None:
        """End the link now: the service stops."""
        if not self.lost:
            self.transport.abortConnection()
        else:
            self._end()

    # -- what Calls asks for

    def _act(self, verdict: Pass) -> Status | None:
        if verdict.copy and not effects.on_real_folders(verdict.copy, self._root):
            return Status(Code.PERMISSION_DENIED, "CopyFile through something that is not a folder")
        for base, names in verdict.folders:
            effects.make_folders("/".join((base, *names)), self._root)
        return None

    def _note_refusal(self, name: str, status: Status) -> None:
        self._refusals += 1
        if self._refusals <= MAX_REFUSAL_LINES:
            _log.warning("refused", call=name, code=status.code)
