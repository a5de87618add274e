"""The DaemonSet of the adaptor. Pure.

What the adaptor needs on a node, found by reading what it does:

| need | why |
|---|---|
| host network | the pod's veth end, the VXLAN devices and the routes to the VMs are the node's own |
| CAP_NET_ADMIN | makes devices, addresses, routes, tc filters and the nftables table, by netlink |
| CAP_SYS_ADMIN | setns(2) into a pod's network namespace asks for it, in the caller's and the target's user namespace |
| /run/peerpod | the socket the shim dials, the relay's socket, one folder per sandbox |
| /run/netns, HostToContainer | namespaces of pods that are made after this container started must appear in it |
| /var/lib/peerpods | journal and keys outlive the container |

No further capability: its files are root's own, its ports are high. No /lib/modules and no xtables.lock: the kernel
itself loads vxlan and nf_tables on first use, in the node's own root, and no iptables is called. Not privileged, no
host PIDs. `allowPrivilegeEscalation` stays unset, since API servers refuse false beside CAP_SYS_ADMIN.
"""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects import names
from peerpods.kube.peerpodconfig.render.parts import (
    CONFIG_CHECKSUM,
    Facts,
    host_path,
    http_probe,
    image,
    metadata,
    pod_common,
    pod_env,
    resources,
    scratch,
    secret_volume,
    selector,
)
from peerpods.kube.peerpodconfig.spec import Config

LOOPBACK = "127.0.0.1"
NODE_PRIORITY = "system-node-critical"
CAPABILITIES = ["NET_ADMIN", "SYS_ADMIN"]
DEFAULT_RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
AUTH_FOLDER = "/etc/peerpods/auth"


def adaptor(config: Config, facts: Facts) -> dict[str, Any]:
    """DaemonSet peerpods-adaptor: one node at a time, the old pod gone before the new one takes its sockets."""
    rolling: dict[str, Any] = {"maxUnavailable": 1}
    if facts.has_surge:
        rolling["maxSurge"] = 0
    template: dict[str, Any] = {"labels": names.labels("adaptor", names.PEER_POD_CONFIG_CTRL)}
    if facts.checksum:
        template["annotations"] = {CONFIG_CHECKSUM: facts.checksum}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(config, names.ADAPTOR, "adaptor"),
        "spec": {
            "selector": {"matchLabels": selector("adaptor")},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "revisionHistoryLimit": 5,
            "template": {"metadata": template, "spec": _pod(config, facts)},
        },
    }


def node_pod(config: Config, facts: Facts, account: str) -> dict[str, Any]:
    """What the pods of both node services share."""
    spec = {
        **pod_common(config, facts, account=account, priority=NODE_PRIORITY),
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": dict(config.node_selector),
        "tolerations": [dict(one) for one in config.tolerations],
        "terminationGracePeriodSeconds": 30,  # twice what the adaptor gives deletions under way
    }
    if config.selinux_type:
        spec["securityContext"]["seLinuxOptions"] = {"type": config.selinux_type}
    return spec


def _pod(config: Config, facts: Facts) -> dict[str, Any]:
    port = config.adaptor.probe_port
    # A start connects to the cloud and checks its settings: five minutes, then the container starts over. Pods run on
    # meanwhile, so neither probe looks at them: ready is "journal loaded and sockets answering", alive is "the process
    # turns", and only a process that has not turned for two minutes is killed.
    container = {
        "name": "adaptor",
        "image": image(config, facts, "adaptor"),
        "imagePullPolicy": config.pull_policy,
        "command": ["twistd", "-n", "--pidfile=", "adaptor"],
        "args": _arguments(config),
        "env": [*pod_env(), *(_variable(one) for one in config.adaptor.extra_env)],
        "resources": resources(config, "adaptor", DEFAULT_RESOURCES),
        "securityContext": {
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
        },
        "startupProbe": http_probe("/readyz", port, period=5, failures=60, host=LOOPBACK),
        "readinessProbe": http_probe("/readyz", port, period=10, failures=3, host=LOOPBACK),
        "livenessProbe": http_probe("/healthz", port, period=20, failures=6, timeout=10, host=LOOPBACK),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(config),
    }
    sources = _env_from(config)
    if sources:
        container["envFrom"] = sources
    return {**node_pod(config, facts, names.ADAPTOR), "containers": [container], "volumes": _volumes(config)}


def _arguments(config: Config) -> list[str]:
    """Flags beat the environment, so that what the PeerPodConfig says counts before what the ConfigMap says."""
    flags = {
        "provider": config.provider,
        "cluster": config.cluster,
        "probe-port": str(config.adaptor.probe_port),
        "start-timeout": config.adaptor.start_timeout,
        "keep-failed": config.adaptor.keep_failed,
        "auth-json": f"{AUTH_FOLDER}/auth.json" if config.auth_secret else "",
        "log-format": config.adaptor.log_format,
    }
    return [f"--{flag}={value}" for flag, value in flags.items() if value]


def _variable(one: Any) -> dict[str, str]:
    return {"name": one["name"], "value": one.get("value", "")}


def _env_from(config: Config) -> list[dict[str, Any]]:
    # Both optional: a cloud may need no secret, and an adaptor that says which setting is missing is better than a pod
    # that cannot be made. The ConfigMap comes last and wins, as in the existing system.
    sources: list[dict[str, Any]] = []
    if config.secret:
        sources.append({"secretRef": {"name": config.secret, "optional": True}})
    if config.config_map:
        sources.append({"configMapRef": {"name": config.config_map, "optional": True}})
    return sources


def _mounts(config: Config) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "run-peerpod", "mountPath": "/run/peerpod"},
        {"name": "run-netns", "mountPath": "/run/netns", "mountPropagation": "HostToContainer"},
        {"name": "state", "mountPath": "/var/lib/peerpods"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (in the container)
    ]
    for name, secret, folder in _secrets(config):
        if secret:
            mounts.append({"name": name, "mountPath": folder, "readOnly": True})
    return mounts


def _volumes(config: Config) -> list[dict[str, Any]]:
    volumes = [
        host_path("run-peerpod", "/run/peerpod"),
        host_path("run-netns", "/run/netns"),
        host_path("state", "/var/lib/peerpods"),
        scratch(),
    ]
    # Named on purpose (TLS, registry credentials) means needed; the SSH key has a default name, so it may be absent.
    return volumes + [
        secret_volume(name, secret, optional=name == "ssh-key") for name, secret, _ in _secrets(config) if secret
    ]


def _secrets(config: Config) -> list[tuple[str, str, str]]:
    return [
        ("ssh-key", config.ssh_secret, "/root/.ssh"),
        ("certificates", config.tls_secret, "/etc/certificates"),
        ("auth", config.auth_secret, AUTH_FOLDER),
    ]
