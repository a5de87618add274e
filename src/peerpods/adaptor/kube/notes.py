"""What a pod's user is told, and when: from two states of a record to events. Pure.

| reason | type | when |
|---|---|---|
| PeerPodLaunching | Normal | the cloud is asked for the VM |
| PeerPodReady | Normal | the agent in the VM answers |
| PeerPodFailed | Warning | the start failed, or one try of it did: the cloud's own words |
| PeerPodLost | Warning | a running VM stopped, disappeared or cannot be reached |
| PeerPodSlow | Warning | a phase takes long; once for each |
"""

from __future__ import annotations

import attrs

from peerpods.adaptor.lifecycle import LAUNCH_TRIES
from peerpods.adaptor.sandbox import STARTING, Sandbox
from peerpods.kube.objects.conditions import cut
from peerpods.model import InstanceSpec, Phase

NOTE_MAX = 1000
"""Characters of a note; events.k8s.io takes 1024 bytes."""
LAUNCHING, READY, FAILED = "PeerPodLaunching", "PeerPodReady", "PeerPodFailed"
LOST, SLOW = "PeerPodLost", "PeerPodSlow"
_BEFORE = frozenset({Phase.PREPARED, *STARTING})
_DOING = {
    Phase.LAUNCHING: "asking the cloud for the VM",
    Phase.BOOTING: "waiting for the VM's address",
    Phase.LINKING: "waiting for the agent in the VM",
    Phase.STOPPING: "deleting the VM",
}
SLOW_PHASES = frozenset(_DOING)


@attrs.frozen
class Note:
    """One event."""

    kind: str
    """Normal or Warning."""
    reason: str
    text: str
    action: str


def _note(kind: str, reason: str, text: str, action: str) -> Note:
    encoded = " ".join(text.split()).encode()
    return Note(kind, reason, cut(encoded[:NOTE_MAX].decode(errors="ignore"), NOTE_MAX), action)


def warning(reason: str, text: str, action: str) -> Note:
    """A warning of any reason."""
    return _note("Warning", reason, text, action)


def _size(spec: InstanceSpec) -> str:
    parts = [
        f"{spec.vcpus} vCPU" if spec.vcpus else "",
        f"{spec.memory_mib} MiB" if spec.memory_mib else "",
        f"{spec.gpus} GPU" if spec.gpus else "",
        spec.machine_type,
    ]
    return ", ".join(part for part in parts if part)


def _launching(s: Sandbox) -> Note:
    size = _size(s.spec)
    asked = f"{s.server_name}, {size}" if size else s.server_name
    return _note("Normal", LAUNCHING, f"Asking {s.provider} for a VM ({asked}; sandbox {s.id[:12]})", "Launch")


def _ready(s: Sandbox) -> Note:
    assert s.instance is not None
    began = next((entry.at for entry in reversed(s.history) if entry.state == Phase.LAUNCHING.value), s.changed_at)
    steps = ", ".join(f"{name} {ms / 1000:.1f} s" for name, ms in s.phases if name != "create_vm")
    address = f" ({s.instance.addresses[0]})" if s.instance.addresses else ""
    took = f"{max(0.0, s.changed_at - began):.1f} s"
    return _note("Normal", READY, f"VM {s.instance.id}{address} is ready after {took}: {steps}", "Launch")


def notes(before: Sandbox | None, after: Sandbox) -> list[Note]:
    """The events of one change; none for a record that was only loaded."""
    if before is None or before.attempt > after.attempt:
        return []
    fresh = after.last_error if after.last_error != before.last_error else ""
    if after.phase is before.phase:
        if fresh and after.launch_tries > before.launch_tries:
            again = f"{fresh}; trying again ({after.launch_tries + 1} of {LAUNCH_TRIES})"
            return [_note("Warning", FAILED, again, "Launch")]
        return []
    if after.phase is Phase.LAUNCHING:
        return [_launching(after)]
    if after.phase is Phase.RUNNING:
        return [_ready(after)]
    if after.phase not in (Phase.FAILED, Phase.STOPPING):
        return []
    if before.phase is Phase.RUNNING and fresh:
        return [_note("Warning", LOST, fresh, "Delete")]
    if before.phase in _BEFORE:
        reason = after.history[-1].reason
        if not fresh and reason != "StopVM":
            fresh = f"the VM's start was given up: {reason}"
        return [_note("Warning", FAILED, fresh, "Launch")] if fresh else []
    return []


def slow(s: Sandbox, seconds: float) -> Note:
    """The event of a phase that has taken this long."""
    text = f"Still {_DOING[s.phase]} after {seconds:.0f} s (phase {s.phase.value}"
    if s.instance is not None:
        text += f", VM {s.instance.id}"
    said = s.trouble or (s.last_error if s.phase is Phase.LAUNCHING else "")
    return _note("Warning", SLOW, f"{text}){': ' + said if said else ''}", "Wait")
