"""One HTTP request: who asks, for what, and the answer."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource as WebResource
from twisted.web.server import NOT_DONE_YET, Request

from peerpods.kube.objects import resources as r
from tests.kube.double import listing, routes, selectors, writing
from tests.kube.double.knobs import Knobs, Seen
from tests.kube.double.objects import Objects, Options
from tests.kube.double.refusal import Refusal
from tests.kube.double.routes import Attributes, Target
from tests.kube.double.store import Json
from tests.kube.double.stream import Stream, cut

_log = Logger()
VERSION = {"major": "1", "minor": "20", "gitVersion": "v1.20.2", "platform": "linux/amd64"}
SEEN = 10_000


class Handler(WebResource):
    """The whole URL space."""

    isLeaf = True

    def __init__(self, reactor: Any, objects: Objects, writer: writing.Writing, knobs: Knobs) -> None:
        super().__init__()
        self._reactor = reactor
        self._objects = objects
        self._writing = writer
        self._knobs = knobs
        self.streams: set[Stream] = set()
        self.seen: deque[Seen] = deque(maxlen=SEEN)

    def render(self, request: Request) -> int:
        """Twisted's hook."""
        done: Deferred[None] = Deferred.fromCoroutine(self._serve(request))
        request.notifyFinish().addErrback(lambda _: done.cancel())
        done.addErrback(lambda failure: failure.trap(CancelledError))
        done.addErrback(lambda failure: _log.failure("the double failed", failure))
        return NOT_DONE_YET

    async def _serve(self, request: Request) -> None:
        try:
            code, body, warnings = await self._answer(request)
        except Refusal as refusal:
            if refusal.retry_after is not None:
                request.setHeader("Retry-After", str(refusal.retry_after))
            code, body, warnings = refusal.code, refusal.status(), refusal.warnings
        except CancelledError:
            raise
        except Exception as error:
            _log.failure("the double failed")
            code, body, warnings = 500, Refusal(500, f"{type(error).__name__}: {error}").status(), []
        if body is None:
            return
        for text in warnings:
            request.responseHeaders.addRawHeader("Warning", f"299 - {json.dumps(text)}")
        request.setResponseCode(code)
        plain = isinstance(body, str)
        request.setHeader("Content-Type", "text/plain" if plain else "application/json")
        request.write(body.encode() if plain else json.dumps(body).encode())
        request.finish()

    async def _answer(self, request: Request) -> tuple[int, Any, list[str]]:
        method, path = request.method.decode(), request.path.decode()
        arguments: dict[bytes, list[bytes]] = request.args or {}
        query = {name.decode(): values[-1].decode() for name, values in arguments.items()}
        header = {name: request.getHeader(name) or "" for name in ("authorization", "content-type", "user-agent")}
        content_type = header["content-type"].partition(";")[0].strip() or "application/json"
        await self._knobs.gate.passed()
        if self._knobs.latency:
            await deferLater(self._reactor, self._knobs.latency)
        user = self._knobs.authenticate(header["authorization"])
        self.seen.append(Seen(method, path, query, content_type, header["user-agent"], user))
        fault = self._knobs.fault(method, path)
        if fault and not fault.status:
            cut(request)
            return 0, None, []
        if fault:
            raise fault.refusal()
        raw = request.content.read() if request.content else b""
        body = writing.decode(raw, content_type) if raw else None
        if path in ("/version", "/healthz", "/livez", "/readyz"):
            return 200, VERSION if path == "/version" else "ok", []
        if path == r.ACCESS_REVIEWS.path() and method == "POST":
            return 201, self._access(body, user), []
        manager = query.get("fieldManager") or header["user-agent"].partition("/")[0] or "unknown"
        said = query.get("fieldManager", "")
        options = Options(manager, query.get("dryRun") == "All", user, said_manager=said)
        target = routes.parse(path, self._objects.kinds)
        verb = routes.verb_of(method, target, query)
        self._knobs.authorize(target.attributes(verb, user))
        if verb == "watch":
            await self._watch(request, target, query)
            return 0, None, []
        return await self._do(verb, target, body, content_type, query, options)

    async def _do(
        self, verb: str, target: Target, body: Any, content_type: str, query: dict[str, str], options: Options
    ) -> tuple[int, Json, list[str]]:
        kind, name = target.kind, (target.namespace or "", target.name)
        if verb == "get":
            return 200, self._objects.must_find(kind, name), []
        if verb == "list":
            return 200, listing.list_objects(self._objects.store, kind, target.namespace, query), []
        if verb == "create" and target.subresource == "binding":
            self._objects.bind(kind, name, body["target"]["name"])
            return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, []
        if verb == "create":
            return 201, *await self._writing.create(target, body, options)
        if verb == "update":
            return 200, *await self._writing.replace(target, body, options)
        if verb == "patch":
            new = self._objects.store.find(kind, name) is None
            obj, warnings = await self._writing.patch(target, body, content_type, query, options)
            return 201 if new else 200, obj, warnings
        wanted = {**{k: query[k] for k in ("propagationPolicy",) if k in query}, **(body or {})}
        if "gracePeriodSeconds" in query:
            wanted["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        options = attrs.evolve(options, dry_run=options.dry_run or wanted.get("dryRun") == ["All"])
        if verb == "delete":
            return 200, self._delete(target, wanted, options), []
        found = listing.list_objects(self._objects.store, kind, target.namespace, query)
        for each in found["items"]:
            about = each["metadata"]
            self._objects.delete(kind, (about.get("namespace", ""), about["name"]), wanted, options)
        return 200, found, []

    def _delete(self, target: Target, wanted: Json, options: Options) -> Json:
        group, plural = target.kind.key
        last, gone = self._objects.delete(target.kind, (target.namespace or "", target.name), wanted, options)
        if not gone or target.kind.resource == r.PODS:
            return last
        details = {"name": target.name, "group": group, "kind": plural, "uid": last["metadata"]["uid"]}
        details = {name: value for name, value in details.items() if value}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _access(self, body: Any, user: str) -> Json:
        asked = body["spec"].get("resourceAttributes") or {}
        wanted = Attributes(
            user, *(asked.get(name, "") for name in ("verb", "group", "resource", "subresource", "namespace", "name"))
        )
        return {**body, "status": {"allowed": self._knobs.authorizer(wanted)}}

    async def _watch(self, request: Request, target: Target, query: dict[str, str]) -> None:
        test = selectors.parse(target.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version = query.get("resourceVersion", "")
        if version and not version.isdigit():
            raise listing.bad_version(version)
        seconds = int(query.get("timeoutSeconds") or 0) or random.randint(1800, 3600)
        stream = Stream(self._reactor, request, self._knobs)
        self.streams.add(stream)
        try:
            bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
            watch = stream.watch(self._objects.store, target.kind, target.namespace, test)
            await stream.run(watch, version, seconds, bookmarks=bookmarks)
        finally:
            self.streams.discard(stream)
