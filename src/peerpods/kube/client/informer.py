"""List and watch on the reactor: moves pages and lines into a `Reflector` and tells the changes."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from peerpods.kube.client import metrics
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import MALFORMED, TIMEOUT, ApiError
from peerpods.kube.client.lines import LineSplitter, LineTooLong
from peerpods.kube.client.pause import in_slices, sleep
from peerpods.kube.client.reflector import Command, ListPage, Reflector, Wait, Watch, query
from peerpods.kube.client.store import Change, Store, key_of
from peerpods.kube.objects.resources import Resource
from peerpods.obs.log import get_logger

_log = get_logger("kube")


def identity(found: dict[str, Any]) -> Any:
    """Keep all of an object."""
    return found


def _cancelled(failure: Failure) -> None:
    """Stopped before the first list was complete: no error for anybody who did not wait."""
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]


class Informer:
    """A local copy of a collection that follows the server through everything.

    `on_change` is called on the reactor thread for each real difference, in order; what it raises is logged and
    does no harm. Before `start()`'s Deferred fires the store may be incomplete; afterwards it is complete but, while
    the server is away, old: see `last_contact`.
    """

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        shrink: Callable[[dict[str, Any]], Any] = identity,
        on_change: Callable[[Change], None],
    ) -> None:
        """Args:
        namespace: None for all.
        labels, fields: selectors, as in kubectl.
        shrink: what to keep of an object: uid and resourceVersion are kept anyway. Copy out what is needed.
        """
        self._reactor = reactor
        self._kube = kube
        self._resource = resource
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._on_change = on_change
        self._shrink = shrink
        self._store = Store(self._shrunk)
        self._core = Reflector(self._store, random.random)
        self._first: Deferred[None] | None = None
        self._run: Deferred[None] | None = None
        self._complaint: tuple[int, str] | None = None
        self._stopped = False
        self.last_contact: float | None = None
        """`reactor.seconds()` when the server last said something; None before the first time."""

    @property
    def store(self) -> Mapping[str, Any]:
        """Key to shrunk object; a live view."""
        return self._store

    @property
    def synced(self) -> bool:
        """Whether the store was complete once."""
        return self._core.synced

    def start(self) -> Deferred[None]:
        """Begin; fires when the store is complete for the first time. Fails with CancelledError if stopped before."""
        if self._run is not None:
            raise RuntimeError("this informer was started before")
        self._first = Deferred()
        self._run = Deferred.fromCoroutine(self._loop())
        self._run.addErrback(self._broke)
        return self._first

    def stop(self) -> None:
        """End at once, also in the middle of a request; no change is told after this. Idempotent."""
        self._stopped = True
        if self._run is not None and not self._run.called:
            self._run.cancel()
        first, self._first = self._first, None
        if first is not None and not first.called:
            first.cancel()
            first.addErrback(_cancelled)
        metrics.INFORMER_OBJECTS.labels(self._resource.plural).set(0)

    def _broke(self, failure: Failure) -> None:
        failure.trap(CancelledError)  # type: ignore[no-untyped-call]

    # -- the loop

    async def _loop(self) -> None:
        while True:
            command = self._core.next(self._reactor.seconds())
            if isinstance(command, Wait):
                await sleep(self._reactor, command.seconds)
                continue
            try:
                if isinstance(command, ListPage):
                    await self._list(command)
                else:
                    await self._watch(command)
            except ApiError as error:
                self._complain(command, error)
                self._core.failed(error, self._reactor.seconds())
            except Exception as error:
                if self._stopped:
                    raise
                # An object without a name, say: nothing this loop may end for.
                _log.error("informer_confused", resource=self._resource.plural, error=traceback.format_exc())
                self._core.failed(ApiError(f"not understood: {error!r}", reason=MALFORMED), self._reactor.seconds())

    async def _list(self, command: ListPage) -> None:
        if not command.token:
            metrics.RELISTS.labels(self._resource.plural, self._core.reason).inc()
        page = await self._kube.page(
            self._resource,
            self._namespace,
            labels=self._labels,
            fields=self._fields,
            limit=command.limit,
            token=command.token,
        )
        self._heard()
        async for item in in_slices(self._reactor, page):
            self._tell(self._core.item(item))
        self._tell(self._core.page_end(page.resource_version, page.token))
        if self._core.synced and self._first is not None and not self._first.called:
            self._first.callback(None)

    async def _watch(self, command: Watch) -> None:
        splitter = LineSplitter()

        def receive(data: bytes) -> None:
            self._heard()
            for line in splitter.feed(data):
                self._tell(self._core.line(line))

        asked = query(command, self._labels, self._fields)
        work = Deferred.fromCoroutine(self._kube.watch(self._resource, self._namespace, list(asked), receive))
        silent = False

        def expire() -> None:
            nonlocal silent
            silent = True
            work.cancel()

        killer = self._reactor.callLater(command.bound, expire)
        try:
            await work
        except CancelledError:
            if not silent:
                raise
            raise ApiError(f"the watch was not ended after {command.bound:g} s", reason=TIMEOUT) from None
        except LineTooLong as error:
            raise ApiError(str(error)) from None
        finally:
            if killer.active():
                killer.cancel()
        self._core.ended(self._reactor.seconds())

    # -- what comes of it

    def _heard(self) -> None:
        self.last_contact = self._reactor.seconds()
        metrics.WATCH_CONTACT.labels(self._resource.plural).set(time.time())
        if self._complaint is not None:
            self._complaint = None
            _log.info("watch_mended", resource=self._resource.plural, namespace=self._namespace)

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            if self._stopped:
                return
            try:
                self._on_change(change)
            except Exception:
                _log.error(
                    "change_handler_failed",
                    resource=self._resource.plural,
                    key=change.key,
                    error=traceback.format_exc(),
                )
        if changes:
            metrics.INFORMER_OBJECTS.labels(self._resource.plural).set(len(self._store))

    def _shrunk(self, found: dict[str, Any]) -> Any:
        try:
            return self._shrink(found)
        except Exception:
            # Not knowing an object is worse than knowing all of it: whoever looks at it sees what is odd.
            _log.error("shrink_failed", resource=self._resource.plural, key=key_of(found), error=traceback.format_exc())
            return found

    def _complain(self, command: Command, error: ApiError) -> None:
        """Say each trouble once, until it has gone or has become another."""
        now = (error.status, error.reason)
        if error.gone or now == self._complaint:
            return
        self._complaint = now
        _log.warning(
            "watch_failed" if isinstance(command, Watch) else "list_failed",
            resource=self._resource.plural,
            namespace=self._namespace,
            status=error.status,
            error=str(error),
        )
