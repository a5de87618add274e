"""How one object names another. Pure."""

from __future__ import annotations

from typing import Any

_FIELDS = ("apiVersion", "kind", "namespace", "name", "uid", "resourceVersion", "fieldPath")


def reference(obj: dict[str, Any]) -> dict[str, Any]:
    """An ObjectReference to `obj`, for events. A reference is taken as it is; empty fields are left out."""
    source = {**obj["metadata"], "apiVersion": obj.get("apiVersion"), "kind": obj.get("kind")} if _whole(obj) else obj
    return {key: source[key] for key in _FIELDS if source.get(key)}


def owner_reference(obj: dict[str, Any], *, controller: bool = True, block: bool = True) -> dict[str, Any]:
    """An entry of `metadata.ownerReferences` for what belongs to `obj`, which must be in the same namespace or
    cluster-scoped; else the garbage collector takes it for gone."""
    found = reference(obj)
    return {
        **{key: found[key] for key in ("apiVersion", "kind", "name", "uid")},
        "controller": controller,
        "blockOwnerDeletion": block,
    }


def _whole(obj: dict[str, Any]) -> bool:
    return isinstance(obj.get("metadata"), dict)
