"""Undoes what a PeerPodConfig set up, round by round. What to do is decided in `removal`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from peerpods.kube.client import ApiError, KubeApi
from peerpods.kube.objects.conditions import parse_time
from peerpods.kube.objects.peerpod import PeerPodView, parse
from peerpods.kube.objects.resources import MUTATING_WEBHOOKS, NAMESPACES, PEER_PODS, RUNTIME_CLASSES, Resource
from peerpods.kube.peerpodconfig import removal
from peerpods.kube.peerpodconfig.advertising import Advertising
from peerpods.kube.peerpodconfig.applier import Applier
from peerpods.kube.peerpodconfig.granting import Granting
from peerpods.kube.peerpodconfig.removal import Left, Plan, Stage
from peerpods.kube.peerpodconfig.spec import Config
from peerpods.kube.peerpodconfig.verdicts import deleting_status
from peerpods.kube.peerpodconfig.world import World
from peerpods.kube.peerpodconfig.writing import Writing
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
SOON, LATER = 0.2, 2.0  # seconds to the next round after one that did something, and after one that only waited
A_ROUND = 500  # most PeerPods that one round deletes


class Removing:
    """One round is `work(obj, config)`.

    Args:
        withdraw: from now on nodes shall advertise nothing.
        revoke: from now on nobody shall have rights on pull secrets.
    """

    def __init__(
        self,
        kube: KubeApi,
        world: World,
        writing: Writing,
        advertising: Advertising,
        granting: Granting,
        withdraw: Callable[[], None],
        revoke: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._world = world
        self._writing = writing
        self._advertising = advertising
        self._granting = granting
        self._withdraw = withdraw
        self._revoke = revoke
        self._clock = clock
        self._applier = Applier(kube)
        self._views: list[PeerPodView] = []
        self._said: set[tuple[str, Stage]] = set()
        self._asked: set[str] = set()

    async def work(self, obj: Mapping[str, Any], config: Config) -> float | None:
        """One round: what is next in order is asked to go, then waited for within its bound.

        Returns:
            seconds to the next round; None when the finalizer has been taken off.

        Raises:
            ApiError: the status or the finalizer could not be written.
        """
        since = parse_time(obj["metadata"].get("deletionTimestamp"))
        waited = max(0.0, self._clock() - (self._clock() if since is None else since))
        left, objects, troubles = await self._look(config)
        chosen = removal.plan(left, waited, config.deletion_timeout)
        for stage in chosen.act:
            troubles += await self._act(stage, left, objects)
        self._say_overdue(obj, config, chosen, left)
        if chosen.waiting is None:
            await self._writing.remove_finalizer(obj)
            return None
        words = removal.progress(chosen, left, waited, config.deletion_timeout)
        if troubles:
            words = f"{words}; {'; '.join(sorted(set(troubles)))}"
        self._say_stage(obj, chosen, words)
        await self._report(obj, config, chosen.waiting, words, left)
        fresh = chosen.waiting is not Stage.PEER_PODS
        return SOON if fresh and not troubles else LATER + len(left.of(Stage.PEER_PODS)) / 500

    async def _report(self, obj: Mapping[str, Any], config: Config, stage: Stage, words: str, left: Left) -> None:
        # Without the seconds left the status moves only when something has happened.
        steady = words.partition(", at most ")[0]
        reason = "".join(part.capitalize() for part in stage.name.split("_"))
        before = self._writing.status_before(obj)
        count = len(left.of(Stage.PEER_PODS))
        status = deleting_status(config, f"Waiting{reason}", steady, count, before, self._clock())
        await self._writing.status(obj, status)

    # -- looking

    async def _look(self, config: Config) -> tuple[Left, dict[Stage, list[tuple[Resource, Any]]], list[str]]:
        objects: dict[Stage, list[tuple[Resource, Any]]] = {
            Stage.REGISTRATION: self._cluster(MUTATING_WEBHOOKS, config),
            Stage.CLASSES: self._cluster(RUNTIME_CLASSES, config),
            Stage.CHILDREN: self._world.owned(config.uid),
        }
        items: dict[Stage, Sequence[str]] = {
            stage: [f"{resource.kind} {obj['metadata']['name']}" for resource, obj in found]
            for stage, found in objects.items()
        }
        troubles = []
        try:
            self._views, _ = await self._kube.list(PEER_PODS, shrink=parse)
            items[Stage.PEER_PODS] = [view.key for view in self._views]
        except ApiError as error:
            if not error.not_found:  # else the CRD is gone, and they with it
                items[Stage.PEER_PODS] = ["(not known)"]
                troubles.append(str(error))
            self._views = []
        items[Stage.CAPACITY] = self._advertising.to_clear()
        items[Stage.GRANTS] = self._granting.left()
        return Left(items=items, namespace_ending=await self._ending(config.namespace)), objects, troubles

    def _cluster(self, resource: Resource, config: Config) -> list[tuple[Resource, Any]]:
        return [(resource, obj) for obj in self._world.cluster_owned(resource, config.key)]

    async def _ending(self, namespace: str) -> bool:
        try:
            found = await self._kube.get(NAMESPACES, namespace)
        except ApiError as error:
            return error.not_found
        return bool(found["metadata"].get("deletionTimestamp"))

    # -- acting

    async def _act(self, stage: Stage, left: Left, objects: Mapping[Stage, list[tuple[Resource, Any]]]) -> list[str]:
        """Ask the rest of one step to go; the words of what was refused."""
        calls: list[Callable[[], Awaitable[Any]]] = []
        if stage in objects:
            calls = [self._deleting(resource, obj) for resource, obj in objects[stage]]
        elif stage is Stage.PEER_PODS:
            calls = [self._deleting_peer_pod(view) for view in self._views if not view.deleting][:A_ROUND]
        elif stage is Stage.CAPACITY:
            self._withdraw()
            calls = [self._clearing(name) for name in left.of(stage)]
        elif stage is Stage.GRANTS:
            self._revoke()
            calls = [self._revoking(name) for name in left.of(stage)]
        troubles = []
        for call in calls:
            try:
                await call()
            except ApiError as error:
                troubles.append(str(error))
        return troubles

    def _deleting(self, resource: Resource, obj: Any) -> Callable[[], Awaitable[Any]]:
        async def call() -> None:
            uid = obj["metadata"].get("uid", "")
            if uid not in self._asked:
                await self._applier.remove(resource, obj)
                self._asked.add(uid)

        return call

    def _deleting_peer_pod(self, view: PeerPodView) -> Callable[[], Awaitable[Any]]:
        async def call() -> None:
            try:
                await self._kube.delete(PEER_PODS, view.name, view.namespace, uid=view.uid)
            except ApiError as error:
                if not (error.not_found or error.conflict):
                    raise

        return call

    def _clearing(self, name: str) -> Callable[[], Awaitable[Any]]:
        return lambda: self._advertising.work(name)

    def _revoking(self, namespace: str) -> Callable[[], Awaitable[Any]]:
        return lambda: self._granting.revoke(namespace)

    # -- saying

    def _say_stage(self, obj: Mapping[str, Any], chosen: Plan, words: str) -> None:
        assert chosen.waiting is not None
        mark = (obj["metadata"]["uid"], chosen.waiting)
        if mark not in self._said:
            self._said.add(mark)
            log.info("removing", name=obj["metadata"]["name"], step=chosen.waiting.value, words=words)
            self._writing.event(obj, True, "Removing", words)

    def _say_overdue(self, obj: Mapping[str, Any], config: Config, chosen: Plan, left: Left) -> None:
        for stage in chosen.overdue:
            mark = (obj["metadata"]["uid"] + "/overdue", stage)
            if mark in self._said:
                continue
            self._said.add(mark)
            if stage is Stage.PEER_PODS:
                words = removal.left_behind(self._views, config.deletion_timeout)
                reason = "VMMayBeLeft"
            else:
                words = f"{stage.value} not gone in time, going on: {removal.some(left.of(stage))}"
                reason = "RemovalSlow"
            log.warning("removal_overdue", name=config.name, step=stage.value, words=words)
            self._writing.event(obj, False, reason, words)
