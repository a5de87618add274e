"""Puts our finalizer on a PeerPodConfig and takes it off, without touching anybody else's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerpods.kube.objects.names import CONFIG_FINALIZER


def has_finalizer(obj: Mapping[str, Any]) -> bool:
    """Whether ours is there."""
    return CONFIG_FINALIZER in (obj["metadata"].get("finalizers") or ())


def adding(obj: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON patch that adds it; refused (422) when the object has changed meanwhile."""
    meta = obj["metadata"]
    guard = {"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]}
    if meta.get("finalizers"):
        return [guard, {"op": "add", "path": "/metadata/finalizers/-", "value": CONFIG_FINALIZER}]
    return [guard, {"op": "add", "path": "/metadata/finalizers", "value": [CONFIG_FINALIZER]}]


def removing(obj: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON patch that removes it; refused (422) when the list or the object is another by now."""
    meta = obj["metadata"]
    path = f"/metadata/finalizers/{list(meta['finalizers']).index(CONFIG_FINALIZER)}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": meta["uid"]},
        {"op": "test", "path": path, "value": CONFIG_FINALIZER},
        {"op": "remove", "path": path},
    ]
