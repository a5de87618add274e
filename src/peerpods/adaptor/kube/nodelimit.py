"""How many sandboxes this node may have: what its Node object advertises, else the adaptor's own setting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from peerpods.adaptor.kube.meters import NODE_LIMIT
from peerpods.adaptor.kube.peerpods import GRACE, Queue
from peerpods.adaptor.kube.podwatch import Store
from peerpods.adaptor.ports import Limit, flag_limit
from peerpods.kube.client.api import KubeApi, PatchKind
from peerpods.kube.objects.names import EXTENDED_RESOURCE
from peerpods.kube.objects.resources import NODES
from peerpods.obs.log import get_logger

log = get_logger("adaptor")

ZERO_HOLD = 60.0
"""Seconds for which a capacity of 0 is not believed: a kubelet that restarts zeroes it until it is put right."""
_PATH = f"/status/capacity/{EXTENDED_RESOURCE.replace('~', '~0').replace('/', '~1')}"


@attrs.frozen
class NodeView:
    """What is kept of the Node object."""

    capacity: int | None
    """None while the node does not advertise the resource."""


def read_node(obj: Mapping[str, Any]) -> NodeView:
    """Keep the one number."""
    text = ((obj.get("status") or {}).get("capacity") or {}).get(EXTENDED_RESOURCE)
    # An extended resource is a whole number; what somebody writes otherwise ("1k") is the controller's to put right.
    return NodeView(int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None)


def advertise_patch(count: int) -> list[dict[str, Any]]:
    """The JSON patch of nodes/status; `add` also replaces. A node always has a capacity map."""
    return [{"op": "add", "path": _PATH, "value": str(count)}]


class NodeLimit:
    """The limit as it is now.

    Args:
        node: the Node's name.
        flag: --limit-per-node; negative for none.
        advertise: whether this adaptor is to have the node advertise `flag`.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        kube: KubeApi,
        make_informer: Callable[[Callable[[Any], None]], Store],
        make_queue: Callable[[Callable[[str], Awaitable[float | None]]], Queue],
        *,
        node: str,
        flag: int,
        advertise: bool,
    ) -> None:
        self._reactor = reactor
        self._kube = kube
        self._node = node
        self._flag = flag_limit(flag)
        self._wanted = flag if advertise and flag >= 0 else None
        self._informer = make_informer(self._on_change)
        self._queue = make_queue(self._advertise) if self._wanted is not None else None
        self._capacity: int | None = None
        self._before_zero: int | None = None
        self._zero_since = 0.0

    def start(self) -> None:
        """Begin to watch; until the API server answers, the setting counts."""
        NODE_LIMIT.set(self._flag.count if self._flag else -1)
        self._informer.start().addCallbacks(self._first, lambda failure: None)
        if self._queue is not None:
            self._queue.start()
            self._queue.add(self._node)

    def _first(self, _result: object) -> None:
        if self._node not in self._informer.store:
            log.warning("node_unknown", node=self._node, note="the cluster has no such Node; see --node (NODE_NAME)")

    async def stop(self) -> None:
        """Watch no more; what is advertised stays, as running pods do."""
        self._informer.stop()
        if self._queue is not None:
            await self._queue.stop(GRACE)

    def current(self) -> Limit | None:
        """The limit, or None."""
        capacity = self._capacity
        if capacity == 0 and self._reactor.seconds() - self._zero_since < ZERO_HOLD:
            capacity = self._before_zero
        if capacity is None:
            return self._flag
        where = (
            f"capacity {EXTENDED_RESOURCE} of node {self._node} (spec.limit and spec.nodeLimits of the PeerPodConfig)"
        )
        return Limit(capacity, where)

    def _on_change(self, change: Any) -> None:
        capacity = None if change.kind == "deleted" else change.new.capacity
        if capacity == 0 and self._capacity != 0:
            self._before_zero, self._zero_since = self._capacity, self._reactor.seconds()
        self._capacity = capacity
        limit = self.current()
        NODE_LIMIT.set(limit.count if limit else -1)
        if self._queue is not None and capacity != self._wanted:
            self._queue.add(self._node)

    async def _advertise(self, _key: str) -> None:
        if self._wanted is None or self._capacity == self._wanted:
            return
        patch = advertise_patch(self._wanted)
        await self._kube.patch(NODES, self._node, patch, kind=PatchKind.JSON, subresource="status")
        log.info("capacity_advertised", node=self._node, resource=EXTENDED_RESOURCE, count=self._wanted)
