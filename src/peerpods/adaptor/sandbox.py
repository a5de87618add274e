"""The record of one sandbox: everything the adaptor must know to go on after a crash, except its secrets."""

from __future__ import annotations

from typing import Any

import attrs

from peerpods.model import Instance, InstanceSpec, Phase, PodNetwork, SandboxId

HISTORY_MAX = 40
"""Transitions kept for `peerpods inspect`; the oldest but the first are dropped."""

LIVE = frozenset({Phase.PREPARED, Phase.LAUNCHING, Phase.BOOTING, Phase.LINKING, Phase.RUNNING})
"""Phases in which the pod may still be served."""
STARTING = frozenset({Phase.LAUNCHING, Phase.BOOTING, Phase.LINKING})
"""Phases in which a StartVM is in flight."""


@attrs.frozen(kw_only=True)
class HistoryEntry:
    """One transition."""

    at: float
    """Seconds since the epoch."""
    state: str
    reason: str = ""


@attrs.frozen(kw_only=True)
class Problem:
    """An error as it is kept and answered: a status code (gRPC numbers) and a sentence."""

    code: int
    text: str


@attrs.frozen(kw_only=True)
class Secrets:
    """What a sandbox's record may not hold."""

    keys: str = attrs.field(repr=False)
    """`SandboxKeys.to_json()`."""
    initdata: str = attrs.field(default="", repr=False)
    """Plain TOML, or empty."""
    auth_json: str = attrs.field(default="", repr=False)
    """Credentials of the pod's own pull secrets (containers-auth.json), or empty."""


@attrs.frozen(kw_only=True)
class Sandbox:
    """One sandbox. Changed only by `lifecycle.decide`; equal records are equal in the journal."""

    id: SandboxId
    digest: str
    """SHA-256 of the CreateVM request: an equal request gets the same answer."""
    pod: str
    namespace: str
    pod_uid: str = ""
    """UID of the Pod object, or empty while the API server has not told it."""
    netns: str
    agent_socket: str
    server_name: str
    spec: InstanceSpec = attrs.field(factory=InstanceSpec)
    network: PodNetwork | None = None
    vni: int = 0
    provider: str = ""
    keep_failed: float = 0.0
    """Seconds for which a VM that never became ready is kept."""

    phase: Phase = Phase.PREPARED
    opened: bool = False
    """The agent socket has been opened, so CreateVM was, or may have been, answered."""
    attempt: int = 0
    """Number of the current or last launch; part of the token, never used twice for one id."""
    launch_tries: int = 0
    instance: Instance | None = None
    tunnelled: bool = False
    """A tunnel may exist on this node."""
    uncertain: bool = False
    """A create was cut off: an instance may appear later than the first look."""
    looks: int = 0
    """How often the cloud was asked while uncertain."""
    cloud_gone: bool = False
    """The cloud has said that nothing is left; the node's own things remain to be removed."""
    retries: int = 0
    """Of the deletion or clean-up under way."""
    last_error: str = ""
    error_code: int = 0
    trouble: str = ""
    """Why the deletion or clean-up under way has not ended yet."""
    console_read: bool = False
    created_at: float = 0.0
    changed_at: float = 0.0
    history: tuple[HistoryEntry, ...] = ()
    phases: tuple[tuple[str, float], ...] = ()
    """Milliseconds of each finished step: create_vm, launch, address, tunnel, link."""

    @property
    def token(self) -> str:
        """What the current launch is known by in the cloud."""
        return f"{self.id}-{self.attempt}"

    @property
    def problem(self) -> Problem | None:
        """The last error as it is answered, or None."""
        return Problem(code=self.error_code or 2, text=self.last_error) if self.last_error else None

    def named(self) -> dict[str, str]:
        """The fields by which every log line names this sandbox; the instance where it is known."""
        names = {"sandbox": self.id, "pod": self.pod, "namespace": self.namespace}
        return {**names, "instance": self.instance.id} if self.instance else dict(names)

    def moved(self, phase: Phase, at: float, reason: str = "", **changes: Any) -> Sandbox:
        """This record in another phase, with the transition in its history."""
        entry = HistoryEntry(at=at, state=phase.value, reason=reason)
        history = (*self.history, entry)
        if len(history) > HISTORY_MAX:
            history = (history[0], *history[-(HISTORY_MAX - 1) :])
        return attrs.evolve(self, phase=phase, changed_at=at, history=history, **changes)

    def timed(self, step: str, took_ms: float) -> Sandbox:
        """This record with a step's duration."""
        kept = tuple(pair for pair in self.phases if pair[0] != step)
        return attrs.evolve(self, phases=(*kept, (step, round(took_ms, 3))))

    def durable(self) -> Sandbox:
        """This record without what may be lost in a crash: two records equal in this need no write between them."""
        return attrs.evolve(self, phases=(), retries=0, looks=0, trouble="")
