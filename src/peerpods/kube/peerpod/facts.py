"""What is asked about one PeerPod before it is decided upon, and what can be decided. Pure values."""

from __future__ import annotations

import enum

import attrs

from peerpods.kube.objects.peerpod import PeerPodPhase, PeerPodView
from peerpods.kube.peerpod.deletion import Progress


class Known(enum.Enum):
    """The state of a thing that a PeerPod names."""

    UNNAMED = "unnamed"
    """The object does not say which."""
    PRESENT = "present"
    ABSENT = "absent"


@attrs.frozen(kw_only=True)
class PodFact:
    """The pod as the API server just told it."""

    state: Known
    """ABSENT also when another pod has its name now."""
    node: str = ""
    ends_at: float | None = None
    """Seconds since the epoch by which kubelet should have ended it; None while it is not being deleted."""
    absent_since: float = 0.0
    """When it was first found absent."""


@attrs.frozen(kw_only=True)
class NodeFact:
    """The node that the pod runs on, or that the object names when the pod is gone."""

    state: Known
    ready: bool = False
    absent_since: float = 0.0


@attrs.frozen(kw_only=True)
class ProviderFact:
    """Whether the object's provider can be used."""

    name: str = ""
    unknown: str = ""
    """Why there is no such provider, in words; empty when there is one."""


class Ending(enum.Enum):
    """What goes away around us."""

    NONE = "none"
    CONTROLLER = "controller"
    """Our own Deployment is being deleted: what is being deleted is finished, running pods are left alone."""
    INSTALLATION = "installation"
    """Our namespace or the CRD is being deleted: adaptors and relays go too, so no peer pod can go on."""


@attrs.frozen(kw_only=True)
class Facts:
    """All that `decide` looks at besides the object. None: not asked yet; `decide` asks when it matters."""

    pod: PodFact | None = None
    pod_asked_at: float = 0.0
    """When the pod was last asked for."""
    deleting_seen_at: float = 0.0
    """When we first saw that the object is being deleted, by our own clock; 0: not known."""
    node: NodeFact | None = None
    node_confirmed: bool | None = None
    """For an absent node: whether the API server itself, not only our cache, says so."""
    siblings: tuple[PeerPodView, ...] = ()
    """Other PeerPods of the same pod (by UID) in the same namespace."""
    provider: ProviderFact = attrs.field(factory=ProviderFact)
    progress: Progress = attrs.field(factory=Progress)
    terminating: bool | None = None
    """Whether the object's namespace or the CRD is being deleted."""
    ending: Ending = Ending.NONE


@attrs.frozen(kw_only=True)
class Limits:
    """Times in seconds; see PeerPodCtrlSettings."""

    adaptor_grace: float = 30.0
    pod_grace: float = 30.0
    node_grace: float = 60.0
    recheck: float = 600.0
    release_after: float = 240.0
    long_wait: float = 300.0
    """Between looks at an object that only a person can help."""


class Question(enum.Enum):
    """What `decide` may need to know first."""

    POD = "pod"
    NODE = "node"
    TERMINATING = "terminating"


@attrs.frozen
class Action:
    """Base of all actions; each may be done twice."""


@attrs.frozen
class Ask(Action):
    """Find out and decide again; always the only action."""

    question: Question


@attrs.frozen
class DeleteObject(Action):
    """Delete the PeerPod: our finalizer then leads to its VM's deletion."""

    reason: str


@attrs.frozen(kw_only=True)
class WriteStatus(Action):
    """Write phase, the condition Deleted, and lastError."""

    phase: PeerPodPhase
    deleted: bool
    reason: str
    message: str
    last_error: str = ""


@attrs.frozen(kw_only=True)
class Tell(Action):
    """An event on the PeerPod, and a log line."""

    warning: bool
    reason: str
    note: str


@attrs.frozen
class DeleteInstance(Action):
    """Start a step of the deletion: by id and by tag. Ends in a new `Progress`."""


@attrs.frozen
class Release(Action):
    """Take our finalizer off."""

    left: str = ""
    """Words about the VM that may be left; empty when it is gone."""


@attrs.frozen
class Decision:
    """What to do, in order, and when to look again (seconds; None: when something changes)."""

    actions: tuple[Action, ...] = ()
    again: float | None = None
