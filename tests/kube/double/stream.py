"""The answer to a watch: events as lines, until time is up, the client goes, or a test cuts it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.web.server import Request

from tests.kube.double.kinds import Kind
from tests.kube.double.knobs import Knobs
from tests.kube.double.selectors import Test
from tests.kube.double.store import Json, Store
from tests.kube.double.watching import Watch, line

BURST = 2.0  # seconds before the end when a last bookmark is sent


def cut(request: Any) -> None:
    """Cut the connection of a request."""
    request.channel.transport.abortConnection()


class Stream:
    """One open watch."""

    def __init__(self, reactor: Any, request: Request, knobs: Knobs) -> None:
        self._reactor = reactor
        self._request = request
        self._knobs = knobs
        self._held: list[bytes] = []
        self._ended: Deferred[None] = Deferred()
        self._watch: Watch | None = None

    def watch(self, store: Store, kind: Kind, namespace: str | None, test: Test) -> Watch:
        """A watch that writes here."""
        return Watch(store, kind, namespace, test, self._send)

    def _send(self, event: Json) -> None:
        self._held.append(line(event))
        self.flush()

    def flush(self) -> None:
        """Write what is held back, unless the double is paused."""
        if not self._knobs.gate.closed:
            held, self._held = self._held, []
            for each in held:
                self._request.write(each)

    def bookmark(self) -> None:
        """Send a bookmark now, if anything changed."""
        if self._watch:
            self._watch.bookmark()

    def end(self) -> None:
        """End as at the end of its time."""
        if not self._ended.called:
            self._ended.callback(None)

    def cut(self) -> None:
        """Cut the connection."""
        cut(self._request)

    async def run(self, watch: Watch, version: str, seconds: float, *, bookmarks: bool) -> None:
        """Serve until the end; cancelled when the client goes."""
        self._request.setHeader("Content-Type", "application/json")
        self._request.write(b"")
        if not watch.start(version):
            self._request.finish()
            return
        timers = [self._reactor.callLater(seconds, self.end)]
        every = LoopingCall(watch.bookmark)
        every.clock = self._reactor
        if bookmarks:
            self._watch = watch
            timers.append(self._reactor.callLater(max(seconds - BURST, 0), watch.bookmark))
            every.start(self._knobs.bookmark_every, now=False)
        try:
            await self._ended
            self._request.finish()
        finally:
            watch.stop()
            if every.running:
                every.stop()
            for timer in timers:
                if timer.active():
                    timer.cancel()
