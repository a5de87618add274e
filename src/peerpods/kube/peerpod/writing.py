"""Writes to one PeerPod: status, deletion, release. Each may be done twice, and another may have done it before."""

from __future__ import annotations

from typing import Any

from peerpods.kube.client.api import KubeApi, PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.conditions import condition, cut, set_condition
from peerpods.kube.objects.peerpod import DELETED, READY, PeerPodView, parse, release_patch
from peerpods.kube.objects.resources import PEER_PODS
from peerpods.kube.peerpod.facts import WriteStatus

TRIES = 4
"""Times that an object which changes under our hands is read again."""


def status_patch(view: PeerPodView, what: WriteStatus, now: float) -> dict[str, Any]:
    """The merge patch of the status; it fails with 409 when the object has changed, for it replaces all conditions."""
    generation = view.generation
    new = condition(DELETED, what.deleted, what.reason, what.message, now, generation=generation)
    kept = set_condition(view.conditions, new)
    ready = view.condition(READY)
    if ready is not None and ready.get("status") == "True":
        kept = set_condition(kept, condition(READY, False, "Deleting", "the VM is being deleted", now))
    status: dict[str, Any] = {"phase": str(what.phase), "lastError": cut(what.last_error), "conditions": kept}
    if generation:
        status["observedGeneration"] = generation
    if what.deleted:
        status["cleand"] = True
    return {"metadata": {"resourceVersion": view.resource_version}, "status": status}


async def write_status(kube: KubeApi, view: PeerPodView, what: WriteStatus, now: float) -> bool:
    """Write it; False when the object is gone, or another has taken its name.

    Raises:
        ApiError: when it could not be written.
    """
    current = view
    for tries in range(TRIES):
        patch = status_patch(current, what, now)
        try:
            await kube.patch(PEER_PODS, view.name, patch, view.namespace, kind=PatchKind.MERGE, subresource="status")
        except ApiError as error:
            if error.not_found and not error.kind_unknown:
                return False
            if not error.conflict or tries == TRIES - 1:
                raise
        else:
            return True
        fresh = await _read(kube, view)
        if fresh is None:
            return False
        current = parse(fresh)
    return True


async def delete_object(kube: KubeApi, view: PeerPodView) -> None:
    """Delete this very object; gone, or replaced by another of its name, is as good.

    Raises:
        ApiError: when it is still there.
    """
    try:
        await kube.delete(PEER_PODS, view.name, view.namespace, uid=view.uid)
    except ApiError as error:
        if error.kind_unknown or not (error.not_found or error.conflict):
            raise


async def release(kube: KubeApi, view: PeerPodView) -> bool:
    """Take our finalizer off this very object; whether it was we who did it.

    Raises:
        ApiError: when it is still on it.
    """
    known: dict[str, Any] | None = {"metadata": {"uid": view.uid, "finalizers": list(view.finalizers)}}
    for tries in range(TRIES):
        patch = release_patch(known or {})
        if not patch:
            return False
        try:
            await kube.patch(PEER_PODS, view.name, patch, view.namespace, kind=PatchKind.JSON)
        except ApiError as error:
            if error.not_found and not error.kind_unknown:
                return False
            if not (error.conflict or error.invalid) or tries == TRIES - 1:
                raise
        else:
            return True
        known = await _read(kube, view)
        if known is None:
            return False
    return False


async def _read(kube: KubeApi, view: PeerPodView) -> dict[str, Any] | None:
    """This very object as it is now, or None."""
    try:
        found = await kube.get(PEER_PODS, view.name, view.namespace)
    except ApiError as error:
        if error.not_found and not error.kind_unknown:
            return None
        raise
    return found if (found.get("metadata") or {}).get("uid") == view.uid else None
