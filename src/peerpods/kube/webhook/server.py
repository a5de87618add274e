"""The HTTPS port: POST of AdmissionReviews over connections that stay open, as the API server does it.

| request | answer |
|---|---|
| POST on the path, application/json | 200 and a review |
| body too large | 413, and the connection ends |
| body is no review | 400 |
| another content type, method, path | 415, 405, 404 |
| our own fault | 500: the webhook's failurePolicy decides about the pod |

All but the first carry a Kubernetes Status, whose message the API server shows to the user.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from io import BytesIO
from typing import Any, cast

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.web.http import HTTPChannel, Request

from peerpods.errors import Refused
from peerpods.kube.objects.names import WEBHOOK_PATH
from peerpods.kube.webhook import meters
from peerpods.kube.webhook.policy import Policy
from peerpods.kube.webhook.review import answer
from peerpods.obs.log import get_logger

MAX_BODY = 7 << 20
"""Bytes: the API server takes objects of up to 3 MiB, and a review may hold two."""
MAX_PENDING = 64 << 20
"""Bytes of all bodies under way: beyond that the largest one goes, so that a stranger cannot fill the memory."""
MAX_CONNECTIONS = 1000
"""Beyond that the one that was quiet the longest goes, so that strangers cannot lock the API server out."""
IDLE = 180
"""Seconds a quiet connection is kept: longer than the 90 s of the API server, so that it is the one to close."""
PROBE_HEADER = b"x-peerpods-probe"
_REASONS = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed", 415: "UnsupportedMediaType"}
_log = get_logger("webhook")


class ReviewRequest(Request):
    """One request."""

    channel: ReviewChannel
    _refused = False
    _size = 0

    def __init__(self, channel: ReviewChannel, queued: object = False) -> None:
        super().__init__(channel, queued, parsePOSTFormSubmission=False)

    def gotLength(self, length: int | None) -> None:
        """The headers are complete: a body that is too large is not even read."""
        self.content: Any = BytesIO()
        if length is not None and length > MAX_BODY:
            self._too_large()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        self._size += len(data)
        if self._refused:
            return
        self.channel.factory.holds(self.channel, self._size)
        if self._size > MAX_BODY:
            self._too_large()
        else:
            self.content.write(data)

    def _too_large(self) -> None:
        self._refused = True
        body = status(413, f"the review is larger than {MAX_BODY} bytes", "RequestEntityTooLarge")
        head = f"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        meters.REVIEWS.labels("refused").inc()
        cast(Any, self.channel.transport).write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.channel.loseConnection()

    def process(self) -> None:
        """The request is complete."""
        if self._refused:
            return
        self.channel.factory.served(self.channel)
        clock = self.channel.clock
        began = clock.seconds()
        code, body = self._answer()
        if self.channel.factory.draining:
            # We are leaving: this is the connection's last answer.
            self.setHeader(b"connection", b"close")
            self.channel.persistent = False
        if code == 405:
            self.setHeader(b"allow", b"POST")
        self.setResponseCode(code)
        self.setHeader(b"content-type", b"application/json")
        self.setHeader(b"content-length", str(len(body)).encode())
        self.write(body)
        meters.SECONDS.observe(clock.seconds() - began)
        self.finish()

    def _answer(self) -> tuple[int, bytes]:
        if self.path != WEBHOOK_PATH.encode():
            return self._refuse(404, f"there is nothing here; reviews go to {WEBHOOK_PATH}")
        if self.method != b"POST":
            return self._refuse(405, "reviews come by POST")
        kind = (self.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            return self._refuse(415, "reviews are application/json")
        try:
            given = answer(self.content.getvalue(), self.channel.policy)
        except Refused as error:
            return self._refuse(400, str(error))
        except Exception as error:
            meters.REVIEWS.labels("failed").inc()
            _log.error("review_failed", error=repr(error), trace=traceback.format_exc())
            message = f"the peer pods webhook failed on this pod ({type(error).__name__}); its log has more"
            return 500, status(500, message, "InternalError")
        if self.getHeader(PROBE_HEADER):
            meters.REVIEWS.labels("probe").inc()
            return 200, given.body
        meters.REVIEWS.labels(given.result).inc()
        for item in given.notices:
            meters.WARNINGS.labels(item.kind).inc()
        return 200, given.body

    def _refuse(self, code: int, message: str) -> tuple[int, bytes]:
        meters.REVIEWS.labels("refused").inc()
        return code, status(code, f"peer pods webhook: {message}", _REASONS[code])


def status(code: int, message: str, reason: str) -> bytes:
    """A Kubernetes Status, as JSON."""
    return msgspec.json.encode(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}
    )


class ReviewChannel(HTTPChannel):
    """One connection."""

    requestFactory: Any = ReviewRequest
    timeOut = IDLE

    def __init__(self, factory: ReviewFactory) -> None:
        super().__init__()
        self.factory = factory
        self.clock = factory.reactor
        self.callLater = factory.reactor.callLater  # type: ignore[method-assign]
        self.policy = factory.policy

    def connectionMade(self) -> None:
        """Counted until it ends."""
        self.factory.opened(self)
        super().connectionMade()

    def connectionLost(self, reason: Any = None) -> None:
        """It has ended."""
        super().connectionLost(reason)
        self.factory.lost(self)

    @property
    def busy(self) -> bool:
        """Whether a request has begun to arrive."""
        return bool(self.requests) or bool(self._buffer)


class ReviewFactory(Factory):
    """Makes the connections, and ends them in order."""

    def __init__(self, reactor: Any, policy: Policy) -> None:
        self.reactor = reactor
        self.policy = policy
        self.channels: dict[ReviewChannel, int] = {}
        """Each with the bytes of its body under way; the one served last is the last."""
        self.draining = False
        self._pending = 0
        self._empty: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> ReviewChannel:
        """A connection."""
        return ReviewChannel(self)

    def log(self, request: Any) -> None:
        """No access log."""

    def opened(self, channel: ReviewChannel) -> None:
        """A connection has been made."""
        while len(self.channels) >= MAX_CONNECTIONS:
            self._drop(next(iter(self.channels)), "too many connections")
        self.channels[channel] = 0

    def holds(self, channel: ReviewChannel, size: int) -> None:
        """A connection has so many bytes of a body under way."""
        if channel not in self.channels:
            return  # dropped in this very turn
        self._pending += size - self.channels[channel]
        self.channels[channel] = size
        if self._pending > MAX_PENDING:
            self._drop(max(self.channels, key=self.channels.__getitem__), "too much under way")

    def served(self, channel: ReviewChannel) -> None:
        """A whole request has come."""
        self._pending -= self.channels.pop(channel, 0)
        self.channels[channel] = 0

    def _drop(self, channel: ReviewChannel, why: str) -> None:
        _log.warning("connection_dropped", peer=str(channel.getPeer()), reason=why)
        self._pending -= self.channels.pop(channel)
        cast(Any, channel.transport).abortConnection()

    def lost(self, channel: ReviewChannel) -> None:
        """A connection has ended."""
        self._pending -= self.channels.pop(channel, 0)
        if not self.channels and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def drain(self) -> None:
        """From now on each answer ends its connection."""
        self.draining = True

    async def close(self, timeout: float) -> None:
        """End the idle connections now and the others after their answer, in at most `timeout` seconds."""
        self.drain()
        idle = [channel for channel in self.channels if not channel.busy]
        for channel in idle:
            channel.loseConnection()
        if not self.channels:
            return
        self._empty = Deferred()
        timers = [
            # A client that does not even notice that its idle connection ends has nothing to lose.
            self.reactor.callLater(min(1.0, timeout), self._abort, idle),
            self.reactor.callLater(timeout, self._abort, self.channels),
        ]
        await self._empty
        for timer in timers:
            if timer.active():
                timer.cancel()

    def _abort(self, channels: Iterable[ReviewChannel]) -> None:
        for channel in list(channels):
            if channel in self.channels:
                cast(Any, channel.transport).abortConnection()
