"""Sweeps: a cloud's list is compared with the cluster; what is lost twice is deleted after a last look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError

from peerpods.clouds import registry
from peerpods.clouds.interface import TAG_CLUSTER
from peerpods.errors import PeerPodError
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.peerpod import PeerPodView, parse
from peerpods.kube.objects.resources import PEER_PODS, PODS
from peerpods.kube.peerpod import metrics
from peerpods.kube.peerpod.asking import get_or_none, node_exists
from peerpods.kube.peerpod.deleter import LOOK_TIMEOUT, delete_instance
from peerpods.kube.peerpod.providers import Cloud, Providers
from peerpods.kube.peerpod.settings import UNNAMED_CLUSTER, PeerPodCtrlSettings
from peerpods.kube.peerpod.sweep import Cluster, Lost, judge, may_delete
from peerpods.model import Instance
from peerpods.obs.log import get_logger

log = get_logger("peerpod-ctrl")


def mode_of(settings: PeerPodCtrlSettings) -> str:
    """What `--sweep` comes to: "off", "report" or "delete".

    Two clusters of one account that nobody named are both called "default": neither may delete the other's.
    """
    if settings.sweep != "auto":
        return settings.sweep
    return "report" if settings.cluster in ("", UNNAMED_CLUSTER) else "delete"


class Sweeper:
    """Remembers, per cloud, what looked lost in the last round. One `round` at a time."""

    def __init__(
        self,
        kube: KubeApi,
        settings: PeerPodCtrlSettings,
        providers: Providers,
        *,
        views: Mapping[str, PeerPodView],
        nodes: Mapping[str, bool],
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._providers = providers
        self._views = views
        self._nodes = nodes
        self._seen: dict[str, Mapping[str, int]] = {}
        self.mode = mode_of(settings)
        if settings.sweep == "auto" and self.mode == "report":
            words = "lost VMs are reported, not deleted: the cluster has no name of its own; set --cluster (CLUSTER_ID)"
            log.warning("sweep_only_reports", note=words)

    def names(self) -> list[str]:
        """The clouds to sweep: by default, configured, or named by a PeerPod; only those that exist."""
        wanted = {self._settings.provider, *self._providers.configuration.named()}
        wanted |= {view.provider for view in self._views.values()}
        return sorted(wanted & set(registry.names()))

    def forget(self) -> None:
        """Start counting anew: another replica may have led meanwhile."""
        self._seen.clear()

    async def round(self) -> None:
        """One sweep of all clouds. Never raises; what fails waits for the next round."""
        if self.mode == "off":
            return
        for name in self.names():
            try:
                await self._providers.use(name, self._sweep)
            except CancelledError:
                raise
            except PeerPodError as error:
                log.warning("sweep_failed", provider=name, error=str(error))

    async def _sweep(self, cloud: Cloud) -> None:
        name = cloud.provider.name
        listed = await self._list(cloud)
        judged = judge(
            listed, self._cluster(self._views.values()), self._seen.get(name, {}), self._settings.sweep_limit
        )
        metrics.LOST.labels(name).set(len(judged.seen))
        self._seen[name] = judged.seen
        if judged.ripe:
            await self._end(cloud, judged.ripe)

    async def _list(self, cloud: Cloud) -> Sequence[Instance]:
        wanted = {TAG_CLUSTER: self._settings.cluster}
        return await cloud.call("list", cloud.provider.list(wanted), LOOK_TIMEOUT)

    def _cluster(self, views: Any) -> Cluster:
        pods: dict[tuple[str, str], set[str]] = {}
        sandboxes, instances = set(), set()
        for view in views:
            sandboxes.add(view.sandbox)
            instances.add(view.instance_id)
            if view.pod:
                pods.setdefault((view.namespace, view.pod), set()).add(view.sandbox)
        return Cluster(
            name=self._settings.cluster,
            sandboxes=sandboxes - {""},
            instances=instances - {""},
            nodes=frozenset(self._nodes),
            pods_with=pods,
        )

    async def _end(self, cloud: Cloud, ripe: Sequence[Lost]) -> None:
        """Report or delete. Our cache may be old: the PeerPods are read anew, and each node and pod is asked for."""
        views, _ = await self._kube.list(PEER_PODS, shrink=parse)
        cluster = self._cluster(views)
        for lost in ripe:
            done = "kept"
            if lost.sandbox not in cluster.sandboxes and lost.instance.id not in cluster.instances:
                done = await self._end_one(cloud, lost)
            metrics.SWEPT.labels(cloud.provider.name, done).inc()

    async def _end_one(self, cloud: Cloud, lost: Lost) -> str:
        facts = {"instance": lost.instance.id, "sandbox": lost.sandbox, "node": lost.node}
        facts |= {"pod": f"{lost.namespace}/{lost.pod}", "provider": cloud.provider.name}
        try:
            node = await node_exists(self._kube, lost.node)
            pod = bool(lost.pod) and await get_or_none(self._kube, PODS, lost.pod, lost.namespace) is not None
        except ApiError as error:
            log.warning("lost_vm_kept", **facts, reason=f"the API server does not say: {error}")
            return "kept"
        if not may_delete(lost, node_exists=node, pod_exists=pod):
            log.warning("lost_vm_kept", **facts, reason="its node or its pod exists after all")
            return "kept"
        if self.mode == "report":
            log.warning(
                "lost_vm", **facts, note="no PeerPod and no node knows this VM: delete it, or use --sweep delete"
            )
            return "reported"
        try:
            await delete_instance(cloud, lost.instance.id)
        except PeerPodError as error:
            log.warning("lost_vm_not_deleted", **facts, error=str(error))
            return "failed"
        log.warning("lost_vm_deleted", **facts, note="no PeerPod and no node knew it")
        return "deleted"
