"""What all rendered objects share: labels, ownership, security, probes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.kube.objects import names
from peerpods.kube.objects.resources import PDBS, Resource
from peerpods.kube.peerpodconfig.spec import Config

MANAGER = names.PEER_POD_CONFIG_CTRL
CONFIG_CHECKSUM = "confidentialcontainers.org/config-checksum"
"""On the adaptor's pods: changes with the ConfigMap and the Secret, so that a change rolls the DaemonSet."""


@attrs.frozen(kw_only=True)
class Facts:
    """What rendering needs to know of the cluster."""

    version: tuple[int, int] = (1, 30)
    pdbs: Resource | None = PDBS
    """Where PodDisruptionBudgets are (policy/v1 came with 1.21); None: the server has none."""
    image: str = "peerpods"
    """The image where the PeerPodConfig names none."""
    checksum: str = ""
    """Of ConfigMap and Secret."""
    max_user_data: int = 0
    """Bytes of user data that the provider takes; 0: not known."""

    @property
    def has_surge(self) -> bool:
        """Whether a DaemonSet has maxSurge; before 1.22 it is an unknown field."""
        return self.version >= (1, 22)

    @property
    def has_match_conditions(self) -> bool:
        """Whether a webhook has matchConditions: on by default since 1.28."""
        return self.version >= (1, 28)


def metadata(config: Config, name: str, component: str, **more: Any) -> dict[str, Any]:
    """Metadata of a namespaced child: labels, and the PeerPodConfig as its owner."""
    owner = {
        "apiVersion": f"{names.GROUP}/{names.VERSION}",
        "kind": "PeerPodConfig",
        "name": config.name,
        "uid": config.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": config.namespace,
        "labels": names.labels(component, MANAGER),
        "ownerReferences": [owner],
        **more,
    }


def cluster_metadata(config: Config, name: str, component: str) -> dict[str, Any]:
    """Metadata of a cluster-scoped child: it cannot be owned by a namespaced object, so it names its maker."""
    return {
        "name": name,
        "labels": names.labels(component, MANAGER),
        "annotations": {names.CONFIG_ANNOTATION: config.key},
    }


def selector(component: str) -> dict[str, str]:
    """Labels that pick a component's pods; a DaemonSet's selector can never change."""
    return {"app.kubernetes.io/name": "peerpods", "app.kubernetes.io/component": component}


def image(config: Config, facts: Facts, component: str) -> str:
    """The image of a component."""
    return config.images.get(component) or facts.image


def resources(config: Config, component: str, default: Mapping[str, Any]) -> dict[str, Any]:
    """Requests and limits of a component: the user's where he gave any, else the default."""
    asked = config.resources.get(component) or {}
    return {key: dict(value) for key, value in (asked or default).items() if value}


def field_env(name: str, path: str) -> dict[str, Any]:
    """An environment variable from the pod's own facts."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def pod_env() -> list[dict[str, Any]]:
    """Who and where the pod is."""
    return [
        field_env("NODE_NAME", "spec.nodeName"),
        field_env("POD_NAME", "metadata.name"),
        field_env("POD_NAMESPACE", "metadata.namespace"),
        field_env("POD_UID", "metadata.uid"),
    ]


def http_probe(path: str, port: int, *, period: int, failures: int, timeout: int = 5, host: str = "") -> dict[str, Any]:
    """One HTTP probe."""
    get: dict[str, Any] = {"path": path, "port": port, "scheme": "HTTP"}
    if host:
        get["host"] = host
    return {"httpGet": get, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout}


def pod_common(config: Config, facts: Facts, *, account: str, priority: str) -> dict[str, Any]:
    """Fields of every pod spec."""
    spec: dict[str, Any] = {
        "serviceAccountName": account,
        "priorityClassName": config.priority_class or priority,
        "securityContext": _pod_security(config),
    }
    if config.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.pull_secrets]
    return spec


def _pod_security(config: Config) -> dict[str, Any]:
    # The runtime's own profile blocks what no container needs. It allows setns and mount only where the container has
    # CAP_SYS_ADMIN (containerd and CRI-O alike), which is what the adaptor is given for it.
    return {"seccompProfile": {"type": "RuntimeDefault"}}


def host_path(name: str, path: str) -> dict[str, Any]:
    """A folder of the node, made when missing."""
    return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}


def secret_volume(name: str, secret: str, *, optional: bool) -> dict[str, Any]:
    """A Secret's keys as files that only root reads."""
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o600, "optional": optional}}


def scratch() -> dict[str, Any]:
    """The only place a container may write to, beside the node's folders."""
    return {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}
