"""From an address to a link that carries calls: dial, shake hands, hear the agent, or say why not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred

from peerpods.errors import LinkError, LinkFailure
from peerpods.relay import dial
from peerpods.relay.link import Link, connect_link
from peerpods.tls.pump import failure
from peerpods.ttrpc import Request, decode_response

if TYPE_CHECKING:
    from peerpods.relay.pod import Pod

AGENT_PAUSE = 0.05
"""Seconds between two questions to an agent that does not answer: it may start later than the forwarder."""
AGENT_PAUSE_LAST = 0.5
AGENT_TIMEOUT = 5.0
"""Seconds for one answer of the agent."""
_CHECK = ("grpc.Health", "Check")


class BringUp:
    """One attempt at a link, made of many tries, with a bound for the whole. Tells the pod how it ended."""

    def __init__(self, pod: Pod, seconds: float) -> None:
        self._pod = pod
        self._reactor = pod.reactor
        now = self._reactor.seconds()
        self._tries = dial.Tries(now, now + seconds)
        self._joined: list[Deferred[None]] = []
        self._last = LinkError("the link was not up in time", kind=LinkFailure.TIMEOUT, sandbox=pod.sandbox)
        self._dialling: Deferred[Link] | None = None
        self._link: Link | None = None
        self._asked = 0
        self._questions = 0
        self._next: Any = None
        self._over = False
        self._bound = self._reactor.callLater(seconds, self._expired)

    def start(self) -> None:
        """Make the first try."""
        self._dial()

    # -- who waits

    def join(self, seconds: float) -> Deferred[None]:
        """Wait for the end, at most so long. A longer wait than the first one's makes the bound longer."""
        until = self._reactor.seconds() + seconds
        if until > self._tries.until and not self._over:
            self._tries.until = until
            self._bound.reset(seconds)
        joined: Deferred[None] = Deferred()
        self._joined.append(joined)
        timer = self._reactor.callLater(seconds, self._leave, joined)

        def done(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if joined in self._joined:
                self._joined.remove(joined)
            return result

        return joined.addBoth(done)

    def _leave(self, joined: Deferred[None]) -> None:
        if not joined.called:
            joined.errback(failure(self._last))

    def stop(self, error: LinkError) -> None:
        """Give up now, for this reason. The pod is not told: it is who asks."""
        self._end()
        self._tell(error)

    # -- dialling

    def _dial(self) -> None:
        now = self._reactor.seconds()
        elapsed = now - self._tries.started
        left = max(0.001, self._tries.until - now)
        pod = self._pod
        self._dialling = connect_link(
            self._reactor,
            pod,
            pod.host,
            pod.port,
            pod.context,
            pod.server_name,
            timeout=min(pod.dial_timeout, left),
            connect_timeout=min(dial.connect_timeout(elapsed, pod.dial_timeout), left),
        )
        self._dialling.addCallbacks(self._connected, self._refused)

    def _connected(self, link: Link) -> None:
        self._dialling = None
        if self._over:
            link.close()
            return
        if not link.transport.connected:
            # Lost before we came to look: `lost` has been told already.
            return
        self._link = link
        self._questions = 0
        self._ask()

    def _refused(self, reason: Any) -> None:
        self._dialling = None
        if self._over or reason.check(CancelledError):
            return
        error = reason.value
        if not isinstance(error, LinkError):
            error = LinkError(f"the link failed: {error}", kind=LinkFailure.TLS)
        self._failed(error)

    def lost(self, error: LinkError) -> None:
        """The link was lost before the agent answered."""
        self._link = None
        self._asked = 0
        if error.kind is LinkFailure.CLOSED:
            error = LinkError(
                "the forwarder closed the link before the agent answered",
                kind=LinkFailure.AGENT,
                remedy="see the VM's console",
            )
        self._failed(error)

    def _failed(self, error: LinkError) -> None:
        if self._over:
            return
        self._last = error
        self._cancel_next()
        draw = random.random()  # noqa: S311 - spreads load, guards nothing
        pause = self._tries.after(error.kind, self._reactor.seconds(), draw)
        if pause is None:
            self._give_up()
        else:
            self._next = self._reactor.callLater(pause, self._dial)

    # -- asking the agent

    def _ask(self) -> None:
        """Health/Check through the link: TLS 1.3 proves nothing to a client before the peer's first word."""
        assert self._link is not None
        left = self._tries.until - self._reactor.seconds()
        timeout = max(0.001, min(AGENT_TIMEOUT, left))
        body = Request(*_CHECK, timeout_nano=int(timeout * 1e9)).encode()
        self._asked, frame = self._pod.mux.own_call(body)
        self._questions += 1
        self._next = self._reactor.callLater(timeout, self._no_answer, timeout)
        self._link.send([frame])

    def answered(self, link_id: int, body: bytes) -> None:
        """The pod heard an answer to a call of the relay."""
        if link_id != self._asked or self._link is None or self._over:
            return
        self._asked = 0
        self._cancel_next()
        try:
            response = decode_response(body)
        except ValueError:
            self._unwell("its answer makes no sense")
            return
        if response.ok:
            link = self._link
            self._end(keep=True)
            self._pod.link_came_up(link)
            self._tell(None)
        else:
            assert response.status is not None
            self._unwell(response.status.message[:300] or f"code {response.status.code}")

    def _no_answer(self, timeout: float) -> None:
        self._pod.mux.forget_own(self._asked)
        self._asked = 0
        self._unwell(f"no answer to Health/Check within {timeout:g} s")

    def _unwell(self, what: str) -> None:
        self._last = LinkError(
            f"the VM's forwarder answers, its agent does not: {what}",
            kind=LinkFailure.AGENT,
            sandbox=self._pod.sandbox,
            remedy="see the VM's console",
        )
        pause = min(AGENT_PAUSE_LAST, AGENT_PAUSE * self._questions)
        self._next = self._reactor.callLater(pause, self._ask)

    # -- the end

    def _expired(self) -> None:
        self._give_up()

    def _give_up(self) -> None:
        error = self._last
        self._end()
        self._pod.bring_up_ended()
        self._pod.mux.link_down()
        self._pod.log.warning("link_failed", failure=error.kind.value, reason=str(error))
        self._tell(error)

    def _end(self, *, keep: bool = False) -> None:
        self._over = True
        self._cancel_next()
        if self._bound.active():
            self._bound.cancel()
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()
        link, self._link = self._link, None
        if link is not None and not keep:
            link.close()

    def _cancel_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _tell(self, error: LinkError | None) -> None:
        for joined in list(self._joined):
            if joined.called:
                continue
            if error is None:
                joined.callback(None)
            else:
                joined.errback(failure(error))
