"""The kinds of objects that the double serves: built-in ones, and those of registered CRDs."""

from __future__ import annotations

from typing import Any

import attrs

from peerpods.kube.objects import resources as r
from peerpods.kube.objects.resources import Resource

Key = tuple[str, str]
"""(group, plural)"""

NAMES = ("metadata.name", "metadata.namespace")

# How lists of built-in objects are merged, by the field's name: the keys of their items.
LIST_KEYS = {
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "conditions": ("type",),
    "addresses": ("type",),
    "webhooks": ("name",),
    "hostAliases": ("ip",),
}


@attrs.frozen
class Kind:
    """One kind and what sets it apart."""

    resource: Resource
    status: bool = False
    """Has a status subresource."""
    generation: bool = False
    """Counts changes of the spec."""
    fields: tuple[str, ...] = NAMES
    """What field selectors may name."""
    schema: dict[str, Any] | None = None
    """openAPIV3Schema of a custom resource."""
    custom: bool = False

    @property
    def key(self) -> Key:
        """Where the store keeps its objects."""
        return self.resource.group, self.resource.plural

    def list_keys(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """How the list at `path` (field names only) is merged: its items' keys, () for a set, None for one value."""
        if path == ("metadata", "finalizers"):
            return ()
        if path[:1] == ("metadata",) or not self.custom:
            if path[-1] == "ports":
                return ("port", "protocol") if self.resource == r.SERVICES else ("containerPort", "protocol")
            return LIST_KEYS.get(path[-1])
        node = self.schema or {}
        for name in path:
            node = node.get("items", node) if node.get("type") == "array" else node
            node = node.get("properties", {}).get(name) or node.get("additionalProperties") or {}
            if not isinstance(node, dict):
                return None
        how = node.get("x-kubernetes-list-type")
        return tuple(node.get("x-kubernetes-list-map-keys", ())) if how == "map" else () if how == "set" else None


POD_FIELDS = (
    *NAMES, "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
    "status.podIP", "status.nominatedNodeName",
)  # fmt: skip
EVENT_FIELDS = (
    *NAMES, "regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
    "regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type",
)  # fmt: skip

ALL = (
    Kind(r.PODS, status=True, fields=POD_FIELDS),
    Kind(r.SECRETS, fields=(*NAMES, "type")),
    Kind(r.CONFIG_MAPS),
    Kind(r.NAMESPACES, status=True, fields=("metadata.name", "status.phase")),
    Kind(r.NODES, status=True, fields=("metadata.name", "spec.unschedulable")),
    Kind(r.SERVICES, status=True),
    Kind(r.ENDPOINTS),
    Kind(r.SERVICE_ACCOUNTS),
    Kind(r.EVENTS, fields=EVENT_FIELDS),
    Kind(r.LEASES),
    Kind(r.DEPLOYMENTS, status=True, generation=True),
    Kind(r.DAEMON_SETS, status=True, generation=True),
    Kind(r.JOBS, status=True),
    Kind(r.PDBS, status=True, generation=True),
    Kind(r.NETWORK_POLICIES, generation=True),
    Kind(r.PRIORITY_CLASSES, generation=True),
    Kind(r.RUNTIME_CLASSES),
    Kind(r.MUTATING_WEBHOOKS, generation=True),
    Kind(r.ROLES),
    Kind(r.ROLE_BINDINGS),
    Kind(r.CLUSTER_ROLES),
    Kind(r.CLUSTER_ROLE_BINDINGS),
    Kind(r.CRDS, status=True, generation=True),
)


def builtin() -> dict[Key, Kind]:
    """All kinds that are there before any CRD."""
    return {kind.key: kind for kind in ALL}


def custom(crd: dict[str, Any]) -> Kind:
    """The kind that a CustomResourceDefinition defines; only its storage version is served."""
    spec = crd["spec"]
    version = next(each for each in spec["versions"] if each.get("storage"))
    names = spec["names"]
    return Kind(
        Resource(spec["group"], version["name"], names["plural"], names["kind"], spec["scope"] == "Namespaced"),
        status="status" in version.get("subresources", {}),
        generation=True,
        schema=version.get("schema", {}).get("openAPIV3Schema"),
        custom=True,
    )
