"""The double as tests see it."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.web.server import Site

from peerpods.kube.objects import resources as r
from peerpods.kube.objects.resources import Resource
from tests.kube.double.admission import Admission
from tests.kube.double.collector import Collector
from tests.kube.double.handler import Handler
from tests.kube.double.kinds import custom
from tests.kube.double.knobs import Fault, Knobs, Seen
from tests.kube.double.objects import Objects, Options
from tests.kube.double.store import Change, Json, Store
from tests.kube.double.webhook_call import Caller
from tests.kube.double.writing import Writing

SETTLE = 0.02  # seconds from a change to the controllers' reaction
TEST = Options(manager="test")


class Double:
    """An API server in this process.

    Args:
        now: seconds since the epoch, for timestamps.
        automatic: garbage collection and the end of namespaces and CRDs happen by themselves; else by `collect()`.

    Attributes:
        knobs: `latency`, `users`, `authorizer`, `bookmark_every`.
        services: URLs of webhooks named by (namespace, service).
    """

    def __init__(self, reactor: Any, *, now: Callable[[], float] = time.time, automatic: bool = True) -> None:
        self._reactor = reactor
        self.automatic = automatic
        self.knobs = Knobs()
        self.objects = Objects(now)
        self._collector = Collector(self.objects)
        self._caller = Caller(reactor)
        self.services = self._caller.services
        admission = Admission(self.objects, self._caller.ask)
        self._handler = Handler(reactor, self.objects, Writing(self.objects, admission), self.knobs)
        self._factory = WrappingFactory(Site(self._handler, timeout=None))
        self._factory.noisy = False
        self._listening: Any = None
        self._port = 0
        self._pending: Any = None
        self.store.listeners.append(self._changed)
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.seed(r.NAMESPACES, {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})

    # running

    async def start(self) -> Double:
        """Listen; after a `stop()` on the same port again, with no memory of history: watches cannot be resumed."""
        if self._port:
            self.store.expire()
        self._listening = self._reactor.listenTCP(self._port, self._factory, interface="127.0.0.1")
        self._port = self._listening.getHost().port
        return self

    async def stop(self) -> None:
        """Be away, as a killed API server: connections are cut, and what is held by `pause()` is never done.

        What is stored stays.
        """
        if self._pending and self._pending.active():
            self._pending.cancel()
        if self._listening:
            listening, self._listening = self._listening, None
            await listening.stopListening()
        for protocol in list(self._factory.protocols):
            protocol.transport.abortConnection()
        await deferLater(self._reactor, 0)
        self.resume()
        await self._caller.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig_dict(self, token: str = "") -> Json:
        """A kubeconfig for clients."""
        user = {"token": token} if token else {}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "double", "user": user}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        }

    # direct looks and changes, past HTTP and admission

    @property
    def store(self) -> Store:
        """What is stored: `store.get(RESOURCE, name, namespace)`, `store.list(RESOURCE, namespace)`."""
        return self.objects.store

    @property
    def seen(self) -> deque[Seen]:
        """The requests so far."""
        return self._handler.seen

    def register(self, crd: Json) -> None:
        """Define a custom resource, or define it anew."""
        name = crd["metadata"]["name"]
        if self.store.get(r.CRDS, name) is None:
            self.seed(r.CRDS, crd)
        else:
            self.change(r.CRDS, name, "", lambda obj: obj.update(spec=copy.deepcopy(crd["spec"])))

    def seed(self, resource: Resource, body: Json) -> Json:
        """Create an object, with its status if it has one; its namespace too when that is missing."""
        kind = self.objects.kind(resource)
        namespace = body["metadata"].get("namespace", "") if resource.namespaced else ""
        if namespace and self.store.get(r.NAMESPACES, namespace) is None:
            self.seed(r.NAMESPACES, {"metadata": {"name": namespace}})
        new = self.objects.begin_create(kind, namespace, body, TEST)
        stored = self.objects.finish_create(kind, new, TEST)
        if "status" in body and resource != r.CRDS:
            stored = self.store.put(kind, {**copy.deepcopy(stored), "status": copy.deepcopy(body["status"])})
        return stored

    def change(self, resource: Resource, name: str, namespace: str, edit: Callable[[Json], Any]) -> Json:
        """Let `edit` change a copy of the object in place, and store that: any field, without any check."""
        kind = self.objects.kind(resource)
        new = copy.deepcopy(self.objects.must_find(kind, (namespace, name)))
        edit(new)
        return self.store.put(kind, new)

    def remove(self, resource: Resource, name: str, namespace: str = "", *, now: bool = False) -> None:
        """Delete as a client would; `now`: without regard for finalizers and grace."""
        kind = self.objects.kind(resource)
        if now:
            self.store.drop(kind, (namespace, name))
        else:
            self.objects.delete(kind, (namespace, name), {"propagationPolicy": "Background"}, TEST)

    def collect(self) -> int:
        """One turn of the controllers: garbage, ending namespaces and CRDs. Gives the number of changes."""
        return self._collector.collect()

    def _changed(self, change: Change) -> None:
        about = change.new["metadata"]
        if change.kind == (r.CRDS.group, r.CRDS.plural):
            kind = custom(change.new)
            if change.type == "DELETED":
                self.objects.kinds.pop(kind.key, None)
            else:
                self.objects.kinds[kind.key] = kind
        due = change.type == "DELETED" or "deletionTimestamp" in about or about.get("ownerReferences")
        if self.automatic and due and self._listening and not (self._pending and self._pending.active()):
            self._pending = self._reactor.callLater(SETTLE, self.collect)

    # faults

    def fail_next(
        self, count: int = 1, status: int = 500, *, method: str = "", path: str = "", reason: str | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        """Let the next requests (with that method, below that path) fail; status 0 cuts their connections."""
        self.knobs.faults.append(Fault(count, status, method, path, reason, retry_after))

    def drop_watches(self, *, clean: bool = False) -> None:
        """Cut all watches; `clean`: end them as at the end of their time."""
        for stream in list(self._handler.streams):
            stream.end() if clean else stream.cut()

    @property
    def watches(self) -> int:
        """How many are open."""
        return len(self._handler.streams)

    def bookmark(self) -> None:
        """Send bookmarks now to those who asked for them."""
        for stream in list(self._handler.streams):
            stream.bookmark()

    def expire(self) -> None:
        """Forget history: resumed watches, continued lists and lists of old versions get 410."""
        self.store.expire()

    def pause(self) -> None:
        """Take requests but answer none, and send no events, until `resume()`."""
        self.knobs.gate.closed = True

    def resume(self) -> None:
        """Go on."""
        self.knobs.gate.open()
        for stream in list(self._handler.streams):
            stream.flush()
