"""Keeps a controller's own rights for as long as there is something it must undo.

`kubectl delete -k` and the deletion of a namespace take accounts, roles and bindings away at once, long before the
controllers have ended. A finalizer on them keeps them in force meanwhile: the API server honours a role or binding that
is being deleted, and a token for 60 s after its account's deletion was asked for (kube-apiserver's leeway). So that
nothing hangs when nobody is left to take it off, the finalizer is on them only while there is something to undo, and
`peerpods uninstall --force` takes it off.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from peerpods.kube.client.api import Json, KubeApi, PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.names import CONFIG_FINALIZER
from peerpods.obs.log import get_logger

_log = get_logger("kube")
_TRIES = 3


def rights_of(account: str, namespace: str) -> tuple[tuple[r.Resource, str, str | None], ...]:
    """Kind, name and namespace of what gives a controller its rights in k8s/base, but those in its own namespace."""
    role = account if account.startswith("peerpods-") else f"peerpods-{account}"
    return (
        (r.CLUSTER_ROLE_BINDINGS, role, None),
        (r.CLUSTER_ROLES, role, None),
        (r.SERVICE_ACCOUNTS, account, namespace),
    )


async def hold(kube: KubeApi, account: str, namespace: str) -> None:
    """Put the finalizer on the rights of an account. Idempotent; what is missing or being deleted is left alone.

    Raises:
        ApiError: worth another try.
    """
    await _change(kube, account, namespace, held=True)


async def release(kube: KubeApi, account: str, namespace: str) -> None:
    """Take it off. Idempotent.

    Of an account's own rights that are being deleted, the first one that goes takes away the right to let the others
    go. So they are let go at once: the server judges all three requests before it has heard of the first one's effect.

    Raises:
        ApiError: worth another try.
    """
    await _change(kube, account, namespace, held=False)


async def _change(kube: KubeApi, account: str, namespace: str, held: bool) -> None:
    for attempt in range(_TRIES):
        patches = []
        for resource, name, where in rights_of(account, namespace):
            patch = await _patch(kube, resource, name, where, held)
            if patch is not None:
                patches.append((resource, name, patch, where))
        done = await gatherResults(
            [Deferred.fromCoroutine(_send(kube, *each, last=attempt == _TRIES - 1)) for each in patches]
        )
        if all(done):
            return


async def _send(
    kube: KubeApi, resource: r.Resource, name: str, patch: dict[str, Any], namespace: str | None, *, last: bool
) -> bool:
    """Whether it is as it should be; False when somebody was faster."""
    try:
        await kube.patch(resource, name, patch, namespace, kind=PatchKind.MERGE)
    except ApiError as error:
        if error.conflict and not last:
            return False
        if not error.not_found:
            _log.warning("rights_not_changed", kind=resource.kind, name=name, error=str(error))
    return True


async def _patch(
    kube: KubeApi, resource: r.Resource, name: str, namespace: str | None, held: bool
) -> dict[str, Any] | None:
    """None when nothing is to do. The resourceVersion makes a lost race a conflict."""
    try:
        found: Json = await kube.get(resource, name, namespace)
    except ApiError as error:
        if error.passing:
            raise
        if not error.not_found:  # installed by other means than ours
            _log.warning("rights_not_read", kind=resource.kind, name=name, error=str(error))
        return None
    metadata = found["metadata"]
    there = list(metadata.get("finalizers") or ())
    if held == (CONFIG_FINALIZER in there) or (held and metadata.get("deletionTimestamp")):
        return None
    kept = [*there, CONFIG_FINALIZER] if held else [one for one in there if one != CONFIG_FINALIZER]
    return {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": kept}}
