"""/metrics, /healthz and /readyz on a local port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from peerpods.errors import LocalFailure
from peerpods.obs.metrics import REGISTRY


class _Text(Resource):
    isLeaf = True

    def __init__(self, answer: Callable[[], tuple[int, str, bytes]]) -> None:
        super().__init__()
        self._answer = answer

    def render_GET(self, request: Request) -> bytes:
        """The answer's status, content type and body."""
        code, kind, body = self._answer()
        request.setResponseCode(code)
        request.setHeader(b"content-type", kind.encode())
        return body


class HttpService(Service):
    """Listens from `startService` on; `port` is the listening port then."""

    def __init__(self, endpoint: TCP4ServerEndpoint | TCP6ServerEndpoint, site: Site, address: str) -> None:
        self._endpoint = endpoint
        self._site = site
        self._address = address
        self.port: IListeningPort | None = None

    def startService(self) -> Deferred[None]:
        """Listen; fails with LocalFailure when the port cannot be had."""
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            self.port = await self._endpoint.listen(self._site)
        except CannotListenError as error:
            raise LocalFailure(
                f"cannot listen on {self._address} for HTTP: {error.socketError}",
                remedy="another process has this port: choose one with --http, or --http= for none",
            ) from None

    def stopService(self) -> Deferred[None]:
        """Listen no more."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self.port = self.port, None
        if port is not None:
            await maybeDeferred(port.stopListening)  # type: ignore[call-overload]


def make_http_service(reactor: Any, address: str, ready: Callable[[], bool]) -> HttpService:
    """A service that listens on `ADDRESS:PORT`. `ready` decides /readyz; /healthz says that the reactor turns."""

    def metrics() -> tuple[int, str, bytes]:
        return 200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY)

    def healthz() -> tuple[int, str, bytes]:
        return 200, "text/plain; charset=utf-8", b"ok\n"

    def readyz() -> tuple[int, str, bytes]:
        if ready():
            return 200, "text/plain; charset=utf-8", b"ready\n"
        return 503, "text/plain; charset=utf-8", b"not ready: see the log\n"

    root = Resource()
    for name, answer in (("metrics", metrics), ("healthz", healthz), ("readyz", readyz)):
        root.putChild(name.encode(), _Text(answer))
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    endpoint_type = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    return HttpService(endpoint_type(reactor, int(port), interface=host), Site(root), address)
