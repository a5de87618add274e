"""An API server that says what a test tells it to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.web.resource import Resource as WebResource
from twisted.web.server import NOT_DONE_YET, Site

from peerpods.kube.client.access import Access
from peerpods.kube.client.kube import Kube
from peerpods.kube.client.session import Session


class Source:
    """Credentials from a list: each forced or timely load takes the next, the last for ever."""

    where = "the test"

    def __init__(self, *accesses: Access) -> None:
        self.accesses = list(accesses)
        self.loads: list[bool] = []

    def _thd_load(self, before: Access | None, force: bool) -> Access:
        self.loads.append(force)
        return self.accesses.pop(0) if len(self.accesses) > 1 else self.accesses[0]


class Scripted(WebResource):
    """Calls `answer(request)` for each request: bytes, a dict (JSON, 200), (code, dict), or NOT_DONE_YET."""

    isLeaf = True

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[tuple[str, str, Any]] = []
        self.requests: list[Any] = []

    def render(self, request: Any) -> Any:
        body = request.content.read()
        self.seen.append((request.method.decode(), request.uri.decode(), json.loads(body) if body else None))
        self.requests.append(request)
        said = self.answer(request)
        if said is NOT_DONE_YET or isinstance(said, bytes):
            return said
        code, body = said if isinstance(said, tuple) else (200, said)
        request.setResponseCode(code)
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(body).encode()


def status(code: int, reason: str, message: str = "no", **details: Any) -> tuple[int, dict[str, Any]]:
    """A Status answer."""
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


class Rig:
    """A scripted server on loopback and a client of it."""

    def __init__(self, reactor: Any, answer: Callable[[Any], Any], source: Any = None) -> None:
        self.reactor = reactor
        self.server = Scripted(answer)
        self.site = Site(self.server)
        self.port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"
        access = Access(url=self.url)
        self.source = source or Source(access)
        self.kube = Kube(reactor, Session(reactor, self.source, access, "peerpods-test/1"), "peerpods-test")

    async def stop(self) -> None:
        await self.kube.close()
        await maybeDeferred(self.port.stopListening)
        for request in self.server.requests:
            channel = getattr(request, "channel", None)
            if channel is not None and channel.transport is not None:
                channel.transport.abortConnection()
