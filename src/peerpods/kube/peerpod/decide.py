"""What to do about one PeerPod. Pure: a table of rules over what was asked.

Nothing here is remembered but in the object itself, so every decision can be taken again, by any replica, after a
crash between any two of its actions.
"""

from __future__ import annotations

from peerpods.kube.objects.conditions import cut, parse_time
from peerpods.kube.objects.peerpod import DELETED, PeerPodPhase, PeerPodView
from peerpods.kube.peerpod.deletion import may_be_left, name_the_vm
from peerpods.kube.peerpod.facts import (
    Action,
    Ask,
    Decision,
    DeleteInstance,
    DeleteObject,
    Ending,
    Facts,
    Known,
    Limits,
    Question,
    Release,
    Tell,
    WriteStatus,
)

DELETING, CLOUD_ERROR, UNUSABLE, UNKNOWN, GONE = (
    "Deleting",
    "CloudError",
    "ProviderUnusable",
    "UnknownProvider",
    "Gone",
)
"""Reasons of the condition Deleted."""
HASTE = 10.0
"""Longest grace of an adaptor, in seconds, while the installation is being deleted."""
WATCH_EVERY = 60.0
"""Seconds between looks at a pod that kubelet still ends."""


def decide(view: PeerPodView, facts: Facts, now: float, limits: Limits, *, cluster: str = "") -> Decision:
    """The next actions for one object.

    Args:
        now: seconds since the epoch.
        cluster: our cluster's name, for objects that name none.
    """
    if not view.deleting:
        return _live(view, facts, now, limits)
    if not view.held:
        return Decision()  # nothing of ours is on it any more
    return _dying(view, facts, now, limits, cluster)


def superseded_by(view: PeerPodView, siblings: tuple[PeerPodView, ...]) -> PeerPodView | None:
    """The newer PeerPod of the same pod whose VM runs, so that this one's is left over; or None.

    A newer one that does not run yet may still fail, and then its pod has no other. Objects of the existing system have
    no phase; they are made only after their VM, and their adaptor has one VM a pod.
    """
    for other in siblings:
        other_sandbox = not view.sandbox or view.sandbox != other.sandbox
        runs = other.phase == PeerPodPhase.RUNNING or (not other.phase and not other.sandbox and other.instance_id)
        if view.older_than(other) and other_sandbox and runs and not other.deleting:
            return other
    return None


def _live(view: PeerPodView, facts: Facts, now: float, limits: Limits) -> Decision:
    if facts.ending is Ending.INSTALLATION:
        return Decision((DeleteObject("peer pods are being uninstalled"),))
    newer = superseded_by(view, facts.siblings)
    if newer is not None:
        return Decision((DeleteObject(f"the pod runs in the VM of {newer.name} now"),))
    node_missing = facts.node is not None and facts.node.state is Known.ABSENT
    if facts.pod is None:
        due = facts.pod_asked_at + limits.recheck - now
        if not view.owners:
            due = min(due, limits.pod_grace - (now - view.created))
        return Decision((Ask(Question.POD),)) if node_missing or due <= 0 else Decision(again=due)
    if facts.pod.state is Known.ABSENT:
        wait = facts.pod.absent_since + limits.pod_grace - now
        if wait > 0:
            return Decision(again=wait)
        return Decision((DeleteObject("its pod is gone and the garbage collector left it"),))
    if node_missing and facts.node is not None:
        wait = facts.node.absent_since + limits.node_grace - now
        if wait > 0:
            return Decision(again=wait)
        if facts.node_confirmed is None:
            return Decision((Ask(Question.NODE),))
        if facts.node_confirmed:
            return Decision((DeleteObject("its node is gone"),))
    return Decision(again=limits.recheck)


def adaptor_has_until(view: PeerPodView, facts: Facts, limits: Limits) -> float:
    """The time (epoch) up to which the deletion is the node's adaptor's own; 0 when no such adaptor can be alive.

    While kubelet still ends the pod (a deletion in the foreground marks the PeerPod first), its time counts.
    """
    if facts.node is None or facts.node.state is not Known.PRESENT or not facts.node.ready:
        return 0.0
    since = view.deleting_since or 0.0
    if facts.deleting_seen_at:
        since = min(since, facts.deleting_seen_at)  # the API server's clock may be ahead of ours
    if facts.ending is Ending.INSTALLATION:
        return since + min(limits.adaptor_grace, HASTE)  # adaptors end too, and so do our rights
    if facts.pod is not None and facts.pod.state is Known.PRESENT and facts.pod.ends_at is not None:
        since = max(since, facts.pod.ends_at)
    return since + limits.adaptor_grace


def _dying(view: PeerPodView, facts: Facts, now: float, limits: Limits, cluster: str) -> Decision:
    condition = view.condition(DELETED)
    if condition and condition.get("status") == "True" and condition.get("observedGeneration") == view.generation:
        return Decision((Release(),))  # a controller was cut off before its last step
    progress = facts.progress
    if progress.gone:
        return Decision((*_gone(view, facts, cluster), Release()))
    if progress.running and not progress.error:
        return Decision()  # its end calls us again
    if facts.pod is None and not progress.began:
        return Decision((Ask(Question.POD),))
    wait = adaptor_has_until(view, facts, limits) - now
    if wait > 0 and not progress.began:
        return Decision(again=min(wait, WATCH_EVERY))
    if facts.provider.unknown:
        return _helpless(view, facts, now, limits, cluster)
    return _in_the_cloud(view, facts, now, limits, cluster)


def _in_the_cloud(view: PeerPodView, facts: Facts, now: float, limits: Limits, cluster: str) -> Decision:
    """One step of the deletion: begin it, wait, or give up."""
    progress, left = facts.progress, _time_left(view, now, limits)
    if progress.error and left <= 0:
        released = _give_up(view, facts, cluster)
        if released is not None:
            return released
    words = _failed(view, facts) if progress.error else _begun(view, cluster)
    wait = progress.not_before - now
    if wait > 0 or progress.running:
        waits = [one for one in (wait, left if progress.error else 0.0) if one > 0]
        return Decision(words, again=min(waits, default=None))
    return Decision((*words, DeleteInstance()))


def _status(view: PeerPodView, **wanted: object) -> tuple[Action, ...]:
    """The status to write, or nothing when the condition says it already: the phase has another writer."""
    new = WriteStatus(**wanted)  # type: ignore[arg-type]
    now = view.condition(DELETED) or {}
    told = (now.get("status"), now.get("reason"), now.get("message"))
    return () if told == (str(new.deleted), new.reason, cut(new.message)) else (new,)


def _begun(view: PeerPodView, cluster: str) -> tuple[Action, ...]:
    message = f"deleting {name_the_vm(view, cluster)}"
    return _status(view, phase=PeerPodPhase.DELETING, deleted=False, reason=DELETING, message=message)


def _failed(view: PeerPodView, facts: Facts) -> tuple[Action, ...]:
    error, reason = facts.progress.error, UNUSABLE if facts.progress.unusable else CLOUD_ERROR
    written = _status(view, phase=PeerPodPhase.DELETING, deleted=False, reason=reason, message=error, last_error=error)
    return (*written, Tell(warning=True, reason="VMDeletionFailed", note=error)) if written else ()


def _gone(view: PeerPodView, facts: Facts, cluster: str) -> tuple[Action, ...]:
    vm = name_the_vm(view, cluster)
    told: Action = Tell(warning=False, reason="VMDeleted", note=f"{vm} is gone")
    if facts.progress.foreign:
        note = (
            f"instance {facts.progress.foreign}, which this object names, carries another sandbox's tags and was left "
            "alone; nothing else of this sandbox is left"
        )
        told = Tell(warning=True, reason="VMMayBeLeft", note=note)
    written = _status(view, phase=PeerPodPhase.RELEASED, deleted=True, reason=GONE, message=f"{vm} is gone")
    return (*written, told)


def _time_left(view: PeerPodView, now: float, limits: Limits) -> float:
    """Seconds until the deletion has failed for so long that nothing may wait for it any more.

    Counted by what the object says, so that restarts of the controller do not make it longer; from its deletion on,
    however long an adaptor had failed before.
    """
    condition = view.condition(DELETED)
    since = parse_time(condition.get("lastTransitionTime")) if condition else None
    if since is None:
        return limits.release_after
    return limits.release_after - (now - max(since, view.deleting_since or 0.0))


def _give_up(view: PeerPodView, facts: Facts, cluster: str) -> Decision | None:
    """Let the object go when its namespace, the CRD or the installation waits for it; None when nothing does."""
    if facts.ending is not Ending.INSTALLATION:
        if facts.terminating is None:
            return Decision((Ask(Question.TERMINATING),))
        if not facts.terminating:
            return None
    words = may_be_left(view, cluster, facts.progress.error or facts.provider.unknown)
    return Decision((Tell(warning=True, reason="VMMayBeLeft", note=words), Release(words)))


def _helpless(view: PeerPodView, facts: Facts, now: float, limits: Limits, cluster: str) -> Decision:
    """No provider of that name: say so once, wait long, and let go only when something bigger waits."""
    error = facts.provider.unknown
    left = _time_left(view, now, limits)
    if left <= 0:
        released = _give_up(view, facts, cluster)
        if released is not None:
            return released
    written = _status(view, phase=PeerPodPhase.DELETING, deleted=False, reason=UNKNOWN, message=error, last_error=error)
    told = (Tell(warning=True, reason="UnknownProvider", note=error),) if written else ()
    return Decision((*written, *told), again=min(limits.long_wait, left) if left > 0 else limits.long_wait)


def last_resort(view: PeerPodView, facts: Facts, cluster: str) -> Decision:
    """What is done when our own end has come and the object is still held (see `final`).

    An object whose provider cannot be used at all is let go, and when the installation goes away every failing one:
    nobody would come after us to do it.
    """
    if not view.deleting or not view.held:
        return Decision()
    stuck = bool(facts.provider.unknown) or facts.progress.unusable
    if not stuck and facts.ending is not Ending.INSTALLATION:
        return Decision()
    words = may_be_left(view, cluster, facts.progress.error or facts.provider.unknown)
    return Decision((Tell(warning=True, reason="VMMayBeLeft", note=words), Release(words)))
