"""One pod in the relay: its socket, its link, and what goes between. The shell around `Mux`."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from peerpods.errors import LinkError, LinkFailure
from peerpods.obs.log import get_logger
from peerpods.pki.contexts import client_context
from peerpods.protocols import relay_pb2
from peerpods.relay.bringup import BringUp
from peerpods.relay.link import Link
from peerpods.relay.mux import Mux, Name, Out
from peerpods.relay.shim import Shim, bind_agent_socket, remove_agent_socket, start_shim
from peerpods.tls.transport import SocketPort
from peerpods.ttrpc import Frame, Oversize

MAX_SHIMS = 64
"""Connections on one agent socket; the shim opens one, runtime-rs two."""
Event = relay_pb2.WatchEvent
_log = get_logger("relay")


@attrs.frozen(kw_only=True)
class Facts:
    """What Open says of a sandbox. Equal facts make Open idempotent. In memory only, and only until the TLS context
    is made from it."""

    server_name: str
    server_ca: str
    client_cert: str
    client_key: str = attrs.field(repr=False)

    def digest(self) -> bytes:
        """What tells these facts from others, without holding them."""
        return hashlib.sha256("\0".join(attrs.astuple(self)).encode()).digest()


class Pod:
    """A sandbox that is open. Reactor thread only."""

    def __init__(
        self,
        reactor: Any,
        sandbox: str,
        path: str,
        facts: Facts,
        *,
        dial_timeout: float,
        publish: Callable[[Event], None],
        count: Callable[[Name, int], None] | None = None,
    ) -> None:
        """Raises ConfigError when the facts make no TLS context."""
        self.reactor = reactor
        self.sandbox = sandbox
        self.path = path
        self.server_name = facts.server_name
        self.facts_digest = facts.digest()
        self.context: ssl.SSLContext = client_context(facts.server_ca, facts.client_cert, facts.client_key)
        self.dial_timeout = dial_timeout
        self.mux = Mux(counting=count is not None)
        self.host = ""
        self.port = 0
        self.was_active = False
        self.links = 0
        """Links that came up so far."""
        self.log = _log.bind(sandbox=sandbox)
        self._publish = publish
        self._count = count
        self._shims: dict[int, Shim] = {}
        self._by_caller: dict[Any, Shim] = {}
        self._full: set[int] = set()
        self._link: Link | None = None
        self._link_full = False
        self._bring_up: BringUp | None = None
        self._port: SocketPort | None = None
        self._expiry: Any = None
        self._idle_since: float | None = None

    # -- life

    def open(self) -> None:
        """Listen. Raises LocalFailure."""
        sock = bind_agent_socket(self.path, self.sandbox)
        self._port = SocketPort(self.reactor, sock, self._accepted)
        self._port.startListening()

    def close(self) -> None:
        """End everything: waiting Links fail with CLOSED, shim connections close, the socket file goes."""
        if self._port is None:
            return
        sock = self._port.socket
        self._port.stopListening()
        self._port = None
        remove_agent_socket(self.path, sock)
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        error = LinkError("the sandbox was closed", kind=LinkFailure.CLOSED, sandbox=self.sandbox)
        self._drop_link(error)
        self._close_shims()

    @property
    def up(self) -> bool:
        """Whether the VM's agent has answered on a link that still stands."""
        return self.mux.up

    # -- the link

    def link(self, host: str, port: int, seconds: float) -> Deferred[None]:
        """Bring the link up; a second call for the same address joins the first.

        Fails with LinkError of the last try's kind. Cancelling it leaves the attempt to the others and to its bound.
        """
        if self._bring_up is not None and (self.host, self.port) != (host, port):
            moved = LinkError("another Link call names another address", kind=LinkFailure.CLOSED)
            self._drop_link(moved)
        elif self.up and (self.host, self.port) != (host, port):
            self.link_lost(self._link, LinkError("Link names another address", kind=LinkFailure.CLOSED))
        self.host, self.port = host, port
        if self.up:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        if self._bring_up is not None:
            return self._bring_up.join(seconds)
        # In place before the first try: a try may fail at once and tell us so.
        self._bring_up = bring_up = BringUp(self, seconds)
        joined = bring_up.join(seconds)
        bring_up.start()
        return joined

    def link_came_up(self, link: Link) -> None:
        """BringUp has heard the agent through this link: it carries calls from now on."""
        self._link = link
        self._bring_up = None
        self.links += 1
        out = self.mux.link_up(self.reactor.seconds())
        self.log.info("link_up", host=self.host, port=self.port)
        self._publish(Event(kind=Event.LINK_UP, sandbox=self.sandbox))
        if self._full:
            link.pause()
        self._carry_out(out)

    def bring_up_ended(self) -> None:
        """BringUp has given up."""
        self._bring_up = None

    def link_frames(self, frames: list[Frame | Oversize]) -> None:
        """From the link."""
        out = self.mux.from_link(frames)
        if out.own and self._bring_up is not None:
            for link_id, body in out.own:
                self._bring_up.answered(link_id, body)
        self._carry_out(out)

    def link_lost(self, link: Link | None, error: LinkError) -> None:
        """From the link: pending calls cannot be answered any more, so the shims' connections end."""
        if self._bring_up is not None:
            self.mux.link_down()
            self._bring_up.lost(error)
            return
        if link is None or link is not self._link:
            return
        self.log.warning("link_lost", reason=str(error))
        self._drop_link(error)
        self._close_shims()

    def link_full(self, full: bool) -> None:
        """From the link: the VM does not read (or does again), so the shims must wait (or may go on)."""
        self._link_full = full
        for shim in self._shims.values():
            self._regulate(shim)

    def _drop_link(self, error: LinkError) -> None:
        """Forget the link and any attempt at one."""
        bring_up, self._bring_up = self._bring_up, None
        if bring_up is not None:
            bring_up.stop(error)
        link, self._link = self._link, None
        was_up = self.mux.up
        self.mux.link_down()
        if self._link_full:
            self.link_full(False)
        if link is not None:
            link.close()
        if was_up:
            kind = error.kind.value
            self._publish(Event(kind=Event.LINK_DOWN, sandbox=self.sandbox, failure=kind, message=str(error)))

    # -- the shims

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._shims) >= MAX_SHIMS:
            self.log.warning("shim_refused", reason="too many connections")
            sock.close()
            return
        shim = start_shim(self.reactor, sock, self)
        self._shims[shim.id] = shim
        self._by_caller[shim.caller] = shim
        self._regulate(shim)
        self._publish(Event(kind=Event.SHIM_CONNECTED, sandbox=self.sandbox, connection=shim.id))

    def shim_frames(self, shim: Shim, frames: list[Frame | Oversize]) -> None:
        """From a shim."""
        out = self.mux.from_shim(shim.caller, frames, self.reactor.seconds())
        self._carry_out(out)
        if self.mux.waiting:
            self._set_expiry()

    def shim_gone(self, shim: Shim) -> None:
        """From a shim: only its calls are abandoned."""
        del self._shims[shim.id]
        del self._by_caller[shim.caller]
        self.mux.gone(shim.caller)
        self.shim_full(shim, False)
        if not any(other.caller.completed for other in self._shims.values()):
            self._idle_since = self.reactor.seconds()
        self._publish(
            Event(
                kind=Event.SHIM_GONE,
                sandbox=self.sandbox,
                connection=shim.id,
                active=shim.caller.completed > 0,
                by_relay=shim.by_relay,
            )
        )

    def shim_full(self, shim: Shim, full: bool) -> None:
        """From a shim that does not read: the VM and the shim's own calls must wait. Other pods do not."""
        had = bool(self._full)
        if full:
            self._full.add(shim.id)
        else:
            self._full.discard(shim.id)
        self._regulate(shim)
        if self._link is not None and had != bool(self._full):
            if self._full:
                self._link.pause()
            else:
                self._link.resume()

    def _regulate(self, shim: Shim) -> None:
        """Take calls of a shim only while the VM takes them, and while the shim takes its answers."""
        if self._link_full or shim.id in self._full:
            shim.transport.pauseProducing()
        else:
            shim.transport.resumeProducing()

    def _close_shims(self) -> None:
        for shim in list(self._shims.values()):
            shim.close()

    # -- machinery

    def _carry_out(self, out: Out) -> None:
        if out.link and self._link is not None:
            self._link.send(out.link)
        for caller, pieces in out.shims.items():
            shim = self._by_caller.get(caller)
            if shim is not None:
                shim.transport.writeSequence(pieces)
        if self._count is not None:
            for name, code in out.done:
                self._count(name, code)
        for caller in out.first:
            self.was_active = True
            self._publish(Event(kind=Event.SHIM_ACTIVE, sandbox=self.sandbox, connection=caller.id))

    def _set_expiry(self) -> None:
        """One timer for the earliest deadline of the waiting calls."""
        due = self.mux.next_deadline()
        if due is None:
            return
        delay = max(0.0, due - self.reactor.seconds())
        if self._expiry is None or not self._expiry.active():
            self._expiry = self.reactor.callLater(delay, self._expire)
        elif self._expiry.getTime() > due:
            self._expiry.reset(delay)

    def _expire(self) -> None:
        self._carry_out(self.mux.expire(self.reactor.seconds()))
        self._set_expiry()

    def describe(self) -> relay_pb2.SandboxLink:
        """For List."""
        active = sum(1 for shim in self._shims.values() if shim.caller.completed)
        idle = 0.0
        if self.was_active and not active and self._idle_since is not None:
            idle = self.reactor.seconds() - self._idle_since
        return relay_pb2.SandboxLink(
            sandbox=self.sandbox,
            agent_socket=self.path,
            up=self.up,
            host=self.host,
            port=self.port,
            connections=len(self._shims),
            active_connections=active,
            was_active=self.was_active,
            idle_nano=int(idle * 1e9),
        )
