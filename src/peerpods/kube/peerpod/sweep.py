"""Which VMs of the cloud nobody in the cluster knows: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attrs

from peerpods.clouds.interface import TAG_CLUSTER, TAG_NAMESPACE, TAG_NODE, TAG_POD, TAG_SANDBOX, TAG_TOKEN
from peerpods.model import Instance, InstanceState

_ENDED = frozenset({InstanceState.DELETING, InstanceState.GONE})
SIGHTINGS = 2
"""In how many sweeps in a row an instance must have looked lost before it is deleted."""


@attrs.frozen(kw_only=True)
class Cluster:
    """The cluster as the sweep sees it; read after the cloud's list, so that no instance is younger than it."""

    name: str
    sandboxes: Collection[str]
    """Sandboxes that have a PeerPod."""
    instances: Collection[str]
    """Instance ids that PeerPods name."""
    nodes: Collection[str]
    pods_with: Mapping[tuple[str, str], Collection[str]] = attrs.field(factory=dict)
    """(namespace, pod) to the sandboxes that PeerPods of it name."""


@attrs.frozen(kw_only=True)
class Lost:
    """An instance that looks lost."""

    instance: Instance
    sandbox: str
    node: str
    pod: str
    namespace: str
    pod_has_another: bool
    """A PeerPod shows that the pod of that name runs elsewhere, or ran: this VM is not its only one."""


def is_lost(instance: Instance, cluster: Cluster) -> Lost | None:
    """Whether nobody in the cluster knows an instance.

    It must carry all of our tags with this cluster's name, and a token that its own sandbox can have made; its sandbox
    must have no PeerPod, and its node must not exist: on a node that exists, its adaptor is the owner.
    """
    tags = dict(instance.tags)
    sandbox, node = tags.get(TAG_SANDBOX, ""), tags.get(TAG_NODE, "")
    head, _, attempt = (instance.token or tags.get(TAG_TOKEN, "")).rpartition("-")
    ours = bool(cluster.name) and tags.get(TAG_CLUSTER) == cluster.name and bool(sandbox) and bool(node)
    if not ours or head != sandbox or not (attempt.isascii() and attempt.isdigit()):
        return None
    if instance.state in _ENDED or sandbox in cluster.sandboxes or instance.id in cluster.instances:
        return None
    if node in cluster.nodes:
        return None
    pod, namespace = tags.get(TAG_POD, ""), tags.get(TAG_NAMESPACE, "")
    others = set(cluster.pods_with.get((namespace, pod), ())) - {sandbox}
    return Lost(
        instance=instance, sandbox=sandbox, node=node, pod=pod, namespace=namespace, pod_has_another=bool(others)
    )


@attrs.frozen(kw_only=True)
class Sweep:
    """The outcome of one round."""

    ripe: tuple[Lost, ...]
    """Lost in enough rounds in a row: to be deleted, after a last look; at most the bound, oldest sightings first."""
    seen: Mapping[str, int]
    """Instance id to the number of rounds in a row; what the next round is given."""


def judge(listed: Iterable[Instance], cluster: Cluster, seen: Mapping[str, int], bound: int) -> Sweep:
    """One round over one provider's list.

    Args:
        seen: of the last round; an instance that does not look lost now starts again.
        bound: most instances that one round may delete.
    """
    lost = [found for found in (is_lost(one, cluster) for one in listed) if found is not None]
    counts = {one.instance.id: seen.get(one.instance.id, 0) + 1 for one in lost}
    ripe = [one for one in lost if counts[one.instance.id] >= SIGHTINGS]
    ripe.sort(key=lambda one: (-counts[one.instance.id], one.instance.id))
    return Sweep(ripe=tuple(ripe[:bound]), seen=counts)


def may_delete(lost: Lost, *, node_exists: bool, pod_exists: bool) -> bool:
    """The last look before a deletion, by what the API server says now.

    A pod of that name that has no other VM keeps it: then its node is called otherwise than its adaptor believes.
    """
    return not node_exists and (not pod_exists or lost.pod_has_another)
