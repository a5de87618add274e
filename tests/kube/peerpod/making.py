"""PeerPods and facts for the tests of this folder."""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects import peerpod
from peerpods.kube.objects.conditions import condition, time_text
from peerpods.kube.peerpod.facts import Facts, Known, NodeFact, PodFact

NOW = 1_700_000_000.0
SANDBOX = "0a1b2c3d" + "e" * 56
CLUSTER = "blue"


def obj(
    *,
    sandbox: str = SANDBOX,
    pod: str = "web",
    namespace: str = "shop",
    pod_uid: str = "u-1",
    provider: str = "memory",
    instance_id: str = "i-1",
    node: str = "n1",
    cluster: str = CLUSTER,
    age: float = 100,
    uid: str = "pp-1",
    name: str = "",
    deleting: float | None = None,
    conditions: list[dict[str, Any]] | None = None,
    phase: str = "",
    started: float = 0,
    generation: int = 1,
    finalizers: list[str] | None = None,
    now: float = NOW,
) -> dict[str, Any]:
    """A PeerPod as the API server shows it; `deleting`: seconds since the deletion was asked for."""
    made = peerpod.new_peer_pod(
        sandbox=sandbox,
        pod=pod,
        namespace=namespace,
        pod_uid=pod_uid,
        provider=provider,
        instance_id=instance_id,
        node=node,
        cluster=cluster,
        token=f"{sandbox}-1",
    )
    metadata = made["metadata"]
    metadata |= {"uid": uid, "creationTimestamp": time_text(now - age), "generation": generation}
    metadata["resourceVersion"] = "1"
    if not sandbox:
        del metadata["annotations"]
    if name:
        metadata["name"] = name
    if finalizers is not None:
        metadata["finalizers"] = finalizers
    if deleting is not None:
        metadata["deletionTimestamp"] = time_text(now - deleting)
    if phase or conditions:
        made["status"] = peerpod.status_of(phase=phase or "Deleting", conditions=conditions or [], started_at=started)
    return made


def view(**changes: Any) -> peerpod.PeerPodView:
    """The same, read."""
    return peerpod.parse(obj(**changes))


def failing(ago: float, *, reason: str = "CloudError", message: str = "no") -> list[dict[str, Any]]:
    """The condition of a deletion that has not succeeded for so many seconds."""
    return [condition(peerpod.DELETED, False, reason, message, NOW - ago, generation=1)]


def pod(**changes: Any) -> PodFact:
    """A pod that runs on n1."""
    return PodFact(**{"state": Known.PRESENT, "node": "n1", **changes})


GONE_POD = PodFact(state=Known.ABSENT, absent_since=NOW - 30)
READY_NODE = NodeFact(state=Known.PRESENT, ready=True)
UNREADY_NODE = NodeFact(state=Known.PRESENT)
GONE_NODE = NodeFact(state=Known.ABSENT, absent_since=NOW - 60)
NO_NODE = NodeFact(state=Known.UNNAMED)


def facts(**changes: Any) -> Facts:
    """A running pod on a ready node, asked for lately."""
    return Facts(**{"pod_asked_at": NOW, "node": READY_NODE, **changes})
