"""How far the deletion of one PeerPod's VM has come, and which instances of the cloud are that VM. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from peerpods.clouds.interface import TAG_CLUSTER, TAG_NAMESPACE, TAG_SANDBOX
from peerpods.kube.objects.peerpod import PeerPodView
from peerpods.model import Instance

LOOK_DELAYS = (2.0, 10.0)
"""Seconds before the second and third look for a VM whose id nobody wrote down: its create may be in flight."""
RETRY_BASE, RETRY_MAX, RETRY_MAX_HURRIED = 1.0, 300.0, 10.0
"""Seconds."""


def retry_delay(tries: int, *, hurried: bool) -> float:
    """Seconds to wait after so many failures in a row; `hurried` when a namespace or the installation waits for us."""
    return min(RETRY_BASE * 2.0 ** min(max(tries - 1, 0), 16), RETRY_MAX_HURRIED if hurried else RETRY_MAX)


@attrs.frozen(kw_only=True)
class Progress:
    """What this process knows of one deletion; lost in a crash without harm: the looks are then done again."""

    running: bool = False
    looks: int = 0
    """Deletions that succeeded: by id and by tag, nothing was left."""
    gone: bool = False
    tries: int = 0
    """Failures in a row."""
    not_before: float = 0.0
    """Time before which the next step is not to be begun."""
    began: float = 0.0
    """When the first step began; 0 before it."""
    error: str = ""
    """The last failure, with the remedy."""
    unusable: bool = False
    """The last failure was that the provider cannot be used at all: no such provider, settings or rights missing."""
    foreign: str = ""
    """The instance that the object names and that carries another sandbox's tags; it is left alone."""

    def start(self, now: float) -> Progress:
        """A step begins."""
        return attrs.evolve(self, running=True, began=self.began or now)

    def succeed(self, now: float, *, uncertain: bool) -> Progress:
        """A step found everything deleted."""
        looks = self.looks + 1
        again = uncertain and looks <= len(LOOK_DELAYS)
        return attrs.evolve(
            self,
            running=False,
            looks=looks,
            gone=not again,
            tries=0,
            error="",
            unusable=False,
            not_before=now + LOOK_DELAYS[looks - 1] if again else now,
        )

    def fail(self, now: float, error: str, *, unusable: bool, hurried: bool) -> Progress:
        """A step failed."""
        tries = self.tries + 1
        return attrs.evolve(
            self,
            running=False,
            tries=tries,
            error=error,
            unusable=unusable,
            not_before=now + retry_delay(tries, hurried=hurried),
        )


def uncertain(view: PeerPodView) -> bool:
    """Whether a VM may appear after a look that found none: its id was never written down."""
    return not view.instance_id and bool(view.sandbox)


def tags_of(view: PeerPodView, cluster: str) -> dict[str, str]:
    """The tags by which the VM is found; empty when the object does not name a sandbox (the existing system's)."""
    if not view.sandbox:
        return {}
    return {TAG_SANDBOX: view.sandbox, TAG_CLUSTER: view.cluster or cluster}


def is_foreign(view: PeerPodView, instance: Instance, cluster: str) -> bool:
    """Whether an instance that an object leads to is plainly another's: tags that contradict the object.

    Whoever may write PeerPods in a namespace must not be able to have any VM of the account deleted. Instances of the
    existing system have none of these tags, and its objects name no instance of ours.
    """
    tags = dict(instance.tags)
    told = {TAG_SANDBOX: view.sandbox, TAG_CLUSTER: view.cluster or cluster, TAG_NAMESPACE: view.namespace}
    return any(tags.get(key, value) != value for key, value in told.items())


def tagged(instances: Iterable[Instance], wanted: dict[str, str]) -> list[Instance]:
    """Of what a cloud listed, those that truly carry all of these tags."""
    return [one for one in instances if wanted and wanted.items() <= dict(one.tags).items()]


def name_the_vm(view: PeerPodView, cluster: str) -> str:
    """The VM in words by which a person finds it in the cloud."""
    who = f"VM {view.instance_id}" if view.instance_id else f"the VM {view.instance_name}".rstrip()
    where = f"provider {view.provider}" if view.provider else "provider unknown"
    tags = " ".join(f"{key}={value}" for key, value in tags_of(view, cluster).items())
    return f"{who} ({where}, tags {tags})" if tags else f"{who} ({where})"


def may_be_left(view: PeerPodView, cluster: str, error: str) -> str:
    """What is said when the object is let go although its VM may live on."""
    why = f"; the last answer was: {error}" if error else ""
    return (
        f"{name_the_vm(view, cluster)} of {view.namespace}/{view.pod or view.name} may be left and cost money"
        f"{why}. Delete it in the cloud by hand"
    )
