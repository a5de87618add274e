"""A small second client for the suite: one connection a call, in threads, independent of the client that is tested."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from peerpods.kube.objects.resources import Resource
from tests.kube.cluster import RealCluster
from tests.kube.double import Double

Json = dict[str, Any]
JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
SORTS = {"json": JSON, "merge": MERGE, "strategic": STRATEGIC, "apply": APPLY}
_numbers = itertools.count(1)
Opened = tuple[http.client.HTTPConnection, http.client.HTTPResponse, socket.socket]


@attrs.frozen
class Answer:
    """What came back."""

    code: int
    body: Any
    headers: dict[str, list[str]]

    @property
    def meta(self) -> Json:
        """metadata."""
        found: Json = self.body["metadata"]
        return found

    @property
    def version(self) -> str:
        """resourceVersion."""
        return str(self.meta["resourceVersion"])

    @property
    def reason(self) -> str:
        """Of a Status."""
        return str(self.body.get("reason", ""))

    def cause(self, field: str = "") -> Json | None:
        """The first cause of a Status, or that of a field."""
        causes = (self.body.get("details") or {}).get("causes") or []
        return next((each for each in causes if not field or each.get("field") == field), None)


class Watching:
    """An open watch, read by a thread."""

    def __init__(self, open_: Callable[[str, str], Opened], path: str) -> None:
        self._events: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
        # the connection itself forgets its socket while it reads the answer
        _, self._response, self._socket = open_("GET", path)
        self.code = self._response.status
        self._thread = threading.Thread(target=self._thd_read, daemon=True)
        self._thread.start()

    def _thd_read(self) -> None:
        try:
            for line in self._response:
                self._events.put(json.loads(line))
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass
        self._response.close()
        self._events.put(None)

    def thd_next(self, timeout: float = 60.0) -> Json | None:
        """The next event; None at the end. Blocks.

        Raises:
            queue.Empty: none came.
        """
        return self._events.get(timeout=timeout)

    async def next(self, timeout: float = 60.0) -> Json | None:
        """The next event; None at the end."""
        return await deferToThread(self.thd_next, timeout)

    async def take(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        found: list[tuple[str, str]] = []
        for _ in range(count):
            event = await self.next()
            assert event is not None, f"the watch ended after {found}"
            found.append((event["type"], event["object"].get("metadata", {}).get("name", "")))
        return found

    def close(self) -> None:
        """No more; the thread ends by that."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Api:
    """One server, real or double.

    Attributes:
        double: None for a real one.
        cluster: None for the double.
        namespace: one for this test.
    """

    def __init__(self, url: str, *, token: str = "", ca_file: Path | None = None) -> None:
        self.url = url
        self.token = token
        self._ca_file = ca_file
        self.double: Double | None = None
        self.cluster: RealCluster | None = None
        self.namespace = ""
        self._watches: list[Watching] = []

    def unique(self, word: str) -> str:
        """A name for what is not in a namespace."""
        return f"{word}-{int(time.time()) % 100000}-{next(_numbers)}"

    def _thd_open(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json",
        token: str | None = None, timeout: float = 40.0,
    ) -> Opened:  # fmt: skip
        parts = urlsplit(self.url)
        assert parts.hostname
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=str(self._ca_file))
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, context=context, timeout=timeout
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        headers = {"Accept": "application/json", "User-Agent": "conformance/1"}
        token = self.token if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = content_type
        connection.connect()
        kept = connection.sock
        connection.request(method, path, body=None if body is None else json.dumps(body).encode(), headers=headers)
        return connection, connection.getresponse(), kept

    def thd_call(self, method: str, path: str, body: Any = None, **keywords: Any) -> Answer:
        """Blocking: from a thread only."""
        connection, response, _ = self._thd_open(method, path, body, **keywords)
        try:
            raw = response.read()
            headers: dict[str, list[str]] = {}
            for name, value in response.getheaders():
                headers.setdefault(name.lower(), []).append(value)
            try:
                return Answer(response.status, json.loads(raw), headers)
            except ValueError:
                return Answer(response.status, raw.decode(errors="replace"), headers)
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None, **keywords: Any) -> Deferred[Answer]:
        """Any request; the body is sent as JSON."""
        return deferToThread(self.thd_call, method, path, body, **keywords)

    def path(self, resource: Resource, name: str | None = None, sub: str | None = None, **query: Any) -> str:
        """The path of an object in this test's namespace, or cluster-wide."""
        asked = "?" + urlencode(query) if query else ""
        return resource.path(self.namespace if resource.namespaced else None, name, sub) + asked

    async def create(self, resource: Resource, body: Json, **query: Any) -> Answer:
        """POST; apiVersion and kind are filled in."""
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self.call("POST", self.path(resource, **query), whole)

    async def made(self, resource: Resource, body: Json) -> Answer:
        """POST that must succeed."""
        answer = await self.create(resource, body)
        assert answer.code == 201, answer.body
        return answer

    async def get(self, resource: Resource, name: str) -> Answer:
        """GET."""
        return await self.call("GET", self.path(resource, name))

    async def put(self, resource: Resource, body: Json, sub: str | None = None) -> Answer:
        """PUT."""
        return await self.call("PUT", self.path(resource, body["metadata"]["name"], sub), body)

    async def patch(
        self, resource: Resource, name: str, body: Any, sort: str = "merge", sub: str | None = None, **query: Any
    ) -> Answer:
        """PATCH: sort is json, merge, strategic or apply."""
        return await self.call("PATCH", self.path(resource, name, sub, **query), body, content_type=SORTS[sort])

    async def apply(self, resource: Resource, name: str, body: Json, manager: str, **query: Any) -> Answer:
        """Server-side apply; apiVersion, kind and name are filled in."""
        about = {"name": name, **body.get("metadata", {})}
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body, "metadata": about}
        return await self.patch(resource, name, whole, "apply", fieldManager=manager, **query)

    async def delete(self, resource: Resource, name: str, body: Json | None = None, **query: Any) -> Answer:
        """DELETE."""
        return await self.call("DELETE", self.path(resource, name, **query), body)

    async def watch(self, resource: Resource, **query: Any) -> Watching:
        """Open a watch in this test's namespace."""
        path = self.path(resource, watch="1", **query)
        watching = await deferToThread(Watching, lambda m, p: self._thd_open(m, p, timeout=120), path)
        self._watches.append(watching)
        return watching

    async def until(self, look: Callable[[], Any], timeout: float = 90.0) -> Any:
        """What `look` (async) gives once it is true. Garbage collection knows of a new CRD after up to 30 s."""
        deadline = time.monotonic() + timeout
        while not (found := await look()):
            assert time.monotonic() < deadline, "not in time"
            await deferToThread(time.sleep, 0.05)
        return found

    async def restart(self) -> None:
        """Kill the server and start it again."""
        if self.double:
            await self.double.stop()
            await self.double.start()
        elif self.cluster:
            await deferToThread(self.cluster.restart_apiserver, kill=True)

    def close(self) -> None:
        """End watches."""
        for watching in self._watches:
            watching.close()
