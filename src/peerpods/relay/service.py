"""The relay as a Twisted service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from peerpods.config.settings import RelaySettings
from peerpods.errors import LocalFailure
from peerpods.obs import metrics, ready
from peerpods.obs.log import get_logger
from peerpods.protocols import relay_pb2
from peerpods.relay.control import Control, map_error
from peerpods.relay.mux import Name
from peerpods.ttrpc import Code, Server
from peerpods.ttrpc.unix import listen_unix

GRACE = 1.0
"""Seconds that control calls in flight have at the end."""
_log = get_logger("relay")


class RelayService(Service):
    """Listens for orders on the control socket until it is stopped."""

    def __init__(self, settings: RelaySettings, reactor: Any) -> None:
        self.settings = settings
        self.reactor = reactor
        self.control = Control(reactor, settings.pods_dir, settings.dial_timeout, _Counting(), CallCounter())
        self._server = Server(reactor, [self.control.service()], map_error=map_error)
        self._port: IListeningPort | None = None

    def startService(self) -> Deferred[None]:
        """Listen; fails with LocalFailure when the control socket cannot be had."""
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        path = self.settings.control
        try:
            for folder in (str(Path(path).parent), self.settings.pods_dir):
                _make_folder(folder)
            self._port = await listen_unix(self.reactor, path, self._server, 0o600)
        except OSError as error:
            text = str(error) if path in str(error) else f"{path}: {error.strerror or error}"
            raise LocalFailure(
                f"the relay cannot start: {text}", remedy="run it as root, or choose another --control or --pods-dir"
            ) from error
        ready.mark("relay")
        _log.info("ready", control=path, pods_dir=self.settings.pods_dir)

    def stopService(self) -> Deferred[None]:
        """Close the control socket, every pod and its socket."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ready.unmark("relay")
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        await self._server.close(GRACE)
        await self.control.close_all()


def _make_folder(path: str) -> None:
    Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)


class CallCounter:
    """Calls by method and code. The shim chooses the names, so there is a bound on how many are told apart."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._known: dict[tuple[Name, int], Any] = {}

    def __call__(self, name: Name, code: int) -> None:
        counter = self._known.get((name, code))
        if counter is None:
            service, method = name if len(self._known) < self._limit else ("other", "other")
            counter = metrics.RPCS.labels(service=service[:64], method=method[:64], code=_code_name(code))
            if len(self._known) < self._limit:
                self._known[(name, code)] = counter
        counter.inc()


def _code_name(code: int) -> str:
    return Code(code).name if code in _CODES else str(code)


_CODES = frozenset(int(code) for code in Code)


class _Counting:
    """Links that are up, and links made anew, from the events."""

    def __init__(self) -> None:
        self._up: set[str] = set()
        metrics.LINKS.labels(state="up").set(0)

    def __call__(self, event: relay_pb2.WatchEvent, links: int) -> None:
        if event.kind == event.LINK_UP:
            self._up.add(event.sandbox)
            if links > 1:
                metrics.LINK_RECONNECTS.inc()
        elif event.kind == event.LINK_DOWN:
            self._up.discard(event.sandbox)
        else:
            return
        metrics.LINKS.labels(state="up").set(len(self._up))


def make_service(settings: RelaySettings, reactor: Any) -> IService:
    """The relay; `startService` returns a Deferred that fires when it listens."""
    return RelayService(settings, reactor)
