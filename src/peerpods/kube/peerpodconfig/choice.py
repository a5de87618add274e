"""Which of several PeerPodConfigs is in force. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peerpods.kube.peerpodconfig.finalizer import has_finalizer


def key_of(obj: Mapping[str, Any]) -> str:
    """NAMESPACE/NAME."""
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def choose(objects: Iterable[Mapping[str, Any]], namespace: str) -> str:
    """The key of the one in force, "" when there is none.

    The one that was set up before stays, also while it is being deleted, so that two never take turns; among new ones
    the oldest, then the first by name. One that was never set up and is being deleted never comes into force.

    Args:
        namespace: ours; PeerPodConfigs elsewhere are never in force.
    """
    candidates = [
        obj
        for obj in objects
        if obj["metadata"].get("namespace") == namespace
        and (has_finalizer(obj) or not obj["metadata"].get("deletionTimestamp"))
    ]
    first = min(candidates, key=_rank, default=None)
    return key_of(first) if first is not None else ""


def _rank(obj: Mapping[str, Any]) -> tuple[bool, str, str]:
    meta = obj["metadata"]
    return not has_finalizer(obj), meta.get("creationTimestamp") or "", meta["name"]


def conflict_words(key: str, winner: str, namespace: str) -> str:
    """Why this one is not in force, and what to do."""
    if key.partition("/")[0] != namespace:
        return (
            f"a PeerPodConfig counts only in the namespace of peerpodconfig-ctrl, {namespace}; "
            f"create it there: kubectl -n {namespace} apply -f FILE"
        )
    name = winner.partition("/")[2]
    return (
        f"{winner} is in force, and there can be only one; change that one, or delete it first: "
        f"kubectl -n {namespace} delete peerpodconfig {name}"
    )
