"""Requests under credentials that change: renewed each minute, and at once when the server refuses them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThread

from peerpods.errors import ConfigError
from peerpods.kube.client import codec, metrics
from peerpods.kube.client.access import Access, Source
from peerpods.kube.client.errors import MALFORMED, TIMEOUT, TLS, ApiError, link_error, status_error
from peerpods.kube.client.pause import sleep
from peerpods.kube.client.retry import next_try, parse_retry_after
from peerpods.kube.client.wire import IN_FLIGHT, Answer, Trouble, Wire
from peerpods.obs.log import get_logger

RENEW = 60.0
"""Seconds after which credentials are read again."""
FORCE = 5.0
"""Seconds that must lie between two renewals because the server refused them: an exec plugin costs something."""
_log = get_logger("kube")


class Ask:
    """One request, and how to speak of it."""

    __slots__ = ("action", "body", "content_type", "method", "resource", "right", "target", "verb")

    def __init__(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        resource: str,
        action: str,
        right: str,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content_type: str = "application/json",
    ) -> None:
        self.method = method
        self.target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        self.verb = verb
        self.resource = resource
        self.action = action
        self.right = right
        self.body = None if body is None else codec.encode(body)
        self.content_type = content_type

    def refused(self, answer: Answer) -> ApiError:
        """The error of an answer that is no success."""
        try:
            status = codec.decode(answer.body)
        except codec.DecodeError:
            status = {"message": answer.body[:300].decode("utf-8", "replace")}
        values = answer.headers.getRawHeaders("retry-after") or [""]
        return status_error(self.action, answer.status, status, parse_retry_after(values[0]), self.right)


class Session:
    """Sends requests, renews credentials, repeats what may be repeated."""

    def __init__(self, reactor: Any, source: Source, access: Access, user_agent: str) -> None:
        self._reactor = reactor
        self._source = source
        self._agent = user_agent
        self._gate = DeferredSemaphore(IN_FLIGHT)
        self._wire = Wire(reactor, access, self._gate)
        self._loaded = reactor.seconds()
        self._forced = -FORCE
        self._renewal: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._closed = False
        self.url = access.url

    async def send(self, ask: Ask, timeout: float) -> bytes:
        """The body of the answer. All tries together take at most `timeout` seconds. Raises ApiError."""
        until = self._reactor.seconds() + timeout
        tries = 0
        renewed = False
        while True:
            tries += 1
            self._freshen()
            left = until - self._reactor.seconds()
            wire, used = self._wire, self._wire.access
            try:
                return await self._once(wire, ask, max(left, 0.001))
            except ApiError as error:
                if not renewed and self._stale(error):
                    renewed = True
                    tries -= 1
                    if await self._renew(force=True, stale=used):
                        continue
                delay = next_try(ask.method, error, tries, random.random())  # noqa: S311
                if delay is None or self._reactor.seconds() + delay >= until or self._closed:
                    raise
            await sleep(self._reactor, delay)

    async def stream(self, ask: Ask, receive: Callable[[bytes], None], timeout: float) -> None:
        """A watch: pieces go to `receive` until the server ends it in order. Raises ApiError."""
        self._freshen()
        for renewed in (False, True):
            wire, used = self._wire, self._wire.access
            try:
                answer = await wire.stream(ask.target, self._headers(wire, ask), timeout, receive)
                error = ask.refused(answer) if answer is not None else None
            except Trouble as trouble:
                error = self._in_words(ask, trouble)
            self._count(ask, 200 if error is None else error.status)
            if error is None:
                return
            if renewed or not self._stale(error) or not await self._renew(force=True, stale=used):
                raise error

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self._closed = True
        await self._wire.close()

    # -- one try

    async def _once(self, wire: Wire, ask: Ask, timeout: float) -> bytes:
        if self._closed:
            raise link_error(ask.action, self.url, TIMEOUT, "the client is closed", sent=False)
        try:
            answer = await wire.exchange(ask.method, ask.target, self._headers(wire, ask), ask.body, timeout)
        except Trouble as trouble:
            self._count(ask, 0)
            raise self._in_words(ask, trouble) from None
        self._count(ask, answer.status)
        if 200 <= answer.status < 300:
            return answer.body
        raise ask.refused(answer)

    def _in_words(self, ask: Ask, trouble: Trouble) -> ApiError:
        return link_error(ask.action, self.url, trouble.reason, trouble.said, sent=trouble.sent)

    def _headers(self, wire: Wire, ask: Ask) -> list[tuple[str, str]]:
        headers = [("User-Agent", self._agent), ("Accept", "application/json")]
        if ask.body is not None:
            headers.append(("Content-Type", ask.content_type))
        if wire.access.authorization:
            headers.append(("Authorization", wire.access.authorization))
        return headers

    def _count(self, ask: Ask, status: int) -> None:
        metrics.REQUESTS.labels(ask.verb, ask.resource, str(status)).inc()

    # -- credentials

    @staticmethod
    def _stale(error: ApiError) -> bool:
        return error.unauthorized or (error.status == 0 and error.reason == TLS)

    def _freshen(self) -> None:
        """Renew in the background when it is time; the request at hand goes with what there is."""
        if self._reactor.seconds() - self._loaded >= RENEW and self._renewal is None and not self._closed:
            Deferred.fromCoroutine(self._renew(force=False, stale=None)).addErrback(
                lambda failure: _log.error("credentials_renewal_failed", error=failure.getErrorMessage())
            )

    async def _renew(self, *, force: bool, stale: Access | None) -> bool:
        """Read the credentials anew, one reader at a time; whether another try makes sense."""
        if stale is not None and stale is not self._wire.access:
            return True
        if self._renewal is not None:
            # Somebody reads already. His result may be from before the refusal; the next refusal then forces anew.
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            await waiter
            return stale is not self._wire.access
        if force:
            if self._reactor.seconds() - self._forced < FORCE:
                return False
            self._forced = self._reactor.seconds()
        before = self._wire.access
        self._renewal = Deferred()
        try:
            return self._take(before, await deferToThread(self._source._thd_load, before, force))
        except ConfigError as error:
            _log.error("credentials_unreadable", where=self._source.where, error=str(error))
            return False
        finally:
            self._loaded = self._reactor.seconds()
            self._renewal = None
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if not each.called:
                    each.callback(None)

    def _take(self, before: Access, access: Access) -> bool:
        if access == before or self._closed:
            return False
        same_way = (access.url, access.material, access.server_name) == (
            before.url,
            before.material,
            before.server_name,
        )
        if same_way:
            self._wire.access = access
        else:
            # Requests under way end on the old connections; new ones open new.
            old, self._wire = self._wire, Wire(self._reactor, access, self._gate)
            self.url = access.url
            old.retire()
        _log.info("credentials_renewed", where=self._source.where)
        return True


def malformed(ask: Ask, url: str, error: Exception) -> ApiError:
    """The error of an answer that is not the JSON expected."""
    return link_error(ask.action, url, MALFORMED, f"the answer is not understood: {error}", sent=True)
