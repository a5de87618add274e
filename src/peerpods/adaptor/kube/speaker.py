"""Tells pods' users what happens to their VMs, by events on the pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from peerpods.adaptor.kube import notes
from peerpods.adaptor.kube.meters import POD_EVENTS
from peerpods.adaptor.kube.notes import Note
from peerpods.adaptor.ports import Host
from peerpods.adaptor.sandbox import Sandbox
from peerpods.kube.objects.resources import PODS
from peerpods.model import Phase, Pod, SandboxId

PENDING_MAX = 20
"""Notes kept for one pod whose UID is not known yet; without it nobody would find them."""


class Recorder(Protocol):
    """What is used of `peerpods.kube.client.EventRecorder`."""

    def event(self, regarding: dict[str, Any], type: str, reason: str, note: str, action: str = "") -> None:
        """Record an event; never raises or blocks."""


def pod_reference(pod: Pod) -> dict[str, Any]:
    """The object that an event is about."""
    reference = {"apiVersion": PODS.api_version, "kind": PODS.kind, "namespace": pod.namespace, "name": pod.name}
    return {**reference, "uid": pod.uid} if pod.uid else reference


def pod_of(s: Sandbox) -> Pod:
    """The pod of a sandbox."""
    return Pod(name=s.pod, namespace=s.namespace, uid=s.pod_uid)


class Speaker:
    """Told of every change of a record.

    Args:
        slow_after: seconds after which a phase is called slow; 0 for never.
        now: seconds since the epoch.
    """

    def __init__(self, reactor: IReactorTime, recorder: Recorder, slow_after: float, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._now = now
        self._recorder = recorder
        self._slow_after = slow_after
        self._host: Host
        self._timers: dict[SandboxId, IDelayedCall] = {}
        self._pending: dict[SandboxId, list[Note]] = {}

    def start(self, host: Host) -> None:
        """Begin."""
        self._host = host

    def stop(self) -> None:
        """Call nothing slow any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def changed(self, before: Sandbox | None, after: Sandbox) -> None:
        """Say what is to be said of a change, and watch how long the new phase takes."""
        for note in notes.notes(before, after):
            self._say(after, note)
        if after.pod_uid or after.phase is Phase.GONE:
            for note in self._pending.pop(after.id, []):
                self.tell(pod_of(after), note)
        if before is None or before.phase is not after.phase:
            self._watch(after)

    def _say(self, s: Sandbox, note: Note) -> None:
        if s.pod_uid:
            self.tell(pod_of(s), note)
            return
        waiting = self._pending.setdefault(s.id, [])
        waiting.append(note)
        del waiting[:-PENDING_MAX]

    def tell(self, pod: Pod, note: Note) -> None:
        """Say it at once."""
        POD_EVENTS.labels(note.reason).inc()
        self._recorder.event(pod_reference(pod), note.kind, note.reason, note.text, action=note.action)

    def _watch(self, s: Sandbox) -> None:
        timer = self._timers.pop(s.id, None)
        if timer is not None:
            timer.cancel()
        if self._slow_after > 0 and s.phase in notes.SLOW_PHASES:
            self._timers[s.id] = self._reactor.callLater(self._slow_after, self._slow, s.id)

    def _slow(self, sandbox: SandboxId) -> None:
        del self._timers[sandbox]
        record = self._host.records.get(sandbox)
        if record is None or record.phase not in notes.SLOW_PHASES:
            return
        if record.phase is Phase.STOPPING and not record.trouble:
            self._watch(record)  # clouds take their time to delete; worth a word when it does not work
            return
        since = record.history[-1].at if record.history else record.changed_at
        self._say(record, notes.slow(record, max(self._slow_after, self._now() - since)))
