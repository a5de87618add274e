"""Writes that pass through admission: create, replace, patch, apply."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import yaml

from peerpods.kube.objects import resources as r
from tests.kube.double import managers, patches
from tests.kube.double.admission import Admission, Review
from tests.kube.double.objects import Objects, Options
from tests.kube.double.refusal import Refusal, cause, conflict, invalid
from tests.kube.double.routes import Target
from tests.kube.double.store import Json

APPLY = "application/apply-patch+yaml"
JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
TRIES = 5
# Kinds that may be replaced without saying which version one has read.
UNCONDITIONAL = {
    r.PODS, r.SECRETS, r.CONFIG_MAPS, r.NAMESPACES, r.NODES, r.SERVICES, r.ENDPOINTS, r.SERVICE_ACCOUNTS, r.EVENTS,
    r.DEPLOYMENTS, r.DAEMON_SETS, r.JOBS, r.NETWORK_POLICIES, r.PRIORITY_CLASSES, r.ROLES, r.ROLE_BINDINGS,
    r.CLUSTER_ROLES, r.CLUSTER_ROLE_BINDINGS,
}  # fmt: skip


def decode(raw: bytes, content_type: str) -> Any:
    """The body of a request.

    Raises:
        Refusal: 400 when it is none.
    """
    try:
        return yaml.safe_load(raw) if content_type == APPLY and raw[:1] != b"{" else json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise Refusal(400, f"error decoding the body: {error}") from error


class Writing:
    """The writing half of the server."""

    def __init__(self, objects: Objects, admission: Admission) -> None:
        self._objects = objects
        self._admission = admission

    def _review(self, target: Target, operation: str, options: Options, old: Json | None = None) -> Review:
        return Review(target.kind, operation, target.namespace or "", options, old, target.subresource)

    async def create(self, target: Target, body: Any, options: Options) -> tuple[Json, list[str]]:
        """The new object and the webhooks' warnings."""
        kind = target.kind
        if not isinstance(body, dict):
            raise Refusal(400, "the body is no object")
        said = body.get("apiVersion", kind.resource.api_version), body.get("kind", kind.resource.kind)
        if said != (kind.resource.api_version, kind.resource.kind):
            raise Refusal(400, f"{said[0]}, Kind={said[1]} in the body does not match {kind.resource.kind} of the path")
        if self._objects.ending(kind):
            raise Refusal(405, "the server does not allow this method on the requested resource")
        obj = self._objects.begin_create(kind, target.namespace or "", body, options)
        review = self._review(target, "CREATE", options)
        obj = await self._admission.admit(review, obj)
        return self._objects.finish_create(kind, obj, options), review.warnings

    async def _update(
        self, target: Target, change: Callable[[Json], Json], options: Options, *, applied: bool = False
    ) -> tuple[Json, list[str]]:
        """Read, change, ask, store: again when the object changed meanwhile, unless the writer named a version."""
        kind, name = target.kind, (target.namespace or "", target.name)
        for _ in range(TRIES):
            old = self._objects.must_find(kind, name)
            new = change(copy.deepcopy(old))
            new = self._objects.begin_update(kind, old, new, target.subresource, options, applied=applied)
            if new == old:
                return old, []
            review = self._review(target, "UPDATE", options, old)
            new = await self._admission.admit(review, new)
            if self._objects.store.find(kind, name) is old:
                return self._objects.finish_update(kind, old, new, options), review.warnings
        raise conflict(*kind.key, target.name)

    async def replace(self, target: Target, body: Any, options: Options) -> tuple[Json, list[str]]:
        """PUT."""
        kind = target.kind
        if not isinstance(body, dict):
            raise Refusal(400, "the body is no object")
        about = body.get("metadata") or {}
        if about.get("name", "") != target.name:
            raise Refusal(
                400, f"the name of the object ({about.get('name', '')}) does not match that of the URL ({target.name})"
            )
        if not about.get("resourceVersion") and kind.resource not in UNCONDITIONAL:
            self._objects.must_find(kind, (target.namespace or "", target.name))
            text = "Invalid value: 0x0: must be specified for an update"
            raise invalid(kind.key[0], kind.resource.kind, target.name, [cause("metadata.resourceVersion", text)])
        return await self._update(target, lambda _: copy.deepcopy(body), options)

    async def patch(
        self, target: Target, body: Any, content_type: str, query: Mapping[str, str], options: Options
    ) -> tuple[Json, list[str]]:
        """PATCH of all four sorts."""
        if content_type == APPLY:
            return await self._apply(target, body, query, options)
        sorts = [JSON, MERGE] + ([] if target.kind.custom else [STRATEGIC])
        if content_type not in sorts:
            listed = ", ".join([*sorts, APPLY])
            text = f"the body of the request was in an unknown format - accepted media types include: {listed}"
            raise Refusal(415, text)
        if not isinstance(body, list if content_type == JSON else dict):
            raise Refusal(400, "the body is no patch")

        def change(old: Json) -> Json:
            # A version that the patch does not speak of is not the writer's.
            version = old["metadata"].pop("resourceVersion")
            if content_type == JSON:
                old["metadata"]["resourceVersion"] = version
                try:
                    return dict(patches.json_patch(old, body))
                except (patches.PatchFault, KeyError, AttributeError, TypeError) as fault:
                    text = f"the server rejected our request due to an error in our request ({fault})"
                    raise Refusal(422, text, details={}) from fault
            if content_type == MERGE:
                return dict(patches.merge_patch(old, body))
            return dict(patches.strategic_patch(old, body, target.kind.list_keys))

        return await self._update(target, change, options)

    async def _apply(
        self, target: Target, body: Any, query: Mapping[str, str], options: Options
    ) -> tuple[Json, list[str]]:
        manager, kind = query.get("fieldManager"), target.kind
        if not manager:
            text = "Required value: is required for apply patch"
            raise invalid("meta.k8s.io", "PatchOptions", "", [cause("fieldManager", text, "FieldValueRequired")])
        if not isinstance(body, dict):
            raise Refusal(400, "the body is no object")
        if (body.get("apiVersion"), body.get("kind")) != (kind.resource.api_version, kind.resource.kind):
            raise Refusal(400, "apiVersion and kind of the body must be those of the path")
        about = body.setdefault("metadata", {})
        if about.get("managedFields"):
            raise Refusal(400, "metadata.managedFields must be nil")
        about.setdefault("name", target.name)
        force, now = query.get("force") == "true", self._objects.time()
        options = attrs.evolve(options, manager=manager)

        def change(old: Json) -> Json:
            new = managers.applied(kind, old, body, manager, now, force=force)
            if not about.get("resourceVersion"):
                new["metadata"].pop("resourceVersion", None)
            return new

        name = target.namespace or "", target.name
        if self._objects.store.find(kind, name) is not None:
            return await self._update(target, change, options, applied=True)
        if about.get("uid"):
            raise conflict(*kind.key, target.name, "uid mismatch: the object does not exist")
        empty: Json = {"metadata": {"name": target.name}}
        new = change({**empty, "apiVersion": kind.resource.api_version, "kind": kind.resource.kind})
        managed = new["metadata"].pop("managedFields")
        obj = self._objects.begin_create(kind, target.namespace or "", new, options)
        obj["metadata"]["managedFields"] = managed
        review = self._review(target, "CREATE", options)
        obj = await self._admission.admit(review, obj)
        return self._objects.finish_create(kind, obj, options), review.warnings
