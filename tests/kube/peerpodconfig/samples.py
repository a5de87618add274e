"""PeerPodConfigs for the tests."""

from __future__ import annotations

import copy
from typing import Any

NAMESPACE = "peerpods-system"


def config_object(name: str = "peerpods", namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    """As a user writes it."""
    return {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPodConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"cloudSecretName": "peer-pods-secret", "configMapName": "peer-pods-cm", **copy.deepcopy(spec)},
    }


def stored(name: str = "peerpods", namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    """As the API server keeps it."""
    made = config_object(name, namespace, **spec)
    made["metadata"] |= {
        "uid": "5f0c3b1e-0000-4000-8000-000000000001",
        "generation": 3,
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return made


RICH: dict[str, Any] = {
    "provider": "libvirt",
    "clusterName": "east",
    "limit": "25",
    "nodeSelector": {"pool": "peers"},
    "nodeLimits": [{"nodeSelector": {"size": "big"}, "limit": "60"}],
    "runtimeClasses": [
        {"name": "kata-remote"},
        {
            "name": "kata-remote-gpu",
            "handler": "kata-remote",
            "resourceName": "kata.peerpods.io/gpu-vm",
            "overhead": {"cpu": "300m", "memory": "200Mi"},
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    ],
    "images": {"relay": "example.test/relay:1"},
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "mirror"}],
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "peers", "effect": "NoSchedule"}],
    "priorityClassName": "very-high",
    "seLinuxType": "spc_t",
    "tlsSecretName": "cloud-ca",
    "authJsonSecretName": "registries",
    "resources": {"adaptor": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}},
    "adaptor": {
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "proxy.test:3128"}],
        "logFormat": "console",
        "startTimeout": "150s",
        "keepFailed": "10m",
        "probePort": 18000,
    },
    "relay": {"probePort": 18001},
    "webhook": {
        "replicas": 3,
        "failurePolicy": "Ignore",
        "timeoutSeconds": 5,
        "exemptNamespaces": ["monitoring"],
        "machineTypes": ["small", "large"],
        "denyHopeless": True,
        "certManager": {"issuerRef": {"name": "corporate", "kind": "ClusterIssuer"}},
    },
}
