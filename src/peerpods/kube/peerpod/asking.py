"""Questions to the API server about one PeerPod: its pod, its node, whether its namespace goes. One GET each."""

from __future__ import annotations

from typing import Any

from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.conditions import parse_time
from peerpods.kube.objects.names import GROUP
from peerpods.kube.objects.peerpod import PeerPodView
from peerpods.kube.objects.resources import CRDS, NAMESPACES, NODES, PEER_PODS, PODS, Resource
from peerpods.kube.peerpod.facts import Known, PodFact

CRD_NAME = f"{PEER_PODS.plural}.{GROUP}"


async def get_or_none(
    kube: KubeApi, resource: Resource, name: str, namespace: str | None = None
) -> dict[str, Any] | None:
    """The object, or None when there is none. Raises ApiError for every other answer."""
    try:
        return await kube.get(resource, name, namespace)
    except ApiError as error:
        if error.not_found:
            return None
        raise


def read_pod(obj: dict[str, Any] | None, view: PeerPodView) -> PodFact:
    """What the API server's answer says of a PeerPod's pod."""
    metadata = (obj or {}).get("metadata") or {}
    if obj is None or (view.pod_uid and metadata.get("uid") != view.pod_uid):
        return PodFact(state=Known.ABSENT)
    return PodFact(
        state=Known.PRESENT,
        node=(obj.get("spec") or {}).get("nodeName") or "",
        ends_at=parse_time(metadata.get("deletionTimestamp")),
    )


async def ask_pod(kube: KubeApi, view: PeerPodView) -> PodFact:
    """Whether the PeerPod's own pod exists; another pod of its name counts as none."""
    if not view.pod:
        return PodFact(state=Known.UNNAMED)
    return read_pod(await get_or_none(kube, PODS, view.pod, view.namespace), view)


async def node_exists(kube: KubeApi, node: str) -> bool:
    """Whether there is a node of that name, by the API server's own word."""
    return await get_or_none(kube, NODES, node) is not None


def going(obj: dict[str, Any] | None) -> bool:
    """Whether an object is gone or being deleted."""
    return obj is None or bool((obj.get("metadata") or {}).get("deletionTimestamp"))


async def is_terminating(kube: KubeApi, namespace: str) -> bool:
    """Whether the namespace or the CRD is being deleted, so that the finalizer holds up more than its object."""
    if going(await get_or_none(kube, NAMESPACES, namespace)):
        return True
    return going(await get_or_none(kube, CRDS, CRD_NAME))
