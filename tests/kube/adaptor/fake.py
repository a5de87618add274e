"""An API server in memory on a Clock, and the client's parts on it: what the adaptor's shells are tested against.

Every request is a step of the adaptor's `Crash` before and after its effect, so that a test can kill it at each.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.adaptor.executor import Place
from peerpods.adaptor.kube.cluster import KubeCluster, Options, Tools
from peerpods.adaptor.kube.peerpods import RETRY_MAX
from peerpods.kube.client import WorkQueue
from peerpods.kube.client.api import PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.conditions import time_text
from peerpods.kube.objects.resources import NODES, PEER_PODS, PODS, SECRETS, Resource
from tests.adaptor.world import Crash, Scene

NODE, CLUSTER = "node-1", "lab"


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: dict, patch: list[dict]) -> dict:
    """The operations that we use; 422 where the server gives it."""
    result = copy.deepcopy(target)
    for op in patch:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in op["path"].split("/")[1:]]
        here: Any = result
        try:
            for part in path:
                here = here[int(part)] if isinstance(here, list) else here[part]
            key: Any = int(last) if isinstance(here, list) else last
            if op["op"] == "test" and here[key] != op["value"]:
                raise KeyError(last)
            if op["op"] == "remove":
                del here[key]
        except (KeyError, IndexError, TypeError):
            raise ApiError("the server rejected our request", status=422) from None
        if op["op"] in ("add", "replace"):
            here[key] = op["value"]
    return result


@attrs.define
class FakeServer:
    """The objects, and what is wrong with the server."""

    clock: Clock
    epoch: float = 1_000_000.0
    objects: dict[tuple[str, str, str], dict] = attrs.field(factory=dict)
    away: bool = False
    hanging: bool = False
    terminating: set[str] = attrs.field(factory=set)
    no_crd: bool = False
    forbidden: set[str] = attrs.field(factory=set)
    """Names of secrets that may not be read."""
    log: list[str] = attrs.field(factory=list)
    events: list[tuple[float, str, dict, str]] = attrs.field(factory=list)
    """(when, reason, regarding, note)."""
    watchers: list[FakeInformer] = attrs.field(factory=list)
    numbers: Any = attrs.field(factory=lambda: itertools.count(1))
    ever: list[dict] = attrs.field(factory=list)
    """Every state that a PeerPod ever had."""

    def put(self, resource: Resource, obj: dict, namespace: str = "") -> dict:
        """What somebody else writes."""
        meta = obj.setdefault("metadata", {})
        meta.setdefault("uid", f"uid-{next(self.numbers)}")
        meta.setdefault("creationTimestamp", time_text(self.epoch + self.clock.seconds()))
        meta["resourceVersion"] = str(next(self.numbers))
        if namespace:
            meta["namespace"] = namespace
        key = (resource.plural, namespace, meta["name"])
        kind = "modified" if key in self.objects else "added"
        self.objects[key] = obj
        if resource is PEER_PODS:
            self.ever.append(copy.deepcopy(obj))
        self._tell(resource, kind, obj)
        return obj

    def drop(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Gone at once."""
        obj = self.objects.pop((resource.plural, namespace, name))
        self._tell(resource, "deleted", obj)

    def collect(self) -> None:
        """What the garbage collector does: PeerPods whose owner is not there are deleted."""
        uids = {obj["metadata"]["uid"] for obj in self.objects.values()}
        now = time_text(self.epoch + self.clock.seconds())
        for obj in self.peerpods():
            owners = obj["metadata"].get("ownerReferences") or []
            if owners and all(one["uid"] not in uids for one in owners):
                self.put(PEER_PODS, {**obj, "metadata": {"deletionTimestamp": now, **obj["metadata"]}}, "lab")

    def _tell(self, resource: Resource, kind: str, obj: dict) -> None:
        if not self.away:
            for watcher in list(self.watchers):
                if watcher.resource is resource:
                    watcher.hear(kind, obj)

    def come_back(self) -> None:
        """After an outage: watchers list anew."""
        self.away = self.hanging = False
        for watcher in list(self.watchers):
            watcher.relist()

    def pod(self, name: str = "web", namespace: str = "lab", secrets: tuple[str, ...] = (), **meta: Any) -> dict:
        """A pod on our node."""
        spec = {"nodeName": NODE, "imagePullSecrets": [{"name": one} for one in secrets]}
        return self.put(PODS, {"metadata": {"name": name, **meta}, "spec": spec}, namespace)

    def node(self, capacity: str | None) -> None:
        """Our node."""
        amounts = {"cpu": "4"} | ({"kata.peerpods.io/vm": capacity} if capacity is not None else {})
        self.put(NODES, {"metadata": {"name": NODE}, "status": {"capacity": amounts}})

    def secret(self, name: str, data: dict, kind: str = "kubernetes.io/dockerconfigjson") -> None:
        """A secret in the namespace lab."""
        self.put(SECRETS, {"metadata": {"name": name}, "type": kind, "data": data}, "lab")

    def peerpods(self) -> list[dict]:
        """All PeerPods."""
        return [obj for (plural, _, _), obj in self.objects.items() if plural == "peerpods"]

    def reasons(self) -> list[str]:
        """Reasons of all events, in order."""
        return [reason for _, reason, _, _ in self.events]

    def notes(self, reason: str) -> list[str]:
        """Texts of the events with this reason."""
        return [note for _, found, _, note in self.events if found == reason]


class FakeKube:
    """One adaptor's client (`KubeApi`)."""

    field_manager = "peerpods-adaptor"

    def __init__(self, server: FakeServer, crash: Crash) -> None:
        self.server = server
        self.crash = crash

    async def _request(self, what: str, work: Callable[[], Any]) -> Any:
        if self.crash.step(f"api {what}:before"):
            await Deferred()
        if self.server.hanging:
            await Deferred()
        if self.server.away:
            raise ApiError(f"cannot {what}: connection refused")
        self.server.log.append(what)
        result = copy.deepcopy(work())
        if self.crash.step(f"api {what}:after"):
            await Deferred()
        return result

    def _find(self, resource: Resource, name: str, namespace: str | None) -> dict:
        self._kind(resource)
        if resource is SECRETS and name in self.server.forbidden:
            raise ApiError(f"secrets {name} is forbidden", status=403)
        try:
            return self.server.objects[resource.plural, namespace or "", name]
        except KeyError:
            details = {"name": name, "kind": resource.plural}
            raise ApiError(f"{resource.plural} {name!r} not found", status=404, details=details) from None

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict:
        return await self._request(f"get {resource.plural}", lambda: self._find(resource, name, namespace))

    async def list(self, resource: Resource, namespace: str | None = None, *, labels: str = "", **_: Any) -> Any:
        def work() -> Any:
            self._kind(resource)
            key, _, value = labels.partition("=")
            found = [obj for (plural, _, _), obj in self.server.objects.items() if plural == resource.plural]
            return [obj for obj in found if not key or obj["metadata"].get("labels", {}).get(key) == value], "1"

        return await self._request(f"list {resource.plural}", work)

    def _kind(self, resource: Resource) -> None:
        if resource is PEER_PODS and self.server.no_crd:
            raise ApiError("the server could not find the requested resource", status=404)

    async def create(self, resource: Resource, body: dict, namespace: str | None = None, **_: Any) -> dict:
        def work() -> dict:
            self._kind(resource)
            name = body["metadata"]["name"]
            if namespace in self.server.terminating:
                causes = {"causes": [{"reason": "NamespaceTerminating"}]}
                raise ApiError("forbidden: it is being terminated", status=403, details=causes)
            if (resource.plural, namespace, name) in self.server.objects:
                raise ApiError(f"{name} exists", status=409, reason="AlreadyExists")
            obj = {key: copy.deepcopy(value) for key, value in body.items() if key != "status"}
            obj["metadata"]["generation"] = 1
            return self.server.put(resource, obj, namespace or "")

        return await self._request(f"create {resource.plural}", work)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: PatchKind,
        subresource: str = "",
        **_: Any,
    ) -> dict:
        def work() -> dict:
            found = self._find(resource, name, namespace)
            version = patch.get("metadata", {}).get("resourceVersion") if isinstance(patch, dict) else None
            if version and version != found["metadata"]["resourceVersion"]:
                raise ApiError("the object has been modified", status=409, reason="Conflict")
            changed = merge(found, patch) if kind is PatchKind.MERGE else json_patch(found, patch)
            if subresource:
                result = {**found, "status": changed.get("status", {})}
            else:
                result = {**changed, **({"status": found["status"]} if "status" in found else {})}
            result["metadata"] = {**result["metadata"], "uid": found["metadata"]["uid"]}
            if result.get("spec") != found.get("spec"):
                result["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
            if result["metadata"].get("deletionTimestamp") and not result["metadata"].get("finalizers"):
                self.server.ever.append(copy.deepcopy(result))
                self.server.drop(resource, name, namespace or "")
                return result
            return self.server.put(resource, result, namespace or "")

        where = f"{resource.plural}/{subresource}" if subresource else resource.plural
        return await self._request(f"patch {where}", work)

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, *, uid: str = "", **_: Any):
        def work() -> dict:
            found = self._find(resource, name, namespace)
            if uid and uid != found["metadata"]["uid"]:
                raise ApiError("the UID in the precondition does not match", status=409, reason="Conflict")
            if found["metadata"].get("finalizers"):
                now = time_text(self.server.epoch + self.server.clock.seconds())
                found = {**found, "metadata": {"deletionTimestamp": now, **found["metadata"]}}
                return self.server.put(resource, found, namespace or "")
            self.server.drop(resource, name, namespace or "")
            return found

        return await self._request(f"delete {resource.plural}", work)


class FakeInformer:
    """List and watch of one kind, as far as our node's selectors go."""

    def __init__(self, server: FakeServer, crash: Crash, resource: Resource, shrink: Any, on_change: Any) -> None:
        self.server, self.crash, self.resource = server, crash, resource
        self.shrink, self.on_change = shrink, on_change
        self.store: dict[str, Any] = {}
        self.first: Deferred[None] = Deferred()

    def _key(self, obj: dict) -> str:
        meta = obj["metadata"]
        return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else meta["name"]

    def start(self) -> Deferred[None]:
        self.server.watchers.append(self)
        if not self.server.away and not self.server.hanging:
            self.relist()
        return self.first

    def stop(self) -> None:
        if self in self.server.watchers:
            self.server.watchers.remove(self)

    def relist(self) -> None:
        if self.crash.dead:
            return
        found = {
            self._key(obj): obj for (plural, _, _), obj in self.server.objects.items() if plural == self.resource.plural
        }
        for key in [one for one in self.store if one not in found]:
            self._change("deleted", key, None)
        for key, obj in found.items():
            self._change("modified" if key in self.store else "added", key, self.shrink(obj))
        if not self.first.called:
            self.first.callback(None)

    def hear(self, kind: str, obj: dict) -> None:
        if not self.crash.dead and self.first.called:
            self._change(kind, self._key(obj), None if kind == "deleted" else self.shrink(obj))

    def _change(self, kind: str, key: str, new: Any) -> None:
        old = self.store.pop(key, None) if new is None else self.store.get(key)
        if new is not None:
            self.store[key] = new
        self.on_change(SimpleNamespace(kind=kind, key=key, old=old, new=new))


def make_queue(clock: Clock, crash: Crash, work: Callable[[str], Awaitable[float | None]]) -> WorkQueue:
    """The client's own queue; of a dead adaptor nothing goes on."""

    async def living(key: str) -> float | None:
        if crash.dead:
            await Deferred()
        return await work(key)

    return WorkQueue(clock, living, workers=8, cap=RETRY_MAX)


class FakeRecorder:
    """Events as they would arrive: those of an outage are sent after it, here at once."""

    def __init__(self, server: FakeServer, crash: Crash) -> None:
        self.server, self.crash = server, crash

    def event(self, regarding: dict, type: str, reason: str, note: str, action: str = "") -> None:
        assert type in ("Normal", "Warning")
        assert len(note.encode()) <= 1024
        if not self.crash.dead:
            self.server.events.append((self.server.clock.seconds(), reason, regarding, note))


def play_on(tmp_path: Any, **options: Any) -> tuple[Scene, FakeServer]:
    """A scene whose adaptors use a cluster in memory, with the node and the pod `lab/web` in it."""
    scene = Scene(str(tmp_path))
    server = FakeServer(scene.clock)
    server.node(None)
    server.pod()

    def make_cluster(crash: Crash) -> KubeCluster:
        async def close() -> None: ...

        tools = Tools(
            kube=FakeKube(server, crash),  # type: ignore[arg-type]
            make_informer=lambda resource, _fields, shrink, change: FakeInformer(
                server, crash, resource, shrink, change
            ),
            make_queue=lambda work: make_queue(scene.clock, crash, work),
            recorder=FakeRecorder(server, crash),
            close=close,
        )
        return KubeCluster(
            scene.clock,
            tools,
            place=Place(node=NODE, cluster=CLUSTER),
            provider="fake",
            max_user_data=scene.cloud.max_user_data,
            options=Options(**options),
            now=lambda: scene.epoch + scene.clock.seconds(),
        )

    scene.make_cluster = make_cluster
    return scene, server
