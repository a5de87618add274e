"""What is kept in memory of nodes, pods and peer pods, and what is read out of DaemonSets and Deployments. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.kube.objects import names
from peerpods.kube.objects.conditions import cut

WORDS = 300  # characters of a container's own words that are kept


@attrs.frozen
class NodeFacts:
    """One node."""

    name: str
    uid: str
    labels: Mapping[str, str]
    limit: str
    """Its annotation for the limit, "" when it has none."""
    capacity: Mapping[str, str]
    """Extended resources only."""

    @property
    def has_kata(self) -> bool:
        """Whether kata's installer has finished there."""
        return self.labels.get(names.KATA_NODE_LABEL) == "true"


def node_facts(obj: Mapping[str, Any]) -> NodeFacts:
    """A Node, shrunk."""
    meta = obj["metadata"]
    capacity = (obj.get("status") or {}).get("capacity") or {}
    return NodeFacts(
        name=meta["name"],
        uid=meta.get("uid", ""),
        labels=dict(meta.get("labels") or {}),
        limit=(meta.get("annotations") or {}).get(names.LIMIT_ANNOTATION, ""),
        capacity={key: str(value) for key, value in capacity.items() if "/" in key},
    )


@attrs.frozen
class PodFacts:
    """One pod that concerns us: of a runtime class, or our own."""

    runtime_class: str = ""
    secrets: tuple[str, ...] = ()
    """Names of its pull secrets."""
    component: str = ""
    node: str = ""
    trouble: str = ""
    """Why our own pod does not run, in words; "" when it does."""


def pod_facts(obj: Mapping[str, Any], namespace: str) -> PodFacts | None:
    """A Pod, shrunk; None (nearly nothing) for the many that do not concern us.

    Args:
        namespace: where our own pods are.
    """
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    labels = meta.get("labels") or {}
    own = meta.get("namespace") == namespace and labels.get("app.kubernetes.io/name") == "peerpods"
    if own and labels.get("app.kubernetes.io/managed-by") == names.PEER_POD_CONFIG_CTRL:
        return PodFacts(
            component=labels.get("app.kubernetes.io/component", ""),
            node=spec.get("nodeName", ""),
            trouble=_trouble(status),
        )
    runtime_class = spec.get("runtimeClassName")
    if not runtime_class or status.get("phase") in ("Succeeded", "Failed"):
        return None
    secrets = tuple(sorted({one["name"] for one in spec.get("imagePullSecrets") or () if one.get("name")}))
    return PodFacts(runtime_class=runtime_class, secrets=secrets)


def _trouble(status: Mapping[str, Any]) -> str:
    for one in status.get("containerStatuses") or ():
        state, last = one.get("state") or {}, one.get("lastState") or {}
        if one.get("ready"):
            continue
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or last.get("terminated") or {}
        reason = waiting.get("reason") or ended.get("reason") or ""
        said = " ".join(str(ended.get("message") or waiting.get("message") or "").split())
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return cut(f"{reason}: {said}" if said else reason, WORDS)
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return cut(f"not scheduled: {one.get('message', one.get('reason', ''))}", WORDS)
    return ""


@attrs.frozen
class SetFacts:
    """How far a DaemonSet is."""

    desired: int
    ready: int
    updated: int
    observed: bool
    """Whether its controller has seen the newest version of it."""


def set_facts(obj: Mapping[str, Any]) -> SetFacts:
    """A DaemonSet's status."""
    status = obj.get("status") or {}
    return SetFacts(
        desired=int(status.get("desiredNumberScheduled", 0)),
        ready=int(status.get("numberReady", 0)),
        updated=int(status.get("updatedNumberScheduled", 0)),
        observed=int(status.get("observedGeneration", 0)) >= int(obj["metadata"].get("generation", 0)),
    )


@attrs.frozen
class WebhookFacts:
    """How far the webhook is."""

    replicas: int = 0
    available: int = 0
    registered: bool = False
    trusted: bool = False
    """Whether its registration has a caBundle, without which the API server cannot call it."""


def webhook_facts(deployment: Mapping[str, Any] | None, registration: Mapping[str, Any] | None) -> WebhookFacts:
    """Deployment and registration together."""
    status = (deployment or {}).get("status") or {}
    hooks = (registration or {}).get("webhooks") or []
    return WebhookFacts(
        replicas=int(((deployment or {}).get("spec") or {}).get("replicas", 0)),
        available=int(status.get("availableReplicas", 0)),
        registered=registration is not None,
        trusted=bool(hooks) and all((one.get("clientConfig") or {}).get("caBundle") for one in hooks),
    )
