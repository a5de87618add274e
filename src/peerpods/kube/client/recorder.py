"""Tells the cluster what happened, by events.k8s.io; never in the way of who has something to tell."""

from __future__ import annotations

import random
import time
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.python.failure import Failure

from peerpods.kube.client import metrics
from peerpods.kube.client.api import KubeApi, PatchKind
from peerpods.kube.client.backoff import Backoff
from peerpods.kube.client.errors import ApiError
from peerpods.kube.client.eventlog import Entry, EventLog
from peerpods.kube.client.pause import sleep
from peerpods.kube.objects.resources import EVENTS
from peerpods.obs.log import get_logger

_log = get_logger("kube")


class EventRecorder:
    """Records events; sends them one after another in the background, and keeps them while the server is away."""

    def __init__(self, reactor: Any, kube: KubeApi, *, component: str, instance: str) -> None:
        """Args:
        component: reportingController, such as "confidentialcontainers.org/peerpods-adaptor".
        instance: reportingInstance: which of them, such as the node's or the pod's name.
        """
        self._reactor = reactor
        self._kube = kube
        self._log = EventLog(component, instance)
        self._backoff = Backoff(0.5, 30.0, random.random)
        self._sender: Deferred[None] | None = None
        self._nap: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._stopped = False
        self._hurry = False
        self._complaint = ""
        self._dropped = 0

    def __len__(self) -> int:
        """Events that are still to be sent."""
        return len(self._log) + (self._sender is not None and not self._sender.called)

    def event(
        self,
        regarding: dict[str, Any],
        type: str,
        reason: str,
        note: str,
        action: str = "",
        related: dict[str, Any] | None = None,
    ) -> None:
        """Tell of something that happened to `regarding`, an object or a reference to one. Never raises or blocks.

        Args:
            type: "Normal" or "Warning".
            reason: one CamelCase word, at most 128 bytes; the same for the same kind of fact.
            note: a sentence for people; cut to 1,024 bytes.
            action: what was done or tried; `reason` if empty.
            related: a second object.
        """
        if self._stopped:
            return
        try:
            now, wall = self._reactor.seconds(), time.time()
            made = self._log.new_event(regarding, type, reason, note, action, related, wall)
            result = self._log.add(made, now, wall)
        except (KeyError, TypeError, AttributeError) as error:
            _log.error("event_malformed", reason=reason, error=repr(error))
            return
        if result != "queued":
            metrics.EVENTS_SENT.labels(result).inc()
        self._say_dropped()
        self._wake()

    async def flush(self, timeout: float = 10.0) -> None:
        """Wait until all is sent, counts of series too, at most `timeout` seconds."""
        self._hurry = True
        try:
            self._log.hurry()
            self._wake()
            if self._sender is None or self._sender.called:
                return
            done: Deferred[None] = Deferred()
            self._waiting.append(done)
            done.addTimeout(timeout, self._reactor)
            try:
                await done
            except (TimeoutError, CancelledError):
                _log.warning("events_not_sent", waiting=len(self))
        finally:
            self._hurry = False

    def stop(self) -> None:
        """Send no more, now; call `flush` before to lose nothing. Idempotent."""
        self._stopped = True
        if self._sender is not None and not self._sender.called:
            self._sender.cancel()

    # -- the sender

    def _wake(self) -> None:
        if self._stopped:
            return
        if self._sender is None or self._sender.called:
            if len(self._log):
                self._sender = Deferred.fromCoroutine(self._send_all())
                self._sender.addBoth(self._ended)
        elif self._nap is not None and not self._nap.called:
            self._nap.callback(None)

    def _ended(self, result: Any) -> None:
        if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
            _log.error("event_sender_broke", error=result.getTraceback())
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    async def _send_all(self) -> None:
        # In a turn of its own: whoever records an event is not held up by the making of a request.
        await sleep(self._reactor, 0)
        while True:
            entry, wait = self._log.next(self._reactor.seconds())
            if entry is None:
                if wait is None:
                    return
                await self._rest(wait)
                continue
            try:
                await self._send(entry)
            except ApiError as error:
                if not (error.passing or error.unauthorized):
                    self._give_up(entry, error)
                    continue
                self._log.again(entry)
                self._complain(error)
                delay = self._backoff.next()
                await self._rest(delay if error.retry_after is None else max(delay, error.retry_after), deaf=True)
            else:
                self._complaint = ""
                self._backoff.reset()

    async def _rest(self, seconds: float, *, deaf: bool = False) -> None:
        """Wait; a new event ends the wait unless the server is away (`deaf`)."""
        if deaf:
            await sleep(self._reactor, seconds)
            return
        self._nap = Deferred()
        timer = self._reactor.callLater(seconds, self._nap.callback, None)
        try:
            await self._nap
        finally:
            self._nap = None
            if timer.active():
                timer.cancel()

    async def _send(self, entry: Entry) -> None:
        count = entry.count
        if not entry.told:
            await self._create(entry)
            self._log.sent(entry, 1, self._reactor.seconds())
            metrics.EVENTS_SENT.labels("sent").inc()
            if self._hurry:
                self._log.hurry()
            return
        if count <= entry.told:
            return
        try:
            await self._kube.patch(EVENTS, entry.name, entry.patch(), entry.namespace, kind=PatchKind.MERGE)
        except ApiError as error:
            if not error.not_found:
                raise
            # Events live an hour or so on the server.
            self._log.expired(entry)
            return
        self._log.sent(entry, count, self._reactor.seconds())

    async def _create(self, entry: Entry) -> None:
        try:
            await self._kube.create(EVENTS, entry.body)
        except ApiError as error:
            # Ours, from a try whose answer was lost: the names are random.
            if not error.already_exists:
                raise

    # -- words

    def _give_up(self, entry: Entry, error: ApiError) -> None:
        self._log.forget(entry)
        metrics.EVENTS_SENT.labels("refused").inc()
        fields = {"reason": entry.body["reason"], "about": entry.body["regarding"].get("name"), "error": str(error)}
        if error.namespace_terminating or error.not_found:
            _log.info("event_not_sent", **fields)
        elif self._complaint != error.reason:
            self._complaint = error.reason
            _log.warning("event_refused", **fields)

    def _complain(self, error: ApiError) -> None:
        if self._complaint != error.reason:
            self._complaint = error.reason
            _log.warning("events_wait", waiting=len(self._log), error=str(error))

    def _say_dropped(self) -> None:
        """At 1, 2, 4, 8, ... events that were dropped."""
        dropped = self._log.dropped
        if dropped and dropped >= 2 * self._dropped:
            self._dropped = dropped
            _log.warning("events_dropped", dropped=dropped, reason="too many events, or the server is away for long")
