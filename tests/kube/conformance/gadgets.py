"""Test objects, and a CRD of the suite's own whose schema has one of each sort of rule.

But `x-kubernetes-int-or-string`: one such field, and apply on 1.20 knows nothing of the schema, so that all lists are
single values.
"""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects import resources as r
from peerpods.kube.objects.resources import Resource
from tests.kube.conformance.api import Api, Json

GROUP = "conformance.peerpods.io"
GADGETS = Resource(GROUP, "v1", "gadgets", "Gadget")

SPEC: Json = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10, "default": 3},
        "colour": {"type": "string", "enum": ["red", "green"]},
        "code": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
        "tags": {"type": "array", "maxItems": 3, "items": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "maybe": {"type": "string", "nullable": True},
        "nested": {"type": "object", "properties": {"on": {"type": "boolean", "default": True}}},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
            },
        },
    },
}


def crd(name: str = "gadget", spec: Json = SPEC, group: str = GROUP) -> Json:
    """A CustomResourceDefinition with a status subresource."""
    plural = f"{name}s"
    schema = {
        "type": "object",
        "properties": {
            "spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    return {
        "apiVersion": r.CRDS.api_version,
        "kind": r.CRDS.kind,
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": name.capitalize()},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


async def define(api: Api, body: Json) -> Resource:
    """Create a CRD unless it is there, and wait until its objects can be made."""
    answer = await api.create(r.CRDS, body)
    assert answer.code in (201, 409), answer.body
    names = body["spec"]["names"]
    resource = Resource(body["spec"]["group"], "v1", names["plural"], names["kind"])

    async def served() -> bool:
        return (await api.call("GET", api.path(resource))).code == 200

    await api.until(served)
    return resource


def peer_pod(name: str = "a", *, meta: Json | None = None, **spec: Any) -> Json:
    """A PeerPod."""
    return {"metadata": {"name": name, **(meta or {})}, "spec": {"cloudProvider": "aws", **spec}}


def config_map(name: str = "a", **meta: Any) -> Json:
    """A ConfigMap."""
    return {"metadata": {"name": name, **meta}, "data": {"a": "1"}}


def pod(name: str = "p", *, meta: Json | None = None, resources: Json | None = None, **spec: Any) -> Json:
    """A Pod with one container."""
    container = {"name": "c", "image": "image:1", "resources": resources or {}}
    return {"metadata": {"name": name, **(meta or {})}, "spec": {"containers": [container], **spec}}


def owner(of: Json, **more: Any) -> Json:
    """An ownerReference."""
    return {
        "apiVersion": of["apiVersion"],
        "kind": of["kind"],
        "name": of["metadata"]["name"],
        "uid": of["metadata"]["uid"],
        **more,
    }
