"""Requests under credentials that change: renewed each minute, and at once when the server refuses them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

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
LOADING = 45.0
"""Seconds the reading of credentials may take: an exec plugin asks a cloud."""
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
        self._source = _Alone(source)
        self._agent = user_agent
        self._gate = DeferredSemaphore(IN_FLIGHT)
        self._wire = Wire(reactor, access, self._gate)
        self._loaded = reactor.seconds()
        self._forced = -FORCE
        self._renewal: Deferred[Any] | None = None
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
                if not renewed and self._stale(ask, error):
                    renewed = True
                    tries -= 1
                    if await self._renewed(used, max(until - self._reactor.seconds(), 0.001)):
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
            if renewed or not self._stale(ask, error) or not await self._renewed(used, timeout):
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
    def _stale(ask: Ask, error: ApiError) -> bool:
        """Whether other credentials may help; a write that may have been served is not sent again."""
        refused = error.status == 0 and error.reason == TLS and (ask.method == "GET" or not error.sent)
        return error.unauthorized or refused

    def _freshen(self) -> None:
        """Renew in the background when it is time; the request at hand goes with what there is."""
        if self._reactor.seconds() - self._loaded >= RENEW and not self._closed:
            self._renew(force=False)

    async def _renewed(self, stale: Access, patience: float) -> bool:
        """After a refusal: wait for newer credentials than `stale`; whether there are some."""
        if stale is not self._wire.access:
            return True
        if self._renewal is None:
            if self._reactor.seconds() - self._forced < FORCE:
                return False
            self._forced = self._reactor.seconds()
            self._renew(force=True)
        if self._renewal is None:
            return False
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        waiter.addTimeout(patience, self._reactor)
        try:
            await waiter
        except TimeoutError:
            return False
        return stale is not self._wire.access

    def _renew(self, *, force: bool) -> None:
        """Read the credentials in a thread, one at a time; whoever waits for it may give up without harm to it."""
        if self._renewal is None and not self._source.busy:
            self._renewal = load(self._reactor, self._source, self._wire.access, force)
            self._renewal.addCallbacks(self._take, self._unreadable)
            self._renewal.addBoth(self._tell_waiting)

    def _unreadable(self, failure: Failure) -> None:
        _log.error("credentials_unreadable", where=self._source.where, error=failure.getErrorMessage())

    def _tell_waiting(self, _: object) -> None:
        self._loaded = self._reactor.seconds()
        self._renewal = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def _take(self, access: Access) -> None:
        before = self._wire.access
        if access == before or self._closed:
            return
        way = (access.url, access.material, access.server_name)
        if way == (before.url, before.material, before.server_name):
            self._wire.access = access
        else:
            # Requests under way end on the old connections; new ones open new.
            old, self._wire = self._wire, Wire(self._reactor, access, self._gate)
            self.url = access.url
            old.retire()
        _log.info("credentials_renewed", where=self._source.where)


class _Alone:
    """A source of which no more than one thread reads: one that hangs must not eat up the threads of the process."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.busy = False
        """Whether a thread reads, also one that nobody waits for any more."""

    @property
    def where(self) -> str:
        """As the source's own."""
        return self._source.where

    def _thd_load(self, before: Access | None, force: bool) -> Access:
        self.busy = True
        try:
            return self._source._thd_load(before, force)
        finally:
            self.busy = False


def load(reactor: Any, source: Source, before: Access | None, force: bool) -> Deferred[Access]:
    """The credentials of now, read in a thread; ConfigError when they cannot be read, or not in time."""

    def late(_: object, seconds: float) -> Access:
        # The thread goes on for as long as it likes; its result is dropped.
        raise ConfigError(
            f"{source.where}: not read within {seconds:g} s", remedy="does an exec plugin wait for input?"
        )

    work: Deferred[Access] = deferToThread(source._thd_load, before, force)
    return work.addTimeout(LOADING, reactor, onTimeoutCancel=late)


def malformed(ask: Ask, url: str, error: Exception) -> ApiError:
    """The error of an answer that is not the JSON expected."""
    return link_error(ask.action, url, MALFORMED, f"the answer is not understood: {error}", sent=True)
