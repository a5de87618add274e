"""What the adaptor may do in the cluster, and must be able to: its ClusterRole, as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from peerpods.kube.client.api import KubeApi
from peerpods.kube.objects.names import GROUP
from peerpods.kube.objects.resources import ACCESS_REVIEWS


@attrs.frozen
class Right:
    """One rule."""

    group: str
    resource: str
    """With a subresource as "peerpods/status"."""
    verbs: tuple[str, ...]
    why: str


RIGHTS = (
    Right("", "pods", ("get", "list", "watch"), "the pod's UID, its pull secrets' names, whether it is gone"),
    Right("", "pods/finalizers", ("update",), "owner references that block deletion, where the cluster checks them"),
    Right("", "nodes", ("get", "list", "watch"), "the limit that its own node advertises"),
    Right(GROUP, "peerpods", ("create", "get", "list", "patch", "delete"), "one object for each VM"),
    Right(GROUP, "peerpods/status", ("patch",), "phase, addresses and errors of each VM"),
    Right("events.k8s.io", "events", ("create", "patch"), "events on pods"),
)
"""All of them, for every namespace. Secrets are not among them: the right to read a pod's pull secrets is given by
name, in the pod's namespace, by peerpodconfig-ctrl."""
ADVERTISE = Right("", "nodes/status", ("patch",), "the node's capacity, with --advertise-capacity alone")


def rules(*, advertise: bool = False) -> list[dict[str, Any]]:
    """The rules of the ClusterRole."""
    return [
        {"apiGroups": [one.group], "resources": [one.resource], "verbs": list(one.verbs)}
        for one in (*RIGHTS, *((ADVERTISE,) if advertise else ()))
    ]


def reviews() -> Iterator[tuple[str, dict[str, Any]]]:
    """For each right its name in words and the SelfSubjectAccessReview that asks for it."""
    for one in RIGHTS:
        resource, _, subresource = one.resource.partition("/")
        for verb in one.verbs:
            attributes = {"group": one.group, "resource": resource, "verb": verb}
            if subresource:
                attributes["subresource"] = subresource
            name = f"{verb} on {one.resource}{'.' + one.group if one.group else ''}"
            yield (
                name,
                {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes},
                },
            )


async def missing_rights(kube: KubeApi) -> list[str]:
    """Which of the rights the client's identity lacks, by asking the API server for each.

    Raises:
        ApiError: there was no answer.
    """
    answers = [(name, await kube.create(ACCESS_REVIEWS, review)) for name, review in reviews()]
    return [name for name, answer in answers if not (answer.get("status") or {}).get("allowed")]
