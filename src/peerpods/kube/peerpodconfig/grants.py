"""The adaptor's rights on pull secrets: in each namespace with such peer pods a Role for exactly these. Pure.

The API server's ServiceAccount admission has put the account's pull secrets into the pod: the pod's list is complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from peerpods.kube.objects import names
from peerpods.kube.peerpodconfig.facts import PodFacts

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
RBAC = "rbac.authorization.k8s.io"


def secret_names(pods: Iterable[PodFacts], classes: frozenset[str]) -> tuple[str, ...]:
    """Names of the pull secrets of the peer pods among these, sorted. A name that can be no Secret's is left out."""
    found = {name for pod in pods if pod.runtime_class in classes for name in pod.secrets}
    return tuple(sorted(name for name in found if _NAME.fullmatch(name)))


def role(namespace: str, secrets: tuple[str, ...]) -> dict[str, Any]:
    """`get` on these secrets and nothing else."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": _metadata(namespace),
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(secrets), "verbs": ["get"]}],
    }


def binding(namespace: str, adaptors: str) -> dict[str, Any]:
    """The Role, for the adaptor's account.

    Args:
        adaptors: the namespace that the adaptors run in.
    """
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(namespace),
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": names.PULL_SECRETS_ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": names.ADAPTOR, "namespace": adaptors}],
    }


def _metadata(namespace: str) -> dict[str, Any]:
    return {
        "name": names.PULL_SECRETS_ROLE,
        "namespace": namespace,
        "labels": names.labels("adaptor", names.PEER_POD_CONFIG_CTRL),
    }


def granted(live_role: dict[str, Any] | None) -> frozenset[str]:
    """The secrets that a Role opens now."""
    rules = (live_role or {}).get("rules") or ()
    return frozenset(name for rule in rules for name in rule.get("resourceNames") or ())
