"""Keeps a controller's own rights for as long as there is something it must undo.

`kubectl delete -k` and the deletion of a namespace take accounts, roles and bindings away at once, long before the
controllers have ended. A finalizer on them keeps them in force meanwhile: the API server honours a role or binding that
is being deleted, and a token for 60 s after its account's deletion was asked for (kube-apiserver's leeway). So that
nothing hangs when nobody is left to take it off, the finalizer is on them only while there is something to undo, and
`peerpods uninstall --force` takes it off.
"""

from __future__ import annotations

from typing import Any

from peerpods.kube.client.api import Json, KubeApi, PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.names import CONFIG_FINALIZER
from peerpods.obs.log import get_logger

_log = get_logger("kube")
_TRIES = 3


def rights_of(account: str, namespace: str) -> tuple[tuple[r.Resource, str, str | None], ...]:
    """Kind, name and namespace of what k8s/base gives a controller's account its rights by."""
    role = account if account.startswith("peerpods-") else f"peerpods-{account}"
    return (
        (r.SERVICE_ACCOUNTS, account, namespace),
        (r.ROLES, role, namespace),
        (r.ROLE_BINDINGS, role, namespace),
        (r.CLUSTER_ROLES, role, None),
        (r.CLUSTER_ROLE_BINDINGS, role, None),
    )


async def hold(kube: KubeApi, account: str, namespace: str) -> None:
    """Put the finalizer on the rights of an account. Idempotent; what is missing or being deleted is left alone.

    Raises:
        ApiError: worth another try.
    """
    for resource, name, where in rights_of(account, namespace):
        await _change(kube, resource, name, where, held=True)


async def release(kube: KubeApi, account: str, namespace: str) -> None:
    """Take it off, the bindings last: they are what lets us. Idempotent.

    Raises:
        ApiError: worth another try.
    """
    for resource, name, where in rights_of(account, namespace):
        await _change(kube, resource, name, where, held=False)


async def _change(kube: KubeApi, resource: r.Resource, name: str, namespace: str | None, held: bool) -> None:
    for attempt in range(_TRIES):
        try:
            patch = _patch(await kube.get(resource, name, namespace), held)
            if patch is not None:
                await kube.patch(resource, name, patch, namespace, kind=PatchKind.MERGE)
        except ApiError as error:
            if error.not_found:
                return
            if error.forbidden or error.unauthorized:  # installed by other means than ours
                _log.warning("rights_unheld", kind=resource.kind, name=name, held=held, error=str(error))
                return
            if not error.conflict or attempt == _TRIES - 1:
                raise
        else:
            return


def _patch(found: Json, held: bool) -> dict[str, Any] | None:
    """None when nothing is to do. The resourceVersion makes a lost race a conflict."""
    metadata = found["metadata"]
    there = list(metadata.get("finalizers") or ())
    if held == (CONFIG_FINALIZER in there) or (held and metadata.get("deletionTimestamp")):
        return None
    kept = [*there, CONFIG_FINALIZER] if held else [one for one in there if one != CONFIG_FINALIZER]
    return {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": kept}}
