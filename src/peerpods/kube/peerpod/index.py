"""Which PeerPods belong to one pod and to one node, kept up with each change: no event costs a look at all of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from peerpods.kube.objects.peerpod import PeerPodView

K = TypeVar("K", bound=Hashable)


class Index:
    """Keys of PeerPods by their pod's UID and by their node."""

    def __init__(self) -> None:
        self._by_owner: dict[tuple[str, str], set[str]] = {}
        self._by_node: dict[str, set[str]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def change(self, old: PeerPodView | None, new: PeerPodView | None) -> None:
        """An object came, changed or went."""
        self._count += (new is not None) - (old is not None)
        if old is not None:
            _drop(self._by_owner, (old.namespace, old.pod_uid), old.key)
            _drop(self._by_node, old.node, old.key)
        if new is not None:
            if new.pod_uid:
                self._by_owner.setdefault((new.namespace, new.pod_uid), set()).add(new.key)
            if new.node:
                self._by_node.setdefault(new.node, set()).add(new.key)

    def siblings(self, view: PeerPodView, views: Mapping[str, PeerPodView]) -> tuple[PeerPodView, ...]:
        """The other PeerPods of the same pod, in order of name."""
        keys = self._by_owner.get((view.namespace, view.pod_uid), ()) if view.pod_uid else ()
        return tuple(views[key] for key in sorted(keys) if key != view.key and key in views)

    def of_pod(self, view: PeerPodView) -> Iterable[str]:
        """Keys of the PeerPods of the same pod, this one's among them."""
        return tuple(self._by_owner.get((view.namespace, view.pod_uid), ()))

    def of_node(self, node: str) -> Iterable[str]:
        """Keys of a node's PeerPods."""
        return tuple(self._by_node.get(node, ()))


def _drop(index: dict[K, set[str]], key: K, value: str) -> None:
    found = index.get(key)
    if found is not None:
        found.discard(value)
        if not found:
            del index[key]
