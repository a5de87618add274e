"""The DaemonSet of the relay. Pure.

The relay holds the pods' agent sockets, and its end is the end of its node's pods. So it is only replaced when its pod
is deleted by hand, on a drained node (OnDelete). It needs no capability: unix sockets in root's folder and TCP to the
VMs.
"""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects import names
from peerpods.kube.peerpodconfig.render.adaptor import LOOPBACK, node_pod
from peerpods.kube.peerpodconfig.render.parts import (
    Facts,
    host_path,
    http_probe,
    image,
    metadata,
    pod_env,
    resources,
    scratch,
    selector,
)
from peerpods.kube.peerpodconfig.spec import Config

DEFAULT_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


def relay(config: Config, facts: Facts) -> dict[str, Any]:
    """DaemonSet peerpods-relay."""
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(config, names.RELAY, "relay"),
        "spec": {
            "selector": {"matchLabels": selector("relay")},
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 5,
            "template": {
                "metadata": {"labels": names.labels("relay", names.PEER_POD_CONFIG_CTRL)},
                "spec": _pod(config, facts),
            },
        },
    }


def _pod(config: Config, facts: Facts) -> dict[str, Any]:
    arguments = [f"--http={LOOPBACK}:{config.relay_port}"]
    if config.adaptor.log_format:
        arguments.append(f"--log-format={config.adaptor.log_format}")
    env = pod_env()
    if config.config_map:
        # The one setting that adaptor and relay must have alike; nothing else of the ConfigMap is the relay's.
        folder = {"name": config.config_map, "key": "PODS_DIR", "optional": True}
        env.append({"name": "PODS_DIR", "valueFrom": {"configMapKeyRef": folder}})
    container = {
        "name": "relay",
        "image": image(config, facts, "relay"),
        "imagePullPolicy": config.pull_policy,
        "command": ["twistd", "-n", "--pidfile=", "relay"],
        "args": arguments,
        "env": env,
        "resources": resources(config, "relay", DEFAULT_RESOURCES),
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": http_probe("/readyz", config.relay_port, period=2, failures=60, host=LOOPBACK),
        "readinessProbe": http_probe("/readyz", config.relay_port, period=10, failures=3, host=LOOPBACK),
        # Killing a relay costs its node's pods: only one that has not turned for ten minutes has lost them already.
        "livenessProbe": http_probe("/healthz", config.relay_port, period=60, failures=10, timeout=30, host=LOOPBACK),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "run-peerpod", "mountPath": "/run/peerpod"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (in the container)
        ],
    }
    return {
        **node_pod(config, facts, names.RELAY),
        "automountServiceAccountToken": False,  # the relay knows no Kubernetes
        "containers": [container],
        "volumes": [host_path("run-peerpod", "/run/peerpod"), scratch()],
    }
