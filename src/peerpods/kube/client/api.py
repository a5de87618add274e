"""The face of the API server as our code sees it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from peerpods.kube.client.codec import Page
from peerpods.kube.objects.resources import Resource

Json = dict[str, Any]
Items = list[Any]
"""A list; inside the classes that name is a method's."""


class PatchKind(enum.Enum):
    """How a patch is written; the value is its media type."""

    JSON = "application/json-patch+json"
    """A list of operations. A `test` that fails, or a path that is absent, gives 422."""
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    """Built-in kinds only: a custom resource answers 415."""
    APPLY = "application/apply-patch+yaml"


class KubeApi(Protocol):
    """What `Kube` does; tests may bring their own.

    All objects are plain JSON dicts. All methods raise ApiError and nothing else (but ConfigError when credentials
    cannot be loaded, and CancelledError).
    """

    field_manager: str

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json: ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        shrink: Callable[[Json], Any] | None = None,
    ) -> tuple[Items, str]: ...

    async def page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        token: str = "",
        timeout: float = 30.0,
    ) -> Page: ...

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        query: Sequence[tuple[str, str]],
        receive: Callable[[bytes], None],
    ) -> None: ...

    async def create(
        self, resource: Resource, body: Json, namespace: str | None = None, *, dry_run: bool = False
    ) -> Json: ...

    async def replace(
        self, resource: Resource, body: Json, namespace: str | None = None, *, subresource: str = ""
    ) -> Json: ...

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: PatchKind,
        subresource: str = "",
        force: bool = False,
        field_manager: str | None = None,
    ) -> Json: ...

    async def apply(self, resource: Resource, body: Json, *, subresource: str = "", force: bool = True) -> Json: ...

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "",
        grace: int | None = None,
    ) -> Json: ...

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Json: ...

    async def version(self) -> tuple[int, int]: ...

    async def close(self) -> None: ...
