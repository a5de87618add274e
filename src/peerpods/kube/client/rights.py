"""Keeps a controller's own rights for as long as there is something it must undo.

`kubectl delete -k` and the deletion of a namespace take accounts, roles and bindings away at once, long before the
controllers have ended. Two things keep them able to act meanwhile:

- `keep`: a copy of their cluster-wide rights that no installer knows. The Namespace owns it, so that the garbage
  collector takes it away after the namespace; nobody who still needs it has to.
- `hold`: a finalizer on the account, for tokens of an account that is gone are refused. It is there only while there is
  something to undo. Even so a token is taken for 60 s only after the account's deletion was asked for.
"""

from __future__ import annotations

from typing import Any

from peerpods.kube.client.api import KubeApi, PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.names import CONFIG_FINALIZER, labels
from peerpods.obs.log import get_logger

_log = get_logger("kube")
_TRIES = 3


def role_of(account: str) -> str:
    """The ClusterRole, and its binding, that k8s/base gives a controller."""
    return account if account.startswith("peerpods-") else f"peerpods-{account}"


def copy_of(account: str) -> str:
    """The name of the copy."""
    return f"{role_of(account)}-undo"


async def keep(kube: KubeApi, account: str, namespace: str) -> None:
    """Copy the cluster-wide rights of an account, by itself: nobody can give rights he has not. Idempotent.

    Without such a role, as outside of a cluster, nothing is done.

    Raises:
        ApiError: worth another try.
    """
    name = copy_of(account)
    try:
        role = await kube.get(r.CLUSTER_ROLES, role_of(account))
        owner = await kube.get(r.NAMESPACES, namespace)
        metadata = {
            "name": name,
            "labels": labels(account, managed_by=account),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": owner["metadata"]["uid"]}
            ],
        }
        kind = f"{r.CLUSTER_ROLES.group}/{r.CLUSTER_ROLES.version}"
        await _apply(
            kube,
            r.CLUSTER_ROLES,
            {"apiVersion": kind, "kind": "ClusterRole", "metadata": metadata, "rules": role["rules"]},
        )
        await _apply(
            kube,
            r.CLUSTER_ROLE_BINDINGS,
            {
                "apiVersion": kind,
                "kind": "ClusterRoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": r.CLUSTER_ROLES.group, "kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            },
        )
    except ApiError as error:
        if error.passing:
            raise
        if not error.not_found:  # installed by other means than ours
            _log.warning("rights_not_kept", account=account, error=str(error))


async def _apply(kube: KubeApi, resource: r.Resource, wanted: dict[str, Any]) -> None:
    """Apply what is not so already: a controller that only starts again writes nothing."""
    try:
        there = await kube.get(resource, wanted["metadata"]["name"])
    except ApiError as error:
        if not error.not_found:
            raise
    else:
        metadata = there["metadata"]
        rest = {key: value for key, value in wanted.items() if key not in ("apiVersion", "kind", "metadata")}
        if (
            all(there.get(key) == value for key, value in rest.items())
            and wanted["metadata"]["labels"].items() <= metadata.get("labels", {}).items()
            and metadata.get("ownerReferences") == wanted["metadata"]["ownerReferences"]
        ):
            return
    await kube.apply(resource, wanted)


async def hold(kube: KubeApi, account: str, namespace: str) -> None:
    """Put the finalizer on an account. Idempotent; one that is missing or being deleted is left alone.

    Raises:
        ApiError: worth another try.
    """
    await _change(kube, account, namespace, held=True)


async def release(kube: KubeApi, account: str, namespace: str) -> None:
    """Take it off: for one's own account the last request of all. Idempotent.

    Raises:
        ApiError: worth another try.
    """
    await _change(kube, account, namespace, held=False)


async def _change(kube: KubeApi, account: str, namespace: str, held: bool) -> None:
    for attempt in range(_TRIES):
        try:
            metadata = (await kube.get(r.SERVICE_ACCOUNTS, account, namespace))["metadata"]
            there = list(metadata.get("finalizers") or ())
            if held == (CONFIG_FINALIZER in there) or (held and metadata.get("deletionTimestamp")):
                return
            wanted = [*there, CONFIG_FINALIZER] if held else [one for one in there if one != CONFIG_FINALIZER]
            patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": wanted}}
            await kube.patch(r.SERVICE_ACCOUNTS, account, patch, namespace, kind=PatchKind.MERGE)
        except ApiError as error:
            if error.passing or (error.conflict and attempt == _TRIES - 1):
                raise
            if not error.conflict:
                if not error.not_found:
                    _log.warning("account_not_changed", account=account, held=held, error=str(error))
                return
        else:
            return
