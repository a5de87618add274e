"""What the adaptor keeps of a Pod, and whether a sandbox is that pod's: pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.adaptor.sandbox import Sandbox
from peerpods.kube.objects.conditions import parse_time

SKEW = 2.0
"""Seconds by which the clocks of API server and node may differ; a creationTimestamp has whole seconds besides."""
MIRROR = "kubernetes.io/config.mirror"
"""On the API server's copy of a static pod, whose life does not follow the copy's."""
CONFIG_HASH = "kubernetes.io/config.hash"
"""On such a copy: the UID by which kubelet and CRI know the static pod."""


@attrs.frozen(kw_only=True)
class PodView:
    """One Pod object."""

    namespace: str
    name: str
    uid: str
    created: float
    """Seconds since the epoch, whole."""
    deleting: bool = False
    runtime_class: str = ""
    phase: str = ""
    pull_secrets: tuple[str, ...] = ()
    static_uid: str = ""
    """For the copy of a static pod, kubelet's own UID of it."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def lasting_uid(self) -> str:
        """The UID that ends with the pod; empty for the copy of a static pod."""
        return "" if self.static_uid else self.uid


def read_pod(obj: Mapping[str, Any]) -> PodView:
    """Keep what is needed of a Pod, so that a thousand of them cost little."""
    metadata, spec = obj.get("metadata") or {}, obj.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    names = (one.get("name") for one in spec.get("imagePullSecrets") or () if isinstance(one, Mapping))
    return PodView(
        namespace=metadata.get("namespace") or "",
        name=metadata.get("name") or "",
        uid=metadata.get("uid") or "",
        created=parse_time(metadata.get("creationTimestamp")) or 0.0,
        deleting=bool(metadata.get("deletionTimestamp")),
        runtime_class=spec.get("runtimeClassName") or "",
        phase=(obj.get("status") or {}).get("phase") or "",
        pull_secrets=tuple(dict.fromkeys(name for name in names if name)),
        static_uid=(annotations.get(CONFIG_HASH) or "static") if MIRROR in annotations else "",
    )


class Bond(enum.Enum):
    """What a Pod object is to a sandbox whose pod has its name."""

    OWN = "own"
    ADOPT = "adopt"
    """Its own, as their times show, but its UID is not in the record yet."""
    OTHER = "other"
    """Another pod of the same name: the sandbox's is gone."""
    UNKNOWN = "unknown"


def bond(record: Sandbox, pod: PodView) -> Bond:
    """Whether the Pod object is that of the sandbox.

    A sandbox is made for a pod that exists already: one that was created later is another's, though that alone is no
    proof that the first is gone.
    """
    if record.pod_uid:
        return Bond.OWN if record.pod_uid in (pod.uid, pod.static_uid) else Bond.OTHER
    if pod.static_uid or pod.created > record.created_at + SKEW:
        return Bond.UNKNOWN
    return Bond.ADOPT
