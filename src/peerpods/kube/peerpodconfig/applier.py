"""Writes an object only when it differs, and knows its own last writes until the watch has shown them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerpods.kube.client import ApiError, KubeApi
from peerpods.kube.objects.resources import Resource
from peerpods.kube.peerpodconfig.difference import first_difference, stamped
from peerpods.kube.peerpodconfig.metrics import APPLIES
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
Live = Mapping[str, Any] | None
Ident = tuple[str, str, str]


def version_of(obj: Live) -> tuple[str, str]:
    """uid and resourceVersion; two empty texts for no object."""
    meta = (obj or {}).get("metadata", {})
    return meta.get("uid", ""), meta.get("resourceVersion", "")


def ident_of(obj: Mapping[str, Any]) -> Ident:
    """Kind, namespace, name."""
    meta = obj["metadata"]
    return obj["kind"], meta.get("namespace", ""), meta["name"]


class Applier:
    """Server-side apply with a memory."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube
        self._written: dict[Ident, tuple[tuple[str, str], Live]] = {}
        """What the store showed when we last wrote, and what came of it."""
        self._settled: dict[Ident, tuple[str, str]] = {}
        """Versions at which an apply changed nothing, though something seems to differ."""

    def current(self, ident: Ident, seen: Live) -> Live:
        """The object as it is known: as in the store, unless the store has not seen our last write yet."""
        before = self._written.get(ident)
        if before is not None and before[0] == version_of(seen):
            return before[1]
        self._written.pop(ident, None)
        return seen

    async def ensure(self, resource: Resource, desired: Mapping[str, Any], seen: Live) -> bool:
        """Make the object what it should be; whether something was written.

        Args:
            seen: as in the informer's store, None when it is not there.

        Raises:
            ApiError: the server refused.
        """
        ident = ident_of(desired)
        live = self.current(ident, seen)
        wanted = stamped(desired)
        where = first_difference(live, wanted)
        if where is None or (live is not None and self._settled.get(ident) == version_of(live)):
            return False
        try:
            made = await self._kube.apply(resource, wanted)
        except ApiError as error:
            APPLIES.labels(resource.kind, error.reason or str(error.status)).inc()
            raise
        self._written[ident] = (version_of(seen), made)
        if live is not None and version_of(made) == version_of(live):
            self._settled[ident] = version_of(live)
            return False
        APPLIES.labels(resource.kind, "ok").inc()
        log.info("applied", kind=resource.kind, name=ident[2], namespace=ident[1], because=where or "missing")
        return True

    async def remove(self, resource: Resource, live: Mapping[str, Any]) -> None:
        """Delete exactly this object; gone already is fine.

        Raises:
            ApiError: the server refused.
        """
        meta = live["metadata"]
        try:
            await self._kube.delete(
                resource, meta["name"], meta.get("namespace"), uid=meta.get("uid", ""), propagation="Background"
            )
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise
        self._written.pop((resource.kind, meta.get("namespace", ""), meta["name"]), None)
        log.info("deleted", kind=resource.kind, name=meta["name"], namespace=meta.get("namespace", ""))
