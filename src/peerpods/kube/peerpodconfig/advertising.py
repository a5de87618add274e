"""Keeps the nodes' capacity, one node at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from peerpods.kube.client import ApiError, KubeApi, PatchKind
from peerpods.kube.objects import names
from peerpods.kube.objects.capacity import capacity_patch, limit_mistakes, limit_of
from peerpods.kube.objects.resources import NODES
from peerpods.kube.peerpodconfig.facts import NodeFacts
from peerpods.kube.peerpodconfig.metrics import CAPACITY_PATCHES
from peerpods.kube.peerpodconfig.spec import Config
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")


@attrs.frozen
class Wish:
    """What nodes shall advertise."""

    config: Config | None
    """None: nothing, on no node."""
    removable: frozenset[str] = frozenset()
    """Resources of earlier configurations."""


def wanted_on(node: NodeFacts, wish: Wish) -> dict[str, int]:
    """Resource to number; empty for a node that runs no peer pods."""
    config = wish.config
    if config is None or not config.selects(node.labels):
        return {}
    limit = limit_of(node.labels, {names.LIMIT_ANNOTATION: node.limit}, config.node_limits, config.limit)
    return dict.fromkeys(config.resource_names, limit.value)


def patch_for(node: NodeFacts, wish: Wish) -> dict[str, Any] | None:
    """The patch that puts a node right, guarded by its uid; None when it is right."""
    patch = capacity_patch(node.capacity, wanted_on(node, wish), wish.removable)
    if patch is None:
        return None
    return {"metadata": {"uid": node.uid}, **patch} if node.uid else patch


def wrong_nodes(nodes: Iterable[NodeFacts], wish: Wish) -> list[str]:
    """Names of the nodes that do not say what they should."""
    return sorted(node.name for node in nodes if patch_for(node, wish) is not None)


def mistakes(nodes: Iterable[NodeFacts], config: Config) -> list[str]:
    """Words about every limit that is no number, in the configuration and on its nodes."""
    found = limit_mistakes(config.node_limits, config.limit)
    for node in sorted(nodes, key=lambda one: one.name):
        if node.limit:
            limit = limit_of(node.labels, {names.LIMIT_ANNOTATION: node.limit}, (), "")
            if limit.mistake:
                found.append(f"node {node.name}: {limit.mistake}")
    return found


class Advertising:
    """The work of one node is `work(name)`.

    Args:
        wish: what shall be; None while nobody has decided, and then nodes are left alone.
    """

    def __init__(self, kube: KubeApi, nodes: Callable[[], Mapping[str, Any]], wish: Callable[[], Wish | None]) -> None:
        self._kube = kube
        self._nodes = nodes
        self._wish = wish

    async def work(self, name: str) -> None:
        """Make one node advertise what it should. Idempotent; one request, and only when something is wrong.

        Raises:
            ApiError: worth another try.
        """
        node, wish = self._nodes().get(name), self._wish()
        if node is None or wish is None:
            return
        patch = patch_for(node, wish)
        if patch is None:
            return
        try:
            await self._kube.patch(NODES, name, patch, kind=PatchKind.MERGE, subresource="status")
        except ApiError as error:
            if error.not_found:
                return
            CAPACITY_PATCHES.labels(error.reason or str(error.status)).inc()
            raise
        CAPACITY_PATCHES.labels("ok").inc()
        log.info("capacity_set", node=name, capacity=patch["status"]["capacity"], was=dict(node.capacity))

    def wrong(self) -> list[str]:
        """Nodes that do not say what they should now."""
        wish = self._wish()
        return wrong_nodes(self._nodes().values(), wish) if wish is not None else []

    def to_clear(self) -> list[str]:
        """Nodes that advertise something of ours, for an end at which none may."""
        removable = (self._wish() or Wish(None)).removable
        return wrong_nodes(self._nodes().values(), Wish(None, removable))
