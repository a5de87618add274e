"""Makes the adaptor's Kubernetes side from settings, on the real client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from peerpods.adaptor.executor import Place
from peerpods.adaptor.kube.cluster import FLUSH, KubeCluster, Options, Tools
from peerpods.adaptor.kube.peerpods import RETRY_MAX, Queue
from peerpods.adaptor.kube.podwatch import Store
from peerpods.config.settings import AdaptorSettings
from peerpods.kube.client import EventRecorder, Informer, Kube, KubeSettings, WorkQueue, connect
from peerpods.kube.objects.names import ADAPTOR, GROUP
from peerpods.kube.objects.resources import Resource
from peerpods.obs.log import get_logger

log = get_logger("adaptor")
WORKERS = 8
"""PeerPods that are written at once."""


def tools(reactor: Any, kube: Kube, node: str) -> Tools:
    """The client's parts for this node."""
    recorder = EventRecorder(reactor, kube, component=f"{GROUP}/{ADAPTOR}", instance=node)

    def make_informer(
        resource: Resource, fields: str, shrink: Callable[[Any], Any], on_change: Callable[[Any], None]
    ) -> Store:
        return Informer(reactor, kube, resource, fields=fields, shrink=shrink, on_change=on_change)

    def make_queue(work: Callable[[str], Awaitable[float | None]]) -> Queue:
        return WorkQueue(reactor, work, workers=WORKERS, cap=RETRY_MAX)

    async def close() -> None:
        await recorder.flush(FLUSH)
        recorder.stop()
        await kube.close()

    return Tools(kube=kube, make_informer=make_informer, make_queue=make_queue, recorder=recorder, close=close)


async def open_cluster(
    reactor: Any, settings: AdaptorSettings, kubernetes: KubeSettings, place: Place, provider: str, max_user_data: int
) -> KubeCluster:
    """The cluster; nothing is sent yet, so that an API server that is away is no hindrance.

    Raises:
        ConfigError: the kubeconfig, or the service account's files, cannot be used.
    """
    kube = await connect(reactor, kubernetes, component="adaptor")
    log.info("kubernetes", server=kube.url, node=place.node)
    options = Options(
        slow_after=settings.slow_after,
        limit_per_node=settings.limit_per_node,
        advertise_capacity=settings.advertise_capacity,
    )
    return KubeCluster(
        reactor,
        tools(reactor, kube, place.node),
        place=place,
        provider=provider,
        max_user_data=max_user_data,
        options=options,
    )
