"""The informers: all that the controller looks at, kept small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import gatherResults

from peerpods.kube.client import ApiError, Change, Informer, KubeApi
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.resources import Resource
from peerpods.kube.peerpodconfig.facts import node_facts, pod_facts

MANAGED = f"app.kubernetes.io/managed-by={names.PEER_POD_CONFIG_CTRL}"
OLD_PDBS = Resource("policy", "v1beta1", "poddisruptionbudgets", "PodDisruptionBudget")
"""Before Kubernetes 1.21."""
CONFIGS = "configs"
CHILDREN = (r.DAEMON_SETS, r.DEPLOYMENTS, r.SERVICES, r.NETWORK_POLICIES)
"""Kinds of namespaced children, beside PodDisruptionBudgets."""


async def discover(kube: KubeApi) -> tuple[tuple[int, int], Resource | None]:
    """The server's version, and where it keeps PodDisruptionBudgets (None: nowhere).

    Raises:
        ApiError: the server does not answer.
    """
    version = await kube.version()
    try:
        group = await kube.request("GET", "/apis/policy")
    except ApiError as error:
        if not error.not_found:
            raise
        return version, None
    served = {one.get("version") for one in group.get("versions") or ()}
    if "v1" in served:
        return version, r.PDBS
    return version, OLD_PDBS if "v1beta1" in served else None


def slim(obj: dict[str, Any]) -> dict[str, Any]:
    """An object without its bookkeeping, which can be larger than itself."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": meta}


def _config_map(obj: dict[str, Any]) -> dict[str, Any]:
    meta = obj["metadata"]
    return {
        "metadata": {"name": meta["name"], "uid": meta.get("uid", ""), "resourceVersion": meta["resourceVersion"]},
        "data": obj.get("data") or {},
    }


class World:
    """What is in the cluster, as far as it concerns us.

    Args:
        on_change: (kind of store, change) for each real difference.
    """

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        namespace: str,
        pdbs: Resource | None,
        on_change: Callable[[str, Change], None],
    ) -> None:
        own = {"namespace": namespace, "labels": MANAGED, "shrink": slim}
        wanted: dict[str, tuple[Resource, dict[str, Any]]] = {
            CONFIGS: (r.PEER_POD_CONFIGS, {"shrink": slim}),
            **{one.kind: (one, own) for one in CHILDREN},
            "ConfigMap": (r.CONFIG_MAPS, {"namespace": namespace, "shrink": _config_map}),
            # By name, so that a right on this one name is enough.
            r.MUTATING_WEBHOOKS.kind: (
                r.MUTATING_WEBHOOKS,
                {"fields": f"metadata.name={names.WEBHOOK}", "shrink": slim},
            ),
            # All: one of our name that somebody else made is left alone.
            r.RUNTIME_CLASSES.kind: (r.RUNTIME_CLASSES, {"shrink": slim}),
            "Node": (r.NODES, {"shrink": node_facts}),
            "Pod": (r.PODS, {"shrink": partial(pod_facts, namespace=namespace)}),
            r.ROLES.kind: (r.ROLES, {"labels": MANAGED, "shrink": slim}),
            r.ROLE_BINDINGS.kind: (r.ROLE_BINDINGS, {"labels": MANAGED, "shrink": slim}),
        }
        if pdbs is not None:
            wanted[pdbs.kind] = (pdbs, own)
        self.children: tuple[Resource, ...] = CHILDREN if pdbs is None else (*CHILDREN, pdbs)
        self._informers = {
            kind: Informer(reactor, kube, resource, on_change=partial(on_change, kind), **how)
            for kind, (resource, how) in wanted.items()
        }

    async def start(self) -> None:
        """Begin to look; returns when everything has been seen once."""
        await gatherResults([one.start() for one in self._informers.values()], consumeErrors=True)

    def stop(self) -> None:
        """Look no more."""
        for one in self._informers.values():
            one.stop()

    def unsynced(self) -> list[str]:
        """Kinds that have not been seen once."""
        return sorted(kind for kind, one in self._informers.items() if not one.synced)

    def of(self, kind: str) -> Mapping[str, Any]:
        """The store of a kind: NAMESPACE/NAME (or NAME) to object."""
        return self._informers[kind].store

    def one(self, kind: str, namespace: str, name: str) -> Any:
        """One object, or None."""
        return self.of(kind).get(f"{namespace}/{name}" if namespace else name)

    def owned(self, uid: str) -> list[tuple[Resource, dict[str, Any]]]:
        """The namespaced children of a PeerPodConfig."""
        return [
            (resource, obj)
            for resource in self.children
            for obj in list(self.of(resource.kind).values())
            if any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or ())
        ]

    def cluster_owned(self, resource: Resource, key: str) -> list[dict[str, Any]]:
        """The cluster-scoped children of the PeerPodConfig NAMESPACE/NAME."""
        return [
            obj
            for obj in list(self.of(resource.kind).values())
            if (obj["metadata"].get("annotations") or {}).get(names.CONFIG_ANNOTATION) == key
        ]
