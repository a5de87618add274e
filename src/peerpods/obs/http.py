"""/metrics, /healthz and /readyz on a local port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from twisted.application.internet import StreamServerEndpointService
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

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


def make_http_service(reactor: Any, address: str, ready: Callable[[], bool]) -> StreamServerEndpointService:
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
    service = StreamServerEndpointService(endpoint_type(reactor, int(port), interface=host), Site(root))
    service.privilegedStartService = lambda: None  # type: ignore[method-assign]
    return service
