"""The deletion of a PeerPodConfig: what comes after what, how long each step is waited for, what is said. Pure.

Everything is decided from what is left in the cluster and from the time since the deletion was asked for, so that a
controller which starts anew goes on where the last one ended.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attrs

from peerpods.kube.objects.peerpod import PeerPodView

STEP = 10.0  # seconds that each quick step may take; together they keep the whole below five minutes
NAMED = 10  # PeerPods that a message names


class Stage(enum.Enum):
    """The steps, in order."""

    REGISTRATION = "the webhook's registration"
    CLASSES = "RuntimeClasses"
    PEER_PODS = "PeerPods and their VMs"
    CAPACITY = "the nodes' capacity"
    GRANTS = "rights on pull secrets"
    CHILDREN = "DaemonSets and webhook"


ORDER = tuple(Stage)


@attrs.frozen(kw_only=True)
class Left:
    """What is still there."""

    items: Mapping[Stage, Sequence[str]]
    """Names by step; for PeerPods NAMESPACE/NAME."""
    namespace_ending: bool = False
    """Our own namespace is being deleted: accounts, adaptors and rights go with it, whatever we wait for."""

    def of(self, stage: Stage) -> Sequence[str]:
        """Names of one step."""
        return self.items.get(stage, ())


@attrs.frozen
class Plan:
    """One round."""

    act: tuple[Stage, ...]
    """Steps whose rest is to be deleted now."""
    waiting: Stage | None
    """The step that the next ones wait for; None when the finalizer may go."""
    overdue: tuple[Stage, ...]
    """Steps with a rest that are waited for no longer."""


def bounds(timeout: float) -> dict[Stage, float]:
    """Seconds since the deletion was asked for after which a step is waited for no longer.

    Args:
        timeout: spec.deletionTimeoutSeconds, the bound of the PeerPods.
    """
    peer_pods = max(timeout, 2 * STEP)
    return {
        Stage.REGISTRATION: STEP,
        Stage.CLASSES: 2 * STEP,
        Stage.PEER_PODS: peer_pods,
        Stage.CAPACITY: peer_pods + STEP,
        Stage.GRANTS: peer_pods + 2 * STEP,
        Stage.CHILDREN: peer_pods + 3 * STEP,
    }


def plan(left: Left, waited: float, timeout: float) -> Plan:
    """Which steps act now, and which one is waited for."""
    limits = bounds(timeout)
    act: list[Stage] = []
    overdue: list[Stage] = []
    for stage in ORDER:
        if not left.of(stage):
            continue
        act.append(stage)
        if left.namespace_ending and stage in (Stage.PEER_PODS, Stage.CHILDREN):
            continue  # asked to go; peerpod-ctrl and the namespace see to them, and our rights may end at any moment
        if waited < limits[stage]:
            return Plan(tuple(act), stage, tuple(overdue))
        overdue.append(stage)
    return Plan(tuple(act), None, tuple(overdue))


def progress(chosen: Plan, left: Left, waited: float, timeout: float) -> str:
    """One line on how far it is."""
    stage = chosen.waiting
    if stage is None:
        return "the last step"
    rest = max(0, round(bounds(timeout)[stage] - waited))
    names = left.of(stage)
    return f"waiting for {stage.value}: {len(names)} left ({some(names)}), at most {rest} s more"


def some(names: Sequence[str]) -> str:
    """A few names and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def describe(view: PeerPodView) -> str:
    """A PeerPod whose VM may be left, with all that helps to find it."""
    where = view.instance_id or view.instance_name
    vm = f"VM {where}" if where else f"a VM with tag peerpods-sandbox={view.sandbox}" if view.sandbox else "no VM known"
    cloud = f" at {view.provider}" if view.provider else ""
    node = f", node {view.node}" if view.node else ""
    error = f", last error: {view.last_error}" if view.last_error else ""
    return f"{view.key} ({vm}{cloud}{node}{error})"


def left_behind(views: Sequence[PeerPodView], timeout: float) -> str:
    """What is said when the PeerPods are waited for no longer."""
    named = "; ".join(describe(view) for view in views[:NAMED])
    more = f"; and {len(views) - NAMED} more" if len(views) > NAMED else ""
    return (
        f"{len(views)} PeerPods are still there after {timeout:g} s, and their VMs may be: {named}{more}. "
        "Remedy: `peerpods uninstall --force` names each VM and strips the finalizers; or delete the VMs in the cloud, "
        'then kubectl -n NAMESPACE patch peerpod NAME --type=merge -p \'{"metadata":{"finalizers":null}}\''
    )
