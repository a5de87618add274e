"""The PeerPod object: one sandbox's VM as the cluster knows it. Shape in k8s/base/crds/peerpods.yaml.

It is written before the cloud is asked for the VM and goes when the VM has gone, so that whatever happens to node,
adaptor or API server, something in the cluster still says that a VM may exist and how to find it: `spec.instanceID`,
or, while that is empty, the VM's tags.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from peerpods.kube.objects.conditions import cut, find_condition, parse_time, time_text
from peerpods.kube.objects.names import FINALIZER, NODE_LABEL, PART_OF, SANDBOX_ANNOTATION
from peerpods.kube.objects.resources import PEER_PODS, PODS
from peerpods.model import Phase

NAME_MAX = 253
LABEL_MAX = 63
READY = "Ready"
"""Condition: the VM runs its pod."""
DELETED = "Deleted"
"""Condition: the VM is gone; False with the cloud's words while it cannot be deleted."""
_MIDDLE = "-resource-"


class PeerPodPhase(enum.StrEnum):
    """`status.phase`."""

    PENDING = "Pending"
    LAUNCHING = "Launching"
    BOOTING = "Booting"
    LINKING = "Linking"
    RUNNING = "Running"
    FAILED = "Failed"
    STOPPING = "Stopping"
    DELETING = "Deleting"
    RELEASED = "Released"


_PHASES = {
    Phase.PREPARED: PeerPodPhase.PENDING,
    Phase.LAUNCHING: PeerPodPhase.LAUNCHING,
    Phase.BOOTING: PeerPodPhase.BOOTING,
    Phase.LINKING: PeerPodPhase.LINKING,
    Phase.RUNNING: PeerPodPhase.RUNNING,
    Phase.FAILED: PeerPodPhase.FAILED,
    Phase.STOPPING: PeerPodPhase.STOPPING,
    Phase.GONE: PeerPodPhase.RELEASED,
}


def phase_of(phase: Phase) -> PeerPodPhase:
    """How a sandbox's phase is called in its PeerPod."""
    return _PHASES[phase]


def name_of(pod: str, sandbox: str) -> str:
    """`<pod>-resource-<first 8 of the sandbox id>`: a DNS subdomain; the pod's part is cut to fit 253 characters."""
    tail = _MIDDLE + (re.sub(r"[^a-z0-9]", "-", sandbox[:8].lower()).strip("-") or "0")
    head = re.sub(r"[^a-z0-9.-]", "-", pod.lower())[: NAME_MAX - len(tail)]
    return (head.strip("-.") or "pod") + tail


def label_value(text: str) -> str:
    """Text as a label's value: itself when it may be one, else cut to 63 characters with a hash of the whole."""
    if len(text) <= LABEL_MAX and re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    head = re.sub(r"[^A-Za-z0-9_.-]", "-", text)[: LABEL_MAX - len(digest) - 1].strip("-_.")
    return f"{head}-{digest}" if head else digest


def owner_of(pod: str, pod_uid: str) -> dict[str, Any]:
    """The reference by which the garbage collector deletes a PeerPod after its pod."""
    return {
        "apiVersion": PODS.api_version,
        "kind": PODS.kind,
        "name": pod,
        "uid": pod_uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def new_peer_pod(
    *,
    sandbox: str,
    pod: str,
    namespace: str,
    pod_uid: str,
    provider: str,
    instance_id: str,
    node: str,
    cluster: str,
    token: str,
) -> dict[str, Any]:
    """A PeerPod to create.

    Args:
        pod_uid: empty while unknown; the object then has no owner, and the owner is patched in later (`owner_of`).
        instance_id: empty before the cloud has answered: the VM is then found by its tags.
        token: what the launch is known by in the cloud; no secret.
    """
    metadata: dict[str, Any] = {
        "name": name_of(pod, sandbox),
        "namespace": namespace,
        "annotations": {SANDBOX_ANNOTATION: sandbox},
        "labels": {"app.kubernetes.io/managed-by": PART_OF, NODE_LABEL: label_value(node)},
        "finalizers": [FINALIZER],
    }
    if pod_uid:
        metadata["ownerReferences"] = [owner_of(pod, pod_uid)]
    spec = {
        "cloudProvider": provider,
        "instanceID": instance_id,
        "nodeName": node,
        "clusterName": cluster,
        "token": token,
        "podName": pod,
        "podUID": pod_uid,
    }
    return {"apiVersion": PEER_PODS.api_version, "kind": PEER_PODS.kind, "metadata": metadata, "spec": spec}


def status_of(
    *,
    phase: PeerPodPhase | str,
    instance_name: str = "",
    addresses: Iterable[str] = (),
    last_error: str = "",
    pod_uid: str = "",
    started_at: float = 0.0,
    conditions: Iterable[Mapping[str, Any]] = (),
    observed_generation: int = 0,
) -> dict[str, Any]:
    """A whole status, for a merge patch or a replace of the status subresource: what is empty is written empty.

    Args:
        started_at: seconds since the epoch when the pod's VM was ready first; 0 leaves it out.
        conditions: all of them: a merge patch replaces the list (see `set_condition`).
    """
    status: dict[str, Any] = {
        "phase": str(PeerPodPhase(phase)),
        "instanceName": instance_name,
        "addresses": list(addresses),
        "lastError": cut(last_error),
        "podUID": pod_uid,
        "conditions": [dict(one) for one in conditions],
    }
    if started_at:
        status["startedAt"] = time_text(started_at)
    if observed_generation:
        status["observedGeneration"] = observed_generation
    return status


@attrs.frozen(kw_only=True)
class Owner:
    """One ownerReference."""

    kind: str
    """As "v1/Pod": apiVersion and kind."""
    name: str
    uid: str


@attrs.frozen(kw_only=True)
class PeerPodView:
    """What we need of a PeerPod. Every field but the first three may be empty: the existing system's have little."""

    namespace: str
    name: str
    uid: str
    resource_version: str = ""
    generation: int = 0
    created: float = 0.0
    """Seconds since the epoch, whole."""
    deleting_since: float | None = None
    finalizers: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()
    sandbox: str = ""
    provider: str = ""
    instance_id: str = ""
    node: str = ""
    cluster: str = ""
    token: str = ""
    pod: str = ""
    """Name of the pod: from the spec, else the owner, else the object's own name; empty when none of them says."""
    pod_uid: str = ""
    phase: str = ""
    """As written, also a word that is no `PeerPodPhase`."""
    last_error: str = ""
    instance_name: str = ""
    addresses: tuple[str, ...] = ()
    started_at: float = 0.0
    """Seconds since the epoch; 0 when its VM was never ready."""
    conditions: tuple[Mapping[str, Any], ...] = ()
    cleaned: bool = False
    """`status.cleand`, the existing system's spelling."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def held(self) -> bool:
        """Whether our finalizer is on it."""
        return FINALIZER in self.finalizers

    @property
    def deleting(self) -> bool:
        """Whether the API server waits for finalizers."""
        return self.deleting_since is not None

    def condition(self, kind: str) -> Mapping[str, Any] | None:
        """The condition of a type, or None."""
        return find_condition(self.conditions, kind)

    def older_than(self, other: PeerPodView) -> bool:
        """Which of two PeerPods of one pod came first.

        Creation times have whole seconds: within one, the VM that was ready first is the older, and the name decides
        what is left, so that every reader comes to the same answer.
        """
        if self.created != other.created:
            return self.created < other.created
        if self.started_at and other.started_at and self.started_at != other.started_at:
            return self.started_at < other.started_at
        return self.name < other.name


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    return value if isinstance(value, str) else ""


def _number(mapping: Mapping[str, Any], key: str) -> int:
    value = mapping.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _owners(metadata: Mapping[str, Any]) -> tuple[Owner, ...]:
    """Owners, a controller before the others, else as written."""
    found = [_mapping(one) for one in _list(metadata.get("ownerReferences"))]
    found.sort(key=lambda one: one.get("controller") is not True)
    return tuple(
        Owner(kind=f"{_text(one, 'apiVersion')}/{_text(one, 'kind')}", name=_text(one, "name"), uid=_text(one, "uid"))
        for one in found
    )


def parse(obj: Mapping[str, Any]) -> PeerPodView:
    """Read a PeerPod of ours or of the existing system. Never raises: what is missing or odd counts as empty.

    The pod is known by the spec, else by the owner (of several, the controller, else the first that is a Pod), else by
    the status; its name also by the object's own name `<pod>-resource-<…>`. So an object whose owner was stripped by a
    deletion with the propagation Orphan still leads to its pod.
    """
    metadata, spec, status = (_mapping(obj.get(part)) for part in ("metadata", "spec", "status"))
    owners = _owners(metadata)
    pod = next((owner for owner in owners if owner.kind == "v1/Pod"), None)
    name = _text(metadata, "name")
    named, middle, _ = name.rpartition(_MIDDLE)
    pod_uid = _text(spec, "podUID") or (pod.uid if pod else "") or _text(status, "podUID")
    return PeerPodView(
        namespace=_text(metadata, "namespace"),
        name=name,
        uid=_text(metadata, "uid"),
        resource_version=_text(metadata, "resourceVersion"),
        generation=_number(metadata, "generation"),
        created=parse_time(metadata.get("creationTimestamp")) or 0.0,
        deleting_since=parse_time(metadata.get("deletionTimestamp")),
        finalizers=tuple(one for one in _list(metadata.get("finalizers")) if isinstance(one, str)),
        owners=owners,
        sandbox=_text(_mapping(metadata.get("annotations")), SANDBOX_ANNOTATION),
        provider=_text(spec, "cloudProvider"),
        instance_id=_text(spec, "instanceID"),
        node=_text(spec, "nodeName"),
        cluster=_text(spec, "clusterName"),
        token=_text(spec, "token"),
        pod=_text(spec, "podName") or (pod.name if pod else "") or (named if middle else ""),
        pod_uid=pod_uid,
        phase=_text(status, "phase"),
        last_error=_text(status, "lastError"),
        instance_name=_text(status, "instanceName"),
        addresses=tuple(one for one in _list(status.get("addresses")) if isinstance(one, str)),
        started_at=parse_time(status.get("startedAt")) or 0.0,
        conditions=tuple(one for one in _list(status.get("conditions")) if isinstance(one, Mapping)),
        cleaned=status.get("cleand") is True,
    )


def release_patch(obj: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON patch that takes our finalizer off this very object, and no other's; empty when it is not on it.

    The tests in it make a patch of an object that changed meanwhile fail with 422 instead of taking another's
    finalizer: then read again. 404 means done.
    """
    metadata = _mapping(obj.get("metadata"))
    places = [index for index, one in enumerate(_list(metadata.get("finalizers"))) if one == FINALIZER]
    if not places:
        return []
    patch: list[dict[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": _text(metadata, "uid")}]
    for index in reversed(places):
        path = f"/metadata/finalizers/{index}"
        patch += [{"op": "test", "path": path, "value": FINALIZER}, {"op": "remove", "path": path}]
    return patch
