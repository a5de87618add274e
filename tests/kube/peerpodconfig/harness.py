"""A controller against an API server, real or double, and what stands for kubelets and the cluster's controllers."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from peerpods.kube.client import ApiError, Kube, KubeSettings, PatchKind, connect
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.conditions import find_condition
from peerpods.kube.objects.resources import Resource
from peerpods.kube.peerpodconfig.controller import Controller
from tests.kube.peerpodconfig.samples import NAMESPACE

IMAGE = "peerpods:test"
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@attrs.define
class Told:
    """One event."""

    type: str
    reason: str
    note: str


class Events:
    """A recorder that only remembers."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def event(self, regarding: Any, type: str, reason: str, note: str, action: str = "", related: Any = None) -> None:
        """One event."""
        self.told.append(Told(type, reason, note))

    def reasons(self) -> list[str]:
        """Reasons, in order."""
        return [one.reason for one in self.told]


async def connected(reactor: Any, folder: Path, kubeconfig: dict[str, Any]) -> Kube:
    """A client by a kubeconfig."""
    path = folder / "kubeconfig"
    path.write_text(json.dumps(kubeconfig))
    return await connect(reactor, KubeSettings(kubeconfig=str(path)), component="peerpodconfig-ctrl")


class Scene:
    """One test's cluster and controller."""

    def __init__(self, reactor: Any, kube: Kube, namespace: str = NAMESPACE) -> None:
        self.reactor = reactor
        self.kube = kube
        self.namespace = namespace
        self.events = Events()
        self.offset = 0.0
        """Seconds that the controller's clock is ahead."""
        self.controller: Controller | None = None

    async def start(self, **more: Any) -> Controller:
        """A controller that leads."""
        import time

        self.controller = Controller(
            self.reactor,
            self.kube,
            self.events,
            namespace=self.namespace,
            image=IMAGE,
            clock=lambda: time.time() + self.offset,
            **more,
        )
        await self.controller.start()
        return self.controller

    async def stop(self) -> None:
        """End it, as a process that is killed would: nothing is undone."""
        if self.controller is not None:
            await self.controller.stop()
            self.controller = None

    # -- the API server

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Any:
        """An object, or None."""
        try:
            return await self.kube.get(resource, name, namespace if resource.namespaced else None)
        except ApiError as error:
            if not error.not_found:
                raise
            return None

    async def own(self, resource: Resource, name: str) -> Any:
        """An object of our namespace, or None."""
        return await self.get(resource, name, self.namespace)

    async def names(self, resource: Resource, namespace: str | None = None) -> list[str]:
        """Names of all."""
        items, _ = await self.kube.list(resource, namespace)
        return sorted(item["metadata"]["name"] for item in items)

    async def create(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return await self.kube.create(resource, body)

    async def status(self, resource: Resource, name: str, status: dict[str, Any], namespace: str | None = None) -> Any:
        """Patch an object's status."""
        return await self.kube.patch(
            resource, name, {"status": status}, namespace, kind=PatchKind.MERGE, subresource="status"
        )

    async def edit(self, resource: Resource, name: str, patch: Any, namespace: str | None = None) -> Any:
        """Merge-patch an object, as somebody else."""
        return await self.kube.patch(resource, name, patch, namespace, kind=PatchKind.MERGE, field_manager="somebody")

    async def config_map(self, **data: str) -> None:
        """The ConfigMap of the cloud's settings."""
        meta = {"name": names.CONFIG_MAP, "namespace": self.namespace}
        await self.create(r.CONFIG_MAPS, {"metadata": meta, "data": data})

    async def secret(self, **data: str) -> None:
        """The Secret of the cloud's settings."""
        meta = {"name": names.SECRET, "namespace": self.namespace}
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        await self.create(r.SECRETS, {"metadata": meta, "data": encoded})

    async def node(self, name: str, *, kata: bool = True, labels: dict[str, str] | None = None) -> None:
        """A worker node."""
        found = {"node.kubernetes.io/worker": ""} if labels is None else dict(labels)
        if kata:
            found[names.KATA_NODE_LABEL] = "true"
        await self.create(r.NODES, {"metadata": {"name": name, "labels": found}})

    async def config(self, name: str = "peerpods") -> Any:
        """A PeerPodConfig as it is."""
        return await self.own(r.PEER_POD_CONFIGS, name)

    async def condition(self, kind: str, name: str = "peerpods") -> Any:
        """One of its conditions, or {}."""
        obj = await self.config(name)
        conditions = ((obj or {}).get("status") or {}).get("conditions") or ()
        return find_condition(conditions, kind) or {}

    # -- time

    def pause(self, seconds: float) -> Deferred[None]:
        """Let some time pass."""
        return deferLater(self.reactor, seconds, lambda: None)

    async def until(self, probe: Callable[[], Any], what: str = "", timeout: float = 60.0) -> Any:
        """Wait until an awaitable probe gives something true, and give that."""
        end = self.reactor.seconds() + timeout
        while True:
            found = await probe()
            if found:
                return found
            assert self.reactor.seconds() < end, f"not within {timeout} s: {what or probe}"
            await self.pause(0.02)

    async def until_reason(self, reason: str, name: str = "peerpods", timeout: float = 60.0) -> Any:
        """Wait until Ready has this reason."""
        seen: list[Any] = [None]

        async def probe() -> Any:
            seen[0] = await self.condition("Ready", name)
            return seen[0] if seen[0].get("reason") == reason else None

        end = self.reactor.seconds() + timeout
        while True:
            found = await probe()
            if found:
                return found
            assert self.reactor.seconds() < end, f"Ready is {seen[0]}, not {reason}"
            await self.pause(0.02)

    # -- those who are missing here

    async def workloads_ready(self, nodes: int = 1) -> None:
        """What the DaemonSet and Deployment controllers and the webhook would do."""
        for name in (names.RELAY, names.ADAPTOR):
            await self.until(lambda name=name: self.own(r.DAEMON_SETS, name), name)
            live = await self.own(r.DAEMON_SETS, name)
            status = {
                "observedGeneration": live["metadata"]["generation"],
                "desiredNumberScheduled": nodes,
                "currentNumberScheduled": nodes,
                "numberMisscheduled": 0,
                "numberReady": nodes,
                "updatedNumberScheduled": nodes,
            }
            await self.status(r.DAEMON_SETS, name, status, self.namespace)
        await self.until(lambda: self.own(r.DEPLOYMENTS, names.WEBHOOK), "webhook")
        status = {"observedGeneration": 1, "replicas": 2, "availableReplicas": 2, "readyReplicas": 2}
        await self.status(r.DEPLOYMENTS, names.WEBHOOK, status, self.namespace)
        await self.until(lambda: self.get(r.MUTATING_WEBHOOKS, names.WEBHOOK), "registration")
        await self.trust()

    async def trust(self) -> None:
        """The webhook puts its CA in."""
        bundle = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").decode()
        patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
        await self.kube.patch(
            r.MUTATING_WEBHOOKS, names.WEBHOOK, patch, kind=PatchKind.JSON, field_manager="peerpods-webhook"
        )


@asynccontextmanager
async def scene(
    reactor: Any, folder: Path, kubeconfig: dict[str, Any], namespace: str = NAMESPACE
) -> AsyncIterator[Scene]:
    """A scene that is cleared away afterwards."""
    kube = await connected(reactor, folder, kubeconfig)
    made = Scene(reactor, kube, namespace)
    try:
        yield made
    finally:
        await made.stop()
        await kube.close()
