"""The whole controller against an API server, double or real, with clouds in memory; the test is the admin."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from peerpods.clouds.interface import (
    TAG_CLUSTER,
    TAG_NAMESPACE,
    TAG_NODE,
    TAG_POD,
    TAG_SANDBOX,
    TAG_TOKEN,
    CreateRequest,
)
from peerpods.clouds.memory.faults import FaultPlan, Guest
from peerpods.clouds.memory.provider import MemoryProvider, MemoryStore
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.kube.client import ApiError, Kube, KubeSettings, PatchKind, connect
from peerpods.kube.objects.peerpod import new_peer_pod
from peerpods.kube.objects.resources import EVENTS, LEASES, PEER_PODS, PODS, Resource
from peerpods.kube.peerpod.configuration import Configuration
from peerpods.kube.peerpod.providers import Providers
from peerpods.kube.peerpod.service import PeerPodCtrl
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.model import InstanceSpec

Json = dict[str, Any]
_numbers = itertools.count(1)
QUICK = {"adaptor_grace": 0.5, "pod_grace": 0.5, "node_grace": 0.5, "recheck": 5.0, "sweep": "off"}


def a_pod(name: str, namespace: str, node: str = "") -> Json:
    """A pod that any API server admits; nobody runs it."""
    spec: Json = {"containers": [{"name": "c", "image": "example.com/nothing:1"}]}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


class Stage:
    """One API server, one cloud, controllers made by `controller`.

    Args:
        kubeconfig: file of the admin.
        namespace: exists, and is the test's own.
        cluster: name of this test's cluster in the cloud.
    """

    def __init__(self, reactor: Any, kubeconfig: Path, namespace: str) -> None:
        self.reactor = reactor
        self.kubeconfig = KubeSettings(kubeconfig=str(kubeconfig))
        self.namespace = namespace
        self.cluster = f"stage-{namespace}"
        self.cloud = MemoryStore()
        self.faults = FaultPlan(guest=Guest.REFUSES)
        self.services: list[PeerPodCtrl] = []

    async def open(self) -> Stage:
        """Connect as the admin."""
        self.kube: Kube = await connect(self.reactor, self.kubeconfig, component="test")
        return self

    async def close(self) -> None:
        """Stop the controllers, and let go of every PeerPod that is left."""
        for service in self.services:
            if service.running:
                await service.stopService()
        for one in (await self.kube.list(PEER_PODS, self.namespace))[0]:
            await self.strip(one["metadata"]["name"])
        await self.kube.close()

    async def strip(self, name: str) -> None:
        """Take all finalizers off and delete."""
        try:
            patch = {"metadata": {"finalizers": None}}
            await self.kube.patch(PEER_PODS, name, patch, self.namespace, kind=PatchKind.MERGE)
            await self.kube.delete(PEER_PODS, name, self.namespace)
        except ApiError as error:
            if not error.not_found:
                raise

    def controller(self, *, kubeconfig: KubeSettings | None = None, **settings: Any) -> PeerPodCtrl:
        """A controller, not yet started."""
        chosen = {
            **QUICK,
            "cluster": self.cluster,
            "namespace": self.namespace,
            "provider": "memory",
            "identity": f"replica-{next(_numbers)}",
            "leader_elect": False,
            **settings,
        }
        providers = Providers(self.reactor, Configuration(), make=self._make)
        service = PeerPodCtrl(PeerPodCtrlSettings(**chosen), kubeconfig or self.kubeconfig, providers, self.reactor)
        self.services.append(service)
        return service

    def _make(self, _name: str, _settings: Any, reactor: Any) -> MemoryProvider:
        settings = MemorySettings(guest="refuses")
        return MemoryProvider(settings, reactor, store=self.cloud, faults=self.faults)

    async def vm(self, sandbox: str, *, pod: str = "web", node: str = "nowhere", attempt: int = 1) -> str:
        """An instance; its id. Without a sandbox one of the existing system."""
        tags = {
            TAG_SANDBOX: sandbox,
            TAG_CLUSTER: self.cluster,
            TAG_NODE: node,
            TAG_POD: pod,
            TAG_NAMESPACE: self.namespace,
            TAG_TOKEN: f"{sandbox}-{attempt}",
        }
        request = CreateRequest(
            token=f"{sandbox}-{attempt}", name="podvm", spec=InstanceSpec(), user_data=b"", tags=tags if sandbox else {}
        )
        return (await self._make("memory", None, self.reactor).create(request)).id

    async def pod(self, name: str = "web", node: str = "") -> str:
        """A pod; its UID."""
        made = await self.kube.create(PODS, a_pod(name, self.namespace, node))
        return str(made["metadata"]["uid"])

    async def peer_pod(
        self, sandbox: str, uid: str, *, pod: str = "web", instance: str = "", node: str = "nowhere", **spec: str
    ) -> str:
        """A PeerPod; its name."""
        made = new_peer_pod(
            sandbox=sandbox,
            pod=pod,
            namespace=self.namespace,
            pod_uid=uid,
            provider="memory",
            instance_id=instance,
            node=node,
            cluster=self.cluster,
            token=f"{sandbox}-1",
        )
        made["spec"] |= spec
        return str((await self.kube.create(PEER_PODS, made))["metadata"]["name"])

    async def phase(self, name: str, phase: str) -> None:
        """Write a PeerPod's phase, as the adaptor."""
        await self.kube.patch(
            PEER_PODS,
            name,
            {"status": {"phase": phase}},
            self.namespace,
            kind=PatchKind.MERGE,
            subresource="status",
        )

    async def find(self, resource: Resource, name: str) -> Json | None:
        """An object of the test's namespace, or None."""
        try:
            return await self.kube.get(resource, name, self.namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def gone(self, resource: Resource, name: str) -> bool:
        """Whether it is gone."""
        return await self.find(resource, name) is None

    async def reasons(self) -> list[str]:
        """Reasons of the events of the test's namespace."""
        return sorted({one["reason"] for one in (await self.kube.list(EVENTS, self.namespace))[0]})

    async def leader(self) -> str:
        """Who holds the lease."""
        lease = await self.find(LEASES, "peerpod-ctrl")
        return str((lease or {}).get("spec", {}).get("holderIdentity") or "")

    async def until(self, what: Callable[[], Awaitable[bool] | bool], seconds: float = 60.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while True:
            found = what()
            if found if isinstance(found, bool) else await found:
                return
            assert time.monotonic() < end, f"not within {seconds:g} s"
            await self.pause(0.1)

    async def settled(self) -> None:
        """Wait until the garbage collector has seen all that was made so far: it takes changes of a kind in order."""
        probe = await self.peer_pod(f"{next(_numbers):064x}", "00000000-0000-0000-0000-000000000000", pod="never-was")
        await self.kube.patch(
            PEER_PODS, probe, {"metadata": {"finalizers": None}}, self.namespace, kind=PatchKind.MERGE
        )
        await self.until(lambda: self.gone(PEER_PODS, probe), 120)

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.reactor, seconds)
