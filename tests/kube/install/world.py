"""A cluster in memory with peer pods on it, for tests of what removes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from peerpods.kube.client import Kube, KubeSettings, connect
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from tests.kube.double import Double

NAMESPACE = names.INSTALL_NAMESPACE
OURS = {"app.kubernetes.io/part-of": "peerpods"}
MADE = {**OURS, "app.kubernetes.io/managed-by": names.PEER_POD_CONFIG_CTRL}


@asynccontextmanager
async def connected(double: Double, folder: Path) -> AsyncIterator[Kube]:
    """A client of the double."""
    from twisted.internet import reactor

    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(double.kubeconfig_dict()))
    kube = await connect(reactor, KubeSettings(kubeconfig=str(file)), component="test")
    try:
        yield kube
    finally:
        await kube.close()


def install(double: Double, *, available: int = 2, managed_by: str = "kustomize", ours: bool = True) -> None:
    """The namespace and controllers, as installed."""
    double.seed(r.NAMESPACES, {"metadata": {"name": NAMESPACE, "labels": OURS if ours else {}}})
    labels = {**OURS, "app.kubernetes.io/managed-by": managed_by}
    notes = {"meta.helm.sh/release-name": "pp", "meta.helm.sh/release-namespace": "there"}
    for name in (names.PEER_POD_CTRL, names.PEER_POD_CONFIG_CTRL):
        double.seed(
            r.DEPLOYMENTS,
            {
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": notes},
                "spec": {"selector": {}, "template": {}},
                "status": {"availableReplicas": available},
            },
        )
        for resource in (r.ROLES, r.ROLE_BINDINGS):
            double.seed(resource, {"metadata": {"name": f"peerpods-{name}", "namespace": NAMESPACE, "labels": labels}})
        for resource in (r.CLUSTER_ROLES, r.CLUSTER_ROLE_BINDINGS):
            double.seed(resource, {"metadata": {"name": f"peerpods-{name}", "labels": labels}})
        double.seed(r.SERVICE_ACCOUNTS, {"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}})
    double.seed(r.PRIORITY_CLASSES, {"metadata": {"name": "peerpods", "labels": labels}})


def config(double: Double, name: str = names.CONFIG_NAME, finalizer: bool = True) -> None:
    """A PeerPodConfig that was set up, with what was made of it beyond the namespace."""
    finalizers = [names.CONFIG_FINALIZER] if finalizer else []
    double.seed(
        r.PEER_POD_CONFIGS,
        {"metadata": {"name": name, "namespace": NAMESPACE, "finalizers": finalizers}, "spec": {}},
    )
    double.seed(r.MUTATING_WEBHOOKS, {"metadata": {"name": names.WEBHOOK, "labels": MADE}})
    double.seed(r.RUNTIME_CLASSES, {"metadata": {"name": "kata-remote", "labels": MADE}, "handler": "kata-remote"})
    double.seed(r.RUNTIME_CLASSES, {"metadata": {"name": "gvisor"}, "handler": "gvisor"})
    for resource in (r.ROLES, r.ROLE_BINDINGS):
        double.seed(resource, {"metadata": {"name": names.PULL_SECRETS_ROLE, "namespace": "shop", "labels": MADE}})
    amounts = {"cpu": "8", names.EXTENDED_RESOURCE: "10"}
    double.seed(r.NODES, {"metadata": {"name": "w1"}, "status": {"capacity": amounts, "allocatable": dict(amounts)}})
    double.seed(r.NODES, {"metadata": {"name": "w2"}, "status": {"capacity": {"cpu": "8"}}})


def peer_pod(double: Double, name: str, instance: str = "i-1") -> None:
    """A PeerPod whose VM is there."""
    double.seed(
        r.PEER_PODS,
        {
            "metadata": {
                "name": name, "namespace": "shop", "finalizers": [names.FINALIZER],
                "annotations": {names.SANDBOX_ANNOTATION: f"sandbox-{name}"},
            },
            "spec": {"cloudProvider": "libvirt", "instanceID": instance, "nodeName": "w1", "clusterName": "c"},
        },
    )  # fmt: skip


class Controllers:
    """Plays the two controllers: what is being deleted loses its finalizers, PeerPods before their config."""

    def __init__(self, double: Double, kube: Kube, reactor: Any) -> None:
        from twisted.internet.task import LoopingCall

        self._double, self._kube = double, kube
        self._loop = LoopingCall.withCount(lambda _: self._turn())
        self._loop.clock = reactor
        self.order: list[str] = []

    def start(self) -> None:
        """Begin."""
        self._loop.start(0.05)

    def stop(self) -> None:
        """End."""
        self._loop.stop()

    def _turn(self) -> None:
        pods = self._double.store.list(r.PEER_PODS)
        for one in self._double.store.list(r.PEER_POD_CONFIGS):
            if one["metadata"].get("deletionTimestamp"):
                for pod in pods:
                    self._end(r.PEER_PODS, pod)
                if not pods:
                    self._end(r.PEER_POD_CONFIGS, one)
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                self._end(r.PEER_PODS, pod)

    def _end(self, resource: r.Resource, one: Any) -> None:
        metadata = one["metadata"]
        self.order.append(metadata["name"])
        self._double.remove(resource, metadata["name"], metadata["namespace"], now=True)
