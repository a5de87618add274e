"""An API server of a few dictionaries, for cores with a clock."""

from __future__ import annotations

import copy
from typing import Any

from peerpods.kube.client import ApiError
from peerpods.kube.objects.resources import Resource


class FakeKube:
    """Remembers calls; objects by (kind, namespace, name). `refuse` maps a verb to an error."""

    field_manager = "peerpods-test"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.patches: list[Any] = []
        self.refuse: dict[str, ApiError] = {}
        self._version = 0

    def put(self, kind: str, name: str, namespace: str = "", **more: Any) -> dict[str, Any]:
        """An object that is there."""
        self._version += 1
        meta = {"name": name, "uid": f"uid-{kind}-{name}", "resourceVersion": str(self._version)}
        if namespace:
            meta["namespace"] = namespace
        made = {"kind": kind, "metadata": {**meta, **more.pop("metadata", {})}, **more}
        self.objects[kind, namespace, name] = made
        return made

    def store(self, kind: str) -> dict[str, Any]:
        """As an informer would show them."""
        return {f"{ns}/{name}" if ns else name: obj for (one, ns, name), obj in self.objects.items() if one == kind}

    def _begin(self, verb: str, resource: Resource, name: str) -> None:
        self.calls.append((verb, resource.kind, name))
        if verb in self.refuse:
            raise self.refuse[verb]

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Any:
        self._begin("get", resource, name)
        found = self.objects.get((resource.kind, namespace or "", name))
        if found is None:
            raise ApiError(f"no {resource.kind} {name}", status=404)
        return copy.deepcopy(found)

    async def list(self, resource: Resource, namespace: str | None = None, **more: Any) -> tuple[list[Any], str]:
        self._begin("list", resource, "")
        shrink = more.get("shrink") or (lambda one: one)
        return [shrink(obj) for (kind, _, _), obj in self.objects.items() if kind == resource.kind], "1"

    async def apply(self, resource: Resource, body: dict[str, Any], **more: Any) -> Any:
        self._begin("apply", resource, body["metadata"]["name"])
        meta = body["metadata"]
        key = (resource.kind, meta.get("namespace", ""), meta["name"])
        before = self.objects.get(key)
        kept = {
            name: value
            for name, value in (before or {}).get("metadata", {}).items()
            if name in ("uid", "resourceVersion")
        }
        made = {**copy.deepcopy(body), "kind": resource.kind}
        same = (
            before is not None
            and {**made["metadata"], **kept} == before["metadata"]
            and {k: v for k, v in made.items() if k != "metadata"}
            == {k: v for k, v in before.items() if k != "metadata"}
        )
        if not same:
            self._version += 1
            kept = {"uid": kept.get("uid", f"uid-{self._version}"), "resourceVersion": str(self._version)}
        made["metadata"] |= kept
        self.objects[key] = made
        return copy.deepcopy(made)

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str | None = None, **more: Any) -> Any:
        self._begin("patch", resource, name)
        self.patches.append(patch)
        return {}

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, **more: Any) -> Any:
        self._begin("delete", resource, name)
        if self.objects.pop((resource.kind, namespace or "", name), None) is None:
            raise ApiError("gone", status=404)
        return {}
