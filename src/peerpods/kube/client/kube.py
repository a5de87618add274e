"""The API server as methods: objects in, objects out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from peerpods.kube.client import codec
from peerpods.kube.client.access import Access, InCluster, Kubeconfig, Source
from peerpods.kube.client.api import Items, Json, PatchKind
from peerpods.kube.client.errors import TOO_LARGE, ApiError
from peerpods.kube.client.pause import in_slices
from peerpods.kube.client.session import Ask, Session, load, malformed
from peerpods.kube.client.settings import KubeSettings
from peerpods.kube.objects.resources import Resource
from peerpods.obs.log import get_logger

TIMEOUT = 30.0
"""Seconds a call may take, all its tries together."""
WATCH_HEADERS = 60.0
"""Seconds until a watch begins to answer: a busy server queues it."""
LIST_TRIES = 5
"""Times a list begins anew because its continue token had expired."""
_log = get_logger("kube")


def _of(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


class Kube:
    """A client of one API server. Made by `connect`; reactor thread only.

    Every method is bounded (30 s with all its tries) and raises ApiError. Reads are repeated a little when they
    fail in passing, writes only when they certainly did not take place. Cancelling ends a call at once.
    """

    def __init__(self, reactor: Any, session: Session, field_manager: str) -> None:
        self._reactor = reactor
        self._session = session
        self.field_manager = field_manager

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._session.url

    # -- reads

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        """One object."""
        return await self._call("GET", "get", resource, namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        shrink: Callable[[Json], Any] | None = None,
    ) -> tuple[Items, str]:
        """All objects, page by page, and the resourceVersion they are from.

        Args:
            namespace: None for all.
            limit: objects a page.
            shrink: called with each object as it is decoded; its result is kept instead.
        """
        for attempt in range(LIST_TRIES):
            items: Items = []
            token = ""
            try:
                while True:
                    page = await self.page(resource, namespace, labels=labels, fields=fields, limit=limit, token=token)
                    await self._gather(page, items, shrink)
                    if not page.token:
                        return items, page.resource_version
                    token = page.token
            except ApiError as error:
                if error.status == 0 and error.reason == TOO_LARGE and limit > 1:
                    limit = max(1, limit // 8)
                elif not error.gone or not token or attempt == LIST_TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _gather(self, page: Page, items: Items, shrink: Callable[[Json], Any] | None) -> None:
        async for item in in_slices(self._reactor, page):
            items.append(item if shrink is None else shrink(item))

    async def page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        token: str = "",
        timeout: float = TIMEOUT,
    ) -> Page:
        """One page of a list, its items still to be decoded.

        Args:
            token: `token` of the page before; the server answers 410 when it is too old.
        """
        query = [("limit", str(limit)), ("continue", token), ("labelSelector", labels), ("fieldSelector", fields)]
        ask = _ask("GET", "list", resource, namespace, query=[(key, value) for key, value in query if value])
        body = await self._session.send(ask, timeout)
        try:
            return Page(resource, body)
        except codec.DecodeError as error:
            raise malformed(ask, self.url, error) from None

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        query: Sequence[tuple[str, str]],
        receive: Callable[[bytes], None],
    ) -> None:
        """A watch's bytes, as they come, until the server ends it. Silence is not bounded here; cancel to end it.

        What `receive` raises ends the watch and comes through.
        """
        ask = _ask("GET", "watch", resource, namespace, query=[("watch", "true"), *query])
        await self._session.stream(ask, receive, WATCH_HEADERS)

    # -- writes

    async def create(
        self, resource: Resource, body: Json, namespace: str | None = None, *, dry_run: bool = False
    ) -> Json:
        """Create; `namespace` defaults to the body's own."""
        namespace = namespace or _meta(body).get("namespace")
        query = [("fieldManager", self.field_manager)]
        if dry_run:
            query.append(("dryRun", "All"))
        name = str(_meta(body).get("name") or _meta(body).get("generateName") or "")
        ask = _ask("POST", "create", resource, namespace, say=name, query=query, body=_typed(resource, body))
        return await self._json(ask, TIMEOUT)

    async def replace(
        self, resource: Resource, body: Json, namespace: str | None = None, *, subresource: str = ""
    ) -> Json:
        """Replace as a whole (PUT). The body's resourceVersion guards it; a custom resource must have one."""
        namespace = namespace or _meta(body).get("namespace")
        return await self._call(
            "PUT",
            "update",
            resource,
            namespace,
            _meta(body)["name"],
            subresource,
            query=[("fieldManager", self.field_manager)],
            body=_typed(resource, body),
        )

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
    ) -> Json:
        """Patch in one of four ways.

        Args:
            force: APPLY only: take fields over from other managers.
            field_manager: instead of the client's own.
        """
        query = [("fieldManager", field_manager or self.field_manager)]
        if kind is PatchKind.APPLY:
            query.append(("force", "true" if force else "false"))
        return await self._call(
            "PATCH", "patch", resource, namespace, name, subresource, query=query, body=patch, content_type=kind.value
        )

    async def apply(self, resource: Resource, body: Json, *, subresource: str = "", force: bool = True) -> Json:
        """Server-side apply of `body`, named by its own metadata. Idempotent."""
        meta = _meta(body)
        return await self.patch(
            resource,
            meta["name"],
            _typed(resource, body),
            meta.get("namespace"),
            kind=PatchKind.APPLY,
            subresource=subresource,
            force=force,
        )

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
    ) -> Json:
        """Delete; with finalizers the object only gets a deletionTimestamp. 404 is an ApiError.

        Args:
            uid, resource_version: preconditions; 409 when they do not hold.
            propagation: "Background", "Foreground" or "Orphan"; the server's default if empty.
            grace: seconds for a pod to end; 0 at once.
        """
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        conditions = {key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
        if conditions:
            options["preconditions"] = conditions
        if propagation:
            options["propagationPolicy"] = propagation
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        return await self._call("DELETE", "delete", resource, namespace, name, body=options)

    # -- the rest

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Json:
        """Anything else; the answer must be a JSON object or empty."""
        ask = Ask(
            method,
            path,
            verb=method.lower(),
            resource="other",
            action=f"{method} {path}",
            right=f"{method.lower()} on {path}",
            query=query,
            body=body,
            content_type=content_type,
        )
        return await self._json(ask, TIMEOUT if timeout is None else timeout)

    async def version(self) -> tuple[int, int]:
        """The server's (major, minor)."""
        found = await self.request("GET", "/version")
        numbers = [re.match(r"\d+", str(found.get(key, ""))) for key in ("major", "minor")]
        major, minor = (int(match[0]) if match else 0 for match in numbers)
        return major, minor

    async def close(self) -> None:
        """Close all connections; calls under way fail. Idempotent."""
        await self._session.close()

    async def _call(
        self,
        method: str,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str,
        subresource: str = "",
        **more: Any,
    ) -> Json:
        return await self._json(_ask(method, verb, resource, namespace, name, subresource, **more), TIMEOUT)

    async def _json(self, ask: Ask, timeout: float) -> Json:
        body = await self._session.send(ask, timeout)
        try:
            return codec.decode(body)
        except codec.DecodeError as error:
            raise malformed(ask, self.url, error) from None


class Page(codec.Page):
    """A page whose items say what they are: the server leaves apiVersion and kind out of a list's items."""

    __slots__ = ("_resource",)

    def __init__(self, resource: Resource, body: bytes) -> None:
        super().__init__(body)
        self._resource = resource

    def __iter__(self) -> Any:
        kind, api_version = self._resource.kind, self._resource.api_version
        for item in super().__iter__():
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", api_version)
            yield item


def _meta(body: Json) -> Json:
    return body.get("metadata") or {}


def _typed(resource: Resource, body: Json) -> Json:
    """With apiVersion and kind, which the caller may leave out."""
    if "kind" in body and "apiVersion" in body:
        return body
    return {"apiVersion": resource.api_version, "kind": resource.kind, **body}


def _ask(
    method: str,
    verb: str,
    resource: Resource,
    namespace: str | None,
    name: str = "",
    subresource: str = "",
    *,
    say: str = "",
    **more: Any,
) -> Ask:
    what = resource.plural + (f"/{subresource}" if subresource else "")
    action = f"{verb} {what}"
    if name or say:
        action += f" {name or say!r}"
    if namespace and resource.namespaced:
        action += f" in namespace {namespace!r}"
    right = f"verb {verb!r} on {_of(resource)}" + (f", subresource {subresource!r}" if subresource else "")
    if namespace and resource.namespaced:
        right += f" in namespace {namespace!r}"
    path = resource.path(namespace, name or None, subresource or None)
    return Ask(method, path, verb=verb, resource=_of(resource), action=action, right=right, **more)


def source_of(settings: KubeSettings) -> Source:
    """Where these settings say that the credentials are."""
    if settings.kubeconfig:
        return Kubeconfig(settings.kubeconfig, settings.context)
    return InCluster(os.environ)


async def connect(reactor: Any, settings: KubeSettings, *, component: str) -> Kube:
    """A client with the credentials of `settings`. Nothing is sent yet: a server that is away is no error here.

    Args:
        component: who we are to the server: field manager `peerpods-<component>` and User-Agent.

    Raises:
        ConfigError: the credentials cannot be read.
    """
    source = source_of(settings)
    access = await load(reactor, source, None, False)
    _warn(access)
    name = component if component.startswith("peerpods-") else f"peerpods-{component}"
    try:
        release = version("peerpods")
    except PackageNotFoundError:
        release = "dev"
    return Kube(reactor, Session(reactor, source, access, f"{name}/{release}"), name)


def _warn(access: Access) -> None:
    if access.context is not None and not access.context.check_hostname:
        _log.error(
            "tls_not_verified",
            server=access.url,
            reason="insecure-skip-tls-verify is set in the kubeconfig: anyone on the way can read the credentials",
        )
    if access.url.startswith("http://") and access.authorization:
        _log.error("credentials_in_the_clear", server=access.url, reason="the address begins with http://")
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    if proxy:
        _log.warning("proxy_ignored", server=access.url, reason="proxies are not supported for the API server")
