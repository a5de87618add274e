"""The webhook: Deployment, Service, PodDisruptionBudget, NetworkPolicy, registration. Pure.

Who is shown to the webhook:

- Creations of pods, nothing else.
- Not those in our own namespace, kube-system, kube-public, kube-node-lease, spec.webhook.exemptNamespaces, or a
  namespace with the label `peerpods.confidentialcontainers.org/webhook: disabled`. So the cluster's own pods, and the
  webhook itself, start while no webhook answers.
- From Kubernetes 1.28 on, only pods of our runtime classes (matchConditions): a dead webhook then stops no other pod.
  The price: a pod that gets its runtimeClassName from another webhook that runs later is not seen, since only webhooks
  called in the first pass are called again. Such a pod carries the label
  `peerpods.confidentialcontainers.org/webhook: enabled`, or the other webhook's name sorts before ours.
"""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects import names
from peerpods.kube.peerpodconfig.render.parts import (
    Facts,
    cluster_metadata,
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

LABEL = "peerpods.confidentialcontainers.org/webhook"
"""On a namespace "disabled": its pods are never shown to the webhook. On a pod any value: it always is."""
EXEMPT = ("kube-system", "kube-public", "kube-node-lease")
PORT = 9443
HTTP_PORT = 8081
CERT_FOLDER = "/etc/peerpods/webhook"
CLUSTER_PRIORITY = "system-cluster-critical"
DEFAULT_RESOURCES = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}
UNPRIVILEGED = 65532  # user and group id of no account


def deployment(config: Config, facts: Facts) -> dict[str, Any]:
    """Deployment peerpods-webhook: every replica serves."""
    template = {
        "metadata": {"labels": names.labels("webhook", names.PEER_POD_CONFIG_CTRL)},
        "spec": _pod(config, facts),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(config, names.WEBHOOK, "webhook"),
        "spec": {
            "replicas": config.webhook.replicas,
            "selector": {"matchLabels": selector("webhook")},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 5,
            "template": template,
        },
    }


def _pod(config: Config, facts: Facts) -> dict[str, Any]:
    own_certificate = config.webhook.self_managed
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108  (in the container)
    volumes = [scratch()]
    if not own_certificate:
        mounts.append({"name": "certificate", "mountPath": CERT_FOLDER, "readOnly": True})  # type: ignore[dict-item]
        volume = secret_volume("certificate", names.WEBHOOK_CERT_SECRET, optional=False)
        volume["secret"]["defaultMode"] = 0o440  # by the pod's group: the process is not root
        volumes.append(volume)
    container = {
        "name": "webhook",
        "image": image(config, facts, "webhook"),
        "imagePullPolicy": config.pull_policy,
        "command": ["twistd", "-n", "--pidfile=", "webhook"],
        "args": _arguments(config, facts),
        "env": pod_env(),
        "ports": [
            {"name": "webhook", "containerPort": PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
        ],
        "resources": resources(config, "webhook", DEFAULT_RESOURCES),
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": http_probe("/healthz", HTTP_PORT, period=2, failures=60),
        "readinessProbe": http_probe("/readyz", HTTP_PORT, period=5, failures=3),
        "livenessProbe": http_probe("/healthz", HTTP_PORT, period=10, failures=6),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    spec = pod_common(config, facts, account=names.WEBHOOK, priority=CLUSTER_PRIORITY)
    spec["securityContext"].update(
        {"runAsNonRoot": True, "runAsUser": UNPRIVILEGED, "runAsGroup": UNPRIVILEGED, "fsGroup": UNPRIVILEGED}
    )
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector("webhook")}}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    return {
        **spec,
        "affinity": {"podAntiAffinity": preferred},
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": volumes,
    }


def _arguments(config: Config, facts: Facts) -> list[str]:
    classes = ",".join(f"{one.name}={one.resource}" for one in config.runtime_classes)
    flags = {
        "runtime-classes": classes,
        "cert-dir": "" if config.webhook.self_managed else CERT_FOLDER,
        "self-managed-tls": "true" if config.webhook.self_managed else "",
        "machine-types": ",".join(config.webhook.machine_types),
        "max-user-data": str(facts.max_user_data or ""),
        "deny-hopeless": "true" if config.webhook.deny_hopeless else "",
        "log-format": config.adaptor.log_format,
    }
    return [f"--{flag}={value}" for flag, value in flags.items() if value]


def service(config: Config) -> dict[str, Any]:
    """Service peerpods-webhook: where the API server sends reviews."""
    ports = [{"name": "webhook", "port": 443, "targetPort": PORT, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(config, names.WEBHOOK, "webhook"),
        "spec": {"selector": selector("webhook"), "ports": ports, "type": "ClusterIP"},
    }


def disruption_budget(config: Config, facts: Facts) -> dict[str, Any] | None:
    """One replica stays when nodes are drained; none where a single replica could then never be moved."""
    if facts.pdbs is None or config.webhook.replicas < 2:
        return None
    return {
        "apiVersion": facts.pdbs.api_version,
        "kind": "PodDisruptionBudget",
        "metadata": metadata(config, names.WEBHOOK, "webhook"),
        "spec": {"minAvailable": 1, "selector": {"matchLabels": selector("webhook")}},
    }


def network_policy(config: Config) -> dict[str, Any]:
    """Only the ports that serve. The API server has no pod or namespace to name, so the source stays open."""
    ports = [{"port": PORT, "protocol": "TCP"}, {"port": HTTP_PORT, "protocol": "TCP"}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(config, names.WEBHOOK, "webhook"),
        "spec": {
            "podSelector": {"matchLabels": selector("webhook")},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports}],
        },
    }


def registration(config: Config, facts: Facts) -> dict[str, Any]:
    """MutatingWebhookConfiguration peerpods-webhook, without caBundle: the webhook or cert-manager fills that in."""
    made = cluster_metadata(config, names.WEBHOOK, "webhook")
    if config.webhook.cert_manager is not None:
        made["annotations"]["cert-manager.io/inject-ca-from"] = f"{config.namespace}/{names.WEBHOOK}"
    exempt = [config.namespace, *EXEMPT, *config.webhook.exempt]
    hook: dict[str, Any] = {
        "name": "webhook.peerpods.confidentialcontainers.org",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {
            "service": {"namespace": config.namespace, "name": names.WEBHOOK, "path": names.WEBHOOK_PATH, "port": 443}
        },
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods"],
                "operations": ["CREATE"],
                "scope": "Namespaced",
            }
        ],
        "failurePolicy": config.webhook.failure_policy,
        "matchPolicy": "Equivalent",
        "namespaceSelector": {
            "matchExpressions": [
                {
                    "key": "kubernetes.io/metadata.name",
                    "operator": "NotIn",
                    "values": list(dict.fromkeys(exempt)),
                },
                {"key": LABEL, "operator": "NotIn", "values": ["disabled"]},
            ]
        },
        "objectSelector": {},
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": config.webhook.timeout,
    }
    if facts.has_match_conditions:
        hook["matchConditions"] = [{"name": "runtime-class", "expression": match_expression(config)}]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": made,
        "webhooks": [hook],
    }


def match_expression(config: Config) -> str:
    """CEL: pods of our runtime classes, and those that are labelled for us."""
    classes = ", ".join(f"'{one.name}'" for one in config.runtime_classes)
    return (
        f"(has(object.spec.runtimeClassName) && object.spec.runtimeClassName in [{classes}]) || "
        f"(has(object.metadata.labels) && '{LABEL}' in object.metadata.labels)"
    )
