"""A PeerPodConfig as the controller reads it. Pure, and tolerant: old objects lack fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.kube.objects import names
from peerpods.kube.objects.capacity import LimitRule, matches

DEFAULT_NODE_SELECTOR = {"node.kubernetes.io/worker": ""}
DEFAULT_OVERHEAD = {"cpu": "250m", "memory": "120Mi"}  # of a kata shim, the existing system's figures
DEFAULT_TIMEOUT = 240  # seconds a deletion waits for VMs


@attrs.frozen(kw_only=True)
class RuntimeClass:
    """One runtime class of peer pods."""

    name: str
    handler: str
    resource: str
    overhead: Mapping[str, str]
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...] = ()


@attrs.frozen(kw_only=True)
class WebhookSpec:
    """spec.webhook."""

    replicas: int = 2
    failure_policy: str = "Fail"
    timeout: int = 10
    exempt: tuple[str, ...] = ()
    machine_types: tuple[str, ...] = ()
    deny_hopeless: bool = False
    cert_manager: Mapping[str, Any] | None = None
    self_managed: bool = True
    """The webhook makes its own certificate. False: a Secret that somebody else fills."""


@attrs.frozen(kw_only=True)
class AdaptorSpec:
    """spec.adaptor."""

    extra_env: tuple[Mapping[str, str], ...] = ()
    log_format: str = ""
    start_timeout: str = ""
    keep_failed: str = ""
    probe_port: int = 8000


@attrs.frozen(kw_only=True)
class Config:
    """One PeerPodConfig."""

    name: str
    namespace: str
    uid: str
    generation: int
    provider: str
    cluster: str
    secret: str
    config_map: str
    ssh_secret: str
    tls_secret: str
    auth_secret: str
    node_selector: Mapping[str, str]
    limit: str
    node_limits: tuple[LimitRule, ...]
    runtime_classes: tuple[RuntimeClass, ...]
    images: Mapping[str, str]
    pull_policy: str
    pull_secrets: tuple[str, ...]
    tolerations: tuple[Mapping[str, Any], ...]
    priority_class: str
    selinux_type: str
    resources: Mapping[str, Any]
    adaptor: AdaptorSpec
    relay_port: int
    webhook: WebhookSpec
    deletion_timeout: int

    @property
    def key(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    @property
    def resource_names(self) -> tuple[str, ...]:
        """The extended resources that nodes advertise, each once."""
        return tuple(dict.fromkeys(one.resource for one in self.runtime_classes))

    @property
    def class_names(self) -> frozenset[str]:
        """Names of the runtime classes of peer pods."""
        return frozenset(one.name for one in self.runtime_classes)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels runs peer pods."""
        return matches(self.node_selector, labels)


def parse_config(obj: Mapping[str, Any]) -> Config:
    """Read one object as the API server keeps it; missing fields get their defaults."""
    meta, spec = obj.get("metadata", {}), obj.get("spec") or {}
    selector = spec.get("nodeSelector") or DEFAULT_NODE_SELECTOR
    relay = spec.get("relay") or {}
    return Config(
        name=meta.get("name", ""),
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        generation=int(meta.get("generation", 0)),
        provider=spec.get("provider", ""),
        cluster=spec.get("clusterName", ""),
        secret=spec.get("cloudSecretName", names.SECRET),
        config_map=spec.get("configMapName", names.CONFIG_MAP),
        ssh_secret=spec.get("sshKeySecretName", names.SSH_SECRET),
        tls_secret=spec.get("tlsSecretName", ""),
        auth_secret=spec.get("authJsonSecretName", ""),
        node_selector=dict(selector),
        limit=spec.get("limit", ""),
        node_limits=tuple(
            LimitRule(dict(one.get("nodeSelector") or {}), one.get("limit", "")) for one in spec.get("nodeLimits") or ()
        ),
        runtime_classes=_runtime_classes(spec.get("runtimeClasses") or [{"name": names.RUNTIME_CLASS}], selector),
        images=dict(spec.get("images") or {}),
        pull_policy=spec.get("imagePullPolicy", "IfNotPresent"),
        pull_secrets=tuple(one["name"] for one in spec.get("imagePullSecrets") or () if one.get("name")),
        tolerations=tuple(spec.get("tolerations") or ({"operator": "Exists"},)),
        priority_class=spec.get("priorityClassName", ""),
        selinux_type=spec.get("seLinuxType", ""),
        resources=dict(spec.get("resources") or {}),
        adaptor=_adaptor(spec.get("adaptor") or {}),
        relay_port=int(relay.get("probePort", 8001)),
        webhook=_webhook(spec.get("webhook") or {}),
        deletion_timeout=int(spec.get("deletionTimeoutSeconds", DEFAULT_TIMEOUT)),
    )


def _runtime_classes(listed: list[Mapping[str, Any]], selector: Mapping[str, str]) -> tuple[RuntimeClass, ...]:
    with_kata = {**selector, names.KATA_NODE_LABEL: "true"}
    return tuple(
        RuntimeClass(
            name=one["name"],
            handler=one.get("handler") or names.RUNTIME_CLASS,
            resource=one.get("resourceName") or names.EXTENDED_RESOURCE,
            overhead={**DEFAULT_OVERHEAD, **(one.get("overhead") or {})},
            node_selector=dict(one.get("nodeSelector") or with_kata),
            tolerations=tuple(one.get("tolerations") or ()),
        )
        for one in {one["name"]: one for one in listed}.values()
    )


def _adaptor(spec: Mapping[str, Any]) -> AdaptorSpec:
    return AdaptorSpec(
        extra_env=tuple(spec.get("extraEnv") or ()),
        log_format=spec.get("logFormat", ""),
        start_timeout=spec.get("startTimeout", ""),
        keep_failed=spec.get("keepFailed", ""),
        probe_port=int(spec.get("probePort", 8000)),
    )


def _webhook(spec: Mapping[str, Any]) -> WebhookSpec:
    return WebhookSpec(
        replicas=int(spec.get("replicas", 2)),
        failure_policy=spec.get("failurePolicy", "Fail"),
        timeout=int(spec.get("timeoutSeconds", 10)),
        exempt=tuple(spec.get("exemptNamespaces") or ()),
        machine_types=tuple(spec.get("machineTypes") or ()),
        deny_hopeless=bool(spec.get("denyHopeless", False)),
        cert_manager=spec.get("certManager"),
        self_managed=bool(spec.get("selfManaged", True)) and spec.get("certManager") is None,
    )
