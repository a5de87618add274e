"""A controller on a Clock, with an API server and a cloud that can die around any of their calls."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.aio import spawn
from peerpods.clouds.interface import TAG_CLUSTER, TAG_NAMESPACE, TAG_NODE, TAG_POD, TAG_SANDBOX, CreateRequest
from peerpods.clouds.memory.faults import FaultPlan, Guest
from peerpods.clouds.memory.provider import MemoryProvider, MemoryStore
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.errors import CloudError
from peerpods.kube.client.api import PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.client.queue import WorkQueue
from peerpods.kube.objects.peerpod import PeerPodView, parse
from peerpods.kube.objects.resources import PEER_PODS, Resource
from peerpods.kube.peerpod.configuration import Configuration
from peerpods.kube.peerpod.controller import Controller
from peerpods.kube.peerpod.providers import Providers
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.kube.peerpod.sweeping import Sweeper
from peerpods.model import InstanceSpec
from tests.kube.peerpod.making import CLUSTER, NOW

Json = dict[str, Any]


class Axe:
    """Lets the process die at one of its calls: that call, and all after it, never return.

    Args:
        at: the number of the call, from 1; 0 for never.
        after: the call has its effect before.
    """

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self.at = at
        self.after = after
        self.calls: list[str] = []
        self.fallen = False

    async def around(self, what: str, effect: Callable[[], Any]) -> Any:
        """The call, or its end."""
        self.calls.append(what)
        due = len(self.calls) == self.at
        if self.fallen or (due and not self.after):
            self.fallen = True
            await Deferred()
        try:
            result = effect()
            return await result if isinstance(result, Deferred) else result
        finally:
            if due:
                self.fallen = True
                await Deferred()


class FakeKube:
    """Objects by resource and key, with what of the API server's behaviour matters here. `changed` is its watch."""

    field_manager = "test"

    def __init__(self) -> None:
        self.axe = Axe()
        self.objects: dict[tuple[str, str], Json] = {}
        self.version = 10
        self.changed: Callable[[str, Json | None, Json | None], None] = lambda _key, _old, _new: None
        self.errors: list[tuple[str, ApiError]] = []
        """(beginning of "verb plural", error): each is raised once."""
        self.moved: Callable[[], None] | None = None
        """Called once before the next patch: another writer."""

    def put(self, resource: Resource, obj: Json) -> Json:
        key = self._key(resource, obj["metadata"]["name"], obj["metadata"].get("namespace"))
        old = self.objects.get(key)
        self.version += 1
        new = copy.deepcopy(obj)
        new["metadata"]["resourceVersion"] = str(self.version)
        gone = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers")
        if gone:
            self.objects.pop(key, None)
        else:
            self.objects[key] = new
        if resource is PEER_PODS:
            self.changed(key[1], old, None if gone else new)
        return new

    def drop(self, resource: Resource, name: str, namespace: str | None = None) -> None:
        old = self.objects.pop(self._key(resource, name, namespace), None)
        if resource is PEER_PODS and old is not None:
            self.changed(f"{namespace}/{name}", old, None)

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        def effect() -> Json:
            self._raise(f"get {resource.plural}")
            return copy.deepcopy(self._find(resource, name, namespace))

        found: Json = await self.axe.around(f"get {resource.plural}", effect)
        return found

    async def list(
        self, resource: Resource, namespace: str | None = None, *, shrink: Any = None, **_: Any
    ) -> tuple[list[Any], str]:
        def effect() -> list[Any]:
            self._raise(f"list {resource.plural}")
            items = [o for (plural, _k), o in self.objects.items() if plural == resource.plural]
            return [shrink(one) if shrink else copy.deepcopy(one) for one in items]

        return await self.axe.around(f"list {resource.plural}", effect), str(self.version)

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
    ) -> Json:
        def effect() -> Json:
            self._raise(f"patch {resource.plural}")
            if self.moved is not None:
                moved, self.moved = self.moved, None
                moved()
            old = self._find(resource, name, namespace)
            new = copy.deepcopy(old)
            if kind is PatchKind.MERGE:
                assert subresource == "status"
                if patch["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
                    raise ApiError("changed", status=409, reason="Conflict")
                new["status"] = {**new.get("status", {}), **patch["status"]}
            else:
                _json_patch(new, patch)
            return self.put(resource, new)

        done: Json = await self.axe.around(f"patch {resource.plural}{'/' + subresource if subresource else ''}", effect)
        return done

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str = "", **_: Any
    ) -> Json:
        def effect() -> Json:
            self._raise(f"delete {resource.plural}")
            obj = self._find(resource, name, namespace)
            if uid and obj["metadata"]["uid"] != uid:
                raise ApiError("another", status=409, reason="Conflict")
            if "deletionTimestamp" in obj["metadata"]:
                return obj
            from peerpods.kube.objects.conditions import time_text

            return self.put(
                resource, {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": time_text(self.clock())}}
            )

        done: Json = await self.axe.around(f"delete {resource.plural}", effect)
        return done

    clock: Callable[[], float] = staticmethod(lambda: NOW)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the controller called {name}")

    @staticmethod
    def _key(resource: Resource, name: str, namespace: str | None) -> tuple[str, str]:
        return resource.plural, f"{namespace}/{name}" if resource.namespaced else name

    def _find(self, resource: Resource, name: str, namespace: str | None) -> Json:
        found = self.objects.get(self._key(resource, name, namespace))
        if found is None:
            raise ApiError(f"there is no {name}", status=404, reason="NotFound", details={"name": name})
        return found

    def _raise(self, what: str) -> None:
        for pair in self.errors:
            if what.startswith(pair[0]):
                self.errors.remove(pair)
                raise pair[1]


def _json_patch(obj: Json, patch: list[Json]) -> None:
    for step in patch:
        *path, last = step["path"].split("/")[1:]
        where: Any = obj
        for part in path:
            where = where[part]
        here = int(last) if isinstance(where, list) else last
        if step["op"] == "test":
            value = where[here] if not isinstance(where, list) or here < len(where) else None
            if value != step["value"]:
                raise ApiError("the test failed", status=422, reason="Invalid")
        else:
            del where[here]


class FakeCloud(MemoryProvider):
    """The memory provider under the same axe."""

    axe: Axe
    refusals: list[CloudError]
    """Each is raised once by a delete."""

    async def list(self, tags: Any) -> Any:
        return await self.axe.around("cloud list", lambda: spawn(super(FakeCloud, self).list(tags)))

    async def find(self, token: str) -> Any:
        return await self.axe.around("cloud find", lambda: spawn(super(FakeCloud, self).find(token)))

    async def describe(self, instance_id: str) -> Any:
        return await self.axe.around("cloud describe", lambda: spawn(super(FakeCloud, self).describe(instance_id)))

    async def delete(self, instance_id: str) -> None:
        if self.refusals:
            raise self.refusals.pop()
        await self.axe.around("cloud delete", lambda: spawn(super(FakeCloud, self).delete(instance_id)))


class Told:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(
        self, regarding: Json, type: str, reason: str, note: str, action: str = "", related: Json | None = None
    ) -> None:
        assert regarding["kind"] == "PeerPod" and regarding["uid"] and action
        self.events.append((type, reason, note))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events]


class World:
    """One cluster, one cloud, one controller; `restart` kills the controller and starts another."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.kube = FakeKube()
        self.kube.clock = self.clock.seconds
        self.cloud = MemoryStore()
        self.faults = FaultPlan(guest=Guest.REFUSES)
        self.refusals: list[CloudError] = []
        self.told = Told()
        self.nodes: dict[str, bool] = {"n1": True}
        self.settings = PeerPodCtrlSettings(**{"cluster": CLUSTER, "provider": "memory", **settings})
        self.made = 0
        self.kube.changed = self._changed
        self.views: dict[str, PeerPodView] = {}
        self.restart()

    def restart(self, axe: Axe | None = None) -> None:
        """As kill -9 and a new process: all memory is lost."""
        if self.made:
            self.queue._started = False  # the dead process does nothing more
        self.kube.axe = self.axe = axe or Axe()
        self.views.update({k: parse(o) for (p, k), o in self.kube.objects.items() if p == PEER_PODS.plural})
        providers = Providers(self.clock, Configuration(), make=self._make)
        self.controller = Controller(
            self.clock,
            self.kube,
            self.settings,
            providers,
            self.told,
            views=self.views,
            nodes=self.nodes,
            enqueue=lambda key, delay=0.0: self.queue.add(key, delay),
            clock=self.clock.seconds,
        )
        self.providers = providers
        self.controller.acting = True
        self.sweeper = Sweeper(self.kube, self.settings, providers, views=self.views, nodes=self.nodes)
        self.queue = WorkQueue(self.clock, self.controller.work)
        for view in list(self.views.values()):
            self.controller.peer_pod_changed(None, view)
        self.queue.start()

    def _make(self, name: str, settings: Any, reactor: Any) -> FakeCloud:
        self.made += 1
        cloud = FakeCloud(MemorySettings(guest="refuses"), reactor, store=self.cloud, faults=self.faults)
        cloud.name = name
        cloud.axe = self.axe
        cloud.refusals = self.refusals
        return cloud

    def _changed(self, key: str, old: Json | None, new: Json | None) -> None:
        before = self.views.pop(key, None)
        if new is not None:
            self.views[key] = parse(new)
        self.controller.peer_pod_changed(before, self.views.get(key))

    def instance(
        self, sandbox: str, *, token: str = "", node: str = "n1", cluster: str = CLUSTER, pod: str = "web"
    ) -> str:
        """An instance of the cloud; its id. Without a sandbox it is one of the existing system, without our tags."""
        tags = {TAG_SANDBOX: sandbox, TAG_CLUSTER: cluster, TAG_NODE: node, TAG_POD: pod, TAG_NAMESPACE: "shop"}
        if not sandbox:
            tags = {}
        cloud = MemoryProvider(MemorySettings(), self.clock, store=self.cloud, faults=FaultPlan(guest=Guest.REFUSES))
        request = CreateRequest(
            token=token or f"{sandbox}-1", name="podvm", spec=InstanceSpec(), user_data=b"", tags=tags
        )
        made: list[str] = []
        spawn(cloud.create(request)).addCallback(lambda one: made.append(one.id))
        return made[0]

    def add(self, obj: Json) -> str:
        """A PeerPod; its key."""
        self.kube.put(PEER_PODS, obj)
        return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"

    def peer_pod(self, key: str) -> PeerPodView | None:
        """As it is in the cluster."""
        found = self.kube.objects.get((PEER_PODS.plural, key))
        return parse(found) if found else None

    def run(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass."""
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            self.clock.advance(min(step, until - self.clock.seconds()))
