"""Leader election on a Lease."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.python.failure import Failure

from peerpods.kube.client import metrics
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.client.lease import Election, Terms
from peerpods.kube.client.pause import sleep, steady
from peerpods.kube.objects.resources import LEASES
from peerpods.obs.log import get_logger

RELEASE = 3.0
"""Seconds the release of the lease may take at the end."""
_log = get_logger("kube")


class LeaderElection:
    """Tries to lead until stopped; a lease that is lost is sought again.

    `on_started` and `on_stopped` are called in turn, each in the reactor thread; they may return a Deferred or be
    `async`. `on_stopped` is called at the latest `renew` seconds after the last successful renewal began, which is
    `duration - renew` seconds before another may lead.
    """

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        *,
        name: str,
        namespace: str,
        identity: str,
        on_started: Callable[[], Any],
        on_stopped: Callable[[], Any],
        duration: float = 15.0,
        renew: float = 10.0,
        retry: float = 2.0,
    ) -> None:
        """Args:
        identity: of this process alone: pod name and something random. Two with one identity both lead.
        duration, renew, retry: seconds; see `lease.Terms`.
        """
        self._reactor = reactor
        self._now = steady(reactor)
        self._kube = kube
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._terms = Terms(duration=duration, renew=renew, retry=retry)
        self._core = Election(name, namespace, identity, self._terms)
        self._run: Deferred[None] | None = None
        self._timer: Any = None
        self._leading = False
        self._stopped = False
        self._complaint = ""

    @property
    def leading(self) -> bool:
        """Whether this process leads right now, by the clock; ask before anything that only a leader may do."""
        return self._leading and self._core.leads(self._now())

    @property
    def holder(self) -> str:
        """Who leads, as far as we know; "" for nobody."""
        return self._core.holder

    def start(self) -> None:
        """Begin to seek the lease. Never fails: a server that is away, or a missing right, is logged and waited for."""
        self._run = Deferred.fromCoroutine(self._loop())
        self._run.addErrback(self._broke)

    async def stop(self) -> None:
        """Seek no more; when leading, call `on_stopped`, wait for it a little, and release the lease. Idempotent."""
        self._stopped = True
        run, self._run = self._run, None
        if run is not None and not run.called:
            run.cancel()
        if not self._leading:
            return
        ended = self._end("released")
        until = self._core.deadline
        patience = 0.0 if until is None else until - self._now()
        if not ended.called:
            ended.addTimeout(max(0.1, patience), self._reactor)
        try:
            await ended
        except (TimeoutError, CancelledError):
            _log.warning("leader_work_slow_to_end", lease=self._name)
        await self._release()
        self._core.step_down()

    # -- the loop

    async def _loop(self) -> None:
        while True:
            try:
                await self._bounded(self._round())
                self._complaint = ""
            except ApiError as error:
                self._complain(str(error))
            except TimeoutError:
                self._complain(f"no answer within {self._terms.renew / 2:g} s")
            except Exception:
                if self._stopped:
                    raise
                self._complain(traceback.format_exc())
            await sleep(self._reactor, self._pause())

    def _pause(self) -> float:
        if self._core.leads(self._now()):
            return self._terms.retry
        # Candidates that look at the same moments would always collide.
        return self._terms.retry * (1 + 0.2 * random.random())  # noqa: S311

    async def _bounded(self, coroutine: Any) -> None:
        work = Deferred.fromCoroutine(coroutine)
        work.addTimeout(self._terms.renew / 2, self._reactor)
        await work

    async def _round(self) -> None:
        """One look, and one write if it is our turn."""
        if not (self._leading and self._core.known):
            await self._look()
        for _ in range(2):
            began = self._now()
            wish = self._core.wish(began, time.time())
            if wish is None:
                return
            try:
                written = await self._write(wish)
            except ApiError as error:
                lost_race = error.conflict or error.already_exists
                if not (lost_race or (error.not_found and "resourceVersion" in wish["metadata"])):
                    raise  # also 404 for a new lease: there is no such namespace
                self._core.unsure()
                await self._look()
                continue
            self._core.wrote(written, began, self._now())
            self._lead()
            return

    async def _look(self) -> None:
        try:
            lease = await self._kube.get(LEASES, self._name, self._namespace)
        except ApiError as error:
            if not error.not_found:
                raise
            lease = None
        self._core.seen(lease, self._now())
        if self._leading and not self._core.leads(self._now()):
            self._lost("another one took the lease")

    async def _write(self, wish: dict[str, Any]) -> dict[str, Any]:
        if "resourceVersion" in wish["metadata"]:
            return await self._kube.replace(LEASES, wish)
        return await self._kube.create(LEASES, wish)

    # -- leading

    def _lead(self) -> None:
        until = self._core.deadline
        assert until is not None
        delay = max(0.0, until - self._now())
        if self._timer is not None and self._timer.active():
            self._timer.reset(delay)
        else:
            self._timer = self._reactor.callLater(delay, self._lost, "the lease could not be renewed in time")
        if self._leading or delay <= 0:
            return
        self._leading = True
        metrics.LEADER.labels(self._name).set(1)
        _log.info("leader_started", lease=self._name, identity=self._identity)
        self._call("on_started", self._on_started)

    def _lost(self, reason: str) -> None:
        if self._leading:
            self._core.step_down()
            self._end(reason)

    def _end(self, reason: str) -> Deferred[Any]:
        self._leading = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        metrics.LEADER.labels(self._name).set(0)
        log = _log.info if reason == "released" else _log.error
        log("leader_stopped", lease=self._name, identity=self._identity, reason=reason)
        return self._call("on_stopped", self._on_stopped)

    def _call(self, what: str, function: Callable[[], Any]) -> Deferred[Any]:
        def failed(failure: Failure) -> None:
            _log.error("leader_callback_failed", lease=self._name, callback=what, error=failure.getTraceback())

        return maybeDeferred(function).addErrback(failed)

    async def _release(self) -> None:
        work = Deferred.fromCoroutine(self._hand_back())
        work.addTimeout(RELEASE, self._reactor)
        try:
            await work
        except ApiError as error:
            _log.warning("lease_not_released", lease=self._name, error=str(error))
        except TimeoutError:
            _log.warning("lease_not_released", lease=self._name, error=f"no answer within {RELEASE:g} s")

    async def _hand_back(self) -> None:
        for _ in range(2):
            lease = self._core.release(time.time())
            if lease is None:
                return
            try:
                await self._kube.replace(LEASES, lease)
            except ApiError as error:
                if not error.conflict:
                    raise
                # A renewal was under way when we were stopped: it arrived.
                self._core.unsure()
                await self._look()
            else:
                return

    # -- words

    def _complain(self, error: str) -> None:
        if error != self._complaint:
            self._complaint = error
            _log.warning("election_failed", lease=self._name, namespace=self._namespace, error=error)

    def _broke(self, failure: Failure) -> None:
        failure.trap(CancelledError)  # type: ignore[no-untyped-call]
