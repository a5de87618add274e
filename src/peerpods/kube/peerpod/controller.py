"""The shell around `decide`: what is known of each PeerPod is gathered, and what is decided is done."""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from peerpods.aio import spawn
from peerpods.errors import PeerPodError
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.peerpod import PeerPodView
from peerpods.kube.objects.resources import PEER_PODS
from peerpods.kube.peerpod import metrics
from peerpods.kube.peerpod.asking import ask_pod, is_terminating, node_exists
from peerpods.kube.peerpod.configuration import unknown_provider
from peerpods.kube.peerpod.decide import decide, last_resort
from peerpods.kube.peerpod.deleter import delete_all
from peerpods.kube.peerpod.deletion import Progress, uncertain
from peerpods.kube.peerpod.facts import (
    Action,
    Ask,
    Decision,
    DeleteInstance,
    DeleteObject,
    Ending,
    Facts,
    Known,
    Limits,
    NodeFact,
    PodFact,
    ProviderFact,
    Question,
    Release,
    Tell,
    WriteStatus,
)
from peerpods.kube.peerpod.index import Index
from peerpods.kube.peerpod.providers import Providers, is_unusable
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.kube.peerpod.writing import delete_object, release, write_status
from peerpods.obs.log import get_logger

QUESTIONS_MAX = len(Question) + 1
log = get_logger("peerpod-ctrl")


class Recorder(Protocol):
    """What we need of `EventRecorder`."""

    def event(
        self,
        regarding: dict[str, Any],
        type: str,
        reason: str,
        note: str,
        action: str = "",
        related: dict[str, Any] | None = None,
    ) -> None: ...


@attrs.define(eq=False)
class Memory:
    """What this process remembers of one object; all of it can be found out again."""

    uid: str
    progress: Progress = attrs.field(factory=Progress)
    asked_at: float = 0.0
    absent_since: float = 0.0
    deleting_seen_at: float = 0.0
    step: Deferred[None] | None = None


class Controller:
    """Decides and acts for each PeerPod; driven by a work queue, fed by two informers.

    Args:
        views: the PeerPods by key, kept by an informer.
        nodes: node name to whether it is ready, kept by another.
        enqueue: have a key looked at after so many seconds.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        settings: PeerPodCtrlSettings,
        providers: Providers,
        recorder: Recorder,
        *,
        views: Mapping[str, PeerPodView],
        nodes: Mapping[str, bool],
        enqueue: Callable[[str, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._kube = kube
        self._settings = settings
        self._providers = providers
        self._recorder = recorder
        self._views = views
        self._nodes = nodes
        self._enqueue = enqueue
        self._clock = clock
        self._memories: dict[str, Memory] = {}
        self._absent_nodes: dict[str, float] = {}
        self.index = Index()
        self.ending = Ending.NONE
        self.acting = False
        """Whether this replica leads: without it nothing is begun."""
        self.limits = Limits(
            adaptor_grace=settings.adaptor_grace,
            pod_grace=settings.pod_grace,
            node_grace=settings.node_grace,
            recheck=settings.recheck,
            release_after=settings.release_after,
        )

    # -- what the informers say

    def peer_pod_changed(self, old: PeerPodView | None, new: PeerPodView | None) -> None:
        """A PeerPod came, changed or went: it and those of the same pod are looked at."""
        self.index.change(old, new)
        for view in (old, new):
            if view is not None:
                self._enqueue(view.key, 0.0)
                for key in self.index.of_pod(view):
                    self._enqueue(key, 0.0)

    def node_changed(self, name: str, ready: bool | None) -> None:
        """A node came, changed its readiness, or went (None)."""
        if ready is None:
            self._absent_nodes.setdefault(name, self._clock())
        else:
            self._absent_nodes.pop(name, None)
        for key in self.index.of_node(name):
            self._enqueue(key, 0.0)

    # -- one object

    async def work(self, key: str) -> float | None:
        """Look at one object; seconds until it is to be looked at again, or None.

        Raises:
            ApiError: the API server did not take something; the queue tries again with a back-off of the key's own.
        """
        view = self._views.get(key)
        if view is None:
            self._forget(key)
            return None
        memory = self._remember(view)
        facts = self._facts(view, memory)
        decision = Decision()
        for _ in range(QUESTIONS_MAX):
            decision = decide(view, facts, self._clock(), self.limits, cluster=self._settings.cluster)
            match decision.actions:
                case (Ask(question),):
                    facts = await self._answer(question, facts, view, memory)
                case _:
                    break
        for action in decision.actions:
            if not await self._act(action, view, memory):
                return None
        return decision.again

    async def let_go(self, key: str) -> bool:
        """At our own end: release an object that nobody would come after us for; whether it was (see `last_resort`)."""
        view = self._views.get(key)
        if view is None:
            return False
        memory = self._remember(view)
        decision = last_resort(view, self._facts(view, memory), self._settings.cluster)
        for action in decision.actions:
            await self._act(action, view, memory)
        return bool(decision.actions)

    def held_and_dying(self) -> list[PeerPodView]:
        """PeerPods that wait for us."""
        return [view for view in self._views.values() if view.deleting and view.held]

    def alive(self) -> list[PeerPodView]:
        """PeerPods that nobody has asked to go."""
        return [view for view in self._views.values() if not view.deleting]

    def trouble(self, view: PeerPodView) -> str:
        """Why its VM is not gone yet, in words."""
        memory = self._memories.get(view.key)
        words = self._facts(view, memory).provider.unknown if memory else ""
        return words or (memory.progress.error if memory else "") or "its deletion has not ended"

    def abandon(self) -> None:
        """Stop all steps that run, as another replica leads now, or we end. They are idempotent."""
        for memory in self._memories.values():
            if memory.step is not None:
                memory.step.cancel()

    def count(self) -> None:
        """Bring the gauges up to date."""
        states = {"live": 0, "deleting": 0, "failing": 0}
        for key, view in self._views.items():
            memory = self._memories.get(key)
            failing = memory is not None and bool(memory.progress.error)
            states["live" if not view.deleting else "failing" if failing else "deleting"] += 1
        for state, number in states.items():
            metrics.PEER_PODS.labels(state).set(number)

    # -- facts

    def _remember(self, view: PeerPodView) -> Memory:
        memory = self._memories.get(view.key)
        if memory is None or memory.uid != view.uid:
            self._forget(view.key)
            # Old objects are not all asked for at once after a start: each has its own place in the period.
            part = zlib.crc32(view.uid.encode()) % 1000 / 1000 * self.limits.recheck
            memory = self._memories[view.key] = Memory(view.uid, asked_at=self._clock() - part)
        if view.deleting and not memory.deleting_seen_at:
            memory.deleting_seen_at = self._clock()
        return memory

    def _forget(self, key: str) -> None:
        memory = self._memories.pop(key, None)
        if memory is not None and memory.step is not None:
            memory.step.cancel()

    def _facts(self, view: PeerPodView, memory: Memory) -> Facts:
        return Facts(
            pod_asked_at=0.0 if memory.absent_since else memory.asked_at,
            deleting_seen_at=memory.deleting_seen_at,
            node=self._node(view.node),
            siblings=self.index.siblings(view, self._views),
            provider=self._provider(view),
            progress=memory.progress,
            ending=self.ending,
        )

    def _provider(self, view: PeerPodView) -> ProviderFact:
        name = view.provider or self._settings.provider
        return ProviderFact(name=name, unknown=unknown_provider(name, view.namespace))

    def _node(self, name: str) -> NodeFact:
        if not name:
            return NodeFact(state=Known.UNNAMED)
        ready = self._nodes.get(name)
        if ready is None:
            since = self._absent_nodes.setdefault(name, self._clock())
            return NodeFact(state=Known.ABSENT, absent_since=since)
        return NodeFact(state=Known.PRESENT, ready=ready)

    async def _answer(self, question: Question, facts: Facts, view: PeerPodView, memory: Memory) -> Facts:
        if question is Question.TERMINATING:
            return attrs.evolve(facts, terminating=await is_terminating(self._kube, view.namespace))
        if question is Question.NODE:
            name = facts.pod.node if facts.pod is not None and facts.pod.node else view.node
            return attrs.evolve(facts, node_confirmed=not await node_exists(self._kube, name))
        pod = await ask_pod(self._kube, view)
        memory.asked_at = self._clock()
        if pod.state is not Known.ABSENT:
            memory.absent_since = 0.0
        elif not memory.absent_since:
            memory.absent_since = self._clock()
        pod = attrs.evolve(pod, absent_since=memory.absent_since)
        return attrs.evolve(facts, pod=pod, node=self._node_of(view, pod))

    def _node_of(self, view: PeerPodView, pod: PodFact) -> NodeFact:
        """A pod that exists knows its node best: an adaptor may call itself otherwise than its Node object."""
        return self._node(pod.node or view.node)

    # -- actions

    async def _act(self, action: Action, view: PeerPodView, memory: Memory) -> bool:
        """Do one action; False when the object is gone, so that the others have no purpose."""
        match action:
            case DeleteObject(reason):
                log.info("peer_pod_deleted", **_named(view), reason=reason)
                await delete_object(self._kube, view)
            case WriteStatus():
                return await self._write(view, action)
            case Tell(warning=warning, reason=reason, note=note):
                (log.warning if warning else log.info)(_event_name(reason), **_named(view), note=note)
                kind = "Warning" if warning else "Normal"
                self._recorder.event(_reference(view), kind, reason, note, action="DeleteVM")
            case DeleteInstance():
                self._begin(view, memory)
            case Release(left):
                await self._release(view, memory, left)
        return True

    async def _write(self, view: PeerPodView, what: WriteStatus) -> bool:
        try:
            return await write_status(self._kube, view, what, self._clock())
        except ApiError as error:
            # The status is for people: the VM's deletion does not wait for it.
            log.warning("status_not_written", **_named(view), error=str(error))
            return True

    def _begin(self, view: PeerPodView, memory: Memory) -> None:
        if not self.acting or memory.step is not None:
            return
        memory.progress = memory.progress.start(self._clock())
        step = spawn(self._delete(view, memory))
        if memory.progress.running:  # else it has ended already
            memory.step = step
        step.addErrback(_cut_off)

    async def _delete(self, view: PeerPodView, memory: Memory) -> None:
        name = self._provider(view).name
        result = "cancelled"
        try:
            foreign = await self._providers.use(name, lambda cloud: delete_all(cloud, view, self._settings.cluster))
        except CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, PeerPodError):
                _report(error, view)
            result = getattr(getattr(error, "kind", None), "value", type(error).__name__)
            hurried = self.ending is not Ending.NONE
            memory.progress = memory.progress.fail(
                self._clock(), str(error), unusable=is_unusable(error), hurried=hurried
            )
        else:
            result = "ok"
            done = memory.progress.succeed(self._clock(), uncertain=uncertain(view))
            memory.progress = attrs.evolve(done, foreign=foreign)
        finally:
            memory.step = None
            memory.progress = attrs.evolve(memory.progress, running=False)
            metrics.DELETIONS.labels(name, result).inc()
            if result != "cancelled":
                self._enqueue(view.key, 0.0)

    async def _release(self, view: PeerPodView, memory: Memory, left: str) -> None:
        if await release(self._kube, view):
            metrics.RELEASED.labels("left" if left else "gone").inc()
            metrics.DELETION_SECONDS.observe(max(self._clock() - (view.deleting_since or self._clock()), 0.0))
            log.info("peer_pod_released", **_named(view), vm="left" if left else "gone")
        if memory.step is not None:
            memory.step.cancel()


def _cut_off(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]


def _report(error: BaseException, view: PeerPodView) -> None:
    """A defect of ours: once, with its trace."""
    log.error("defect", **_named(view), error="".join(traceback.format_exception(error)))


def _named(view: PeerPodView) -> dict[str, str]:
    return {"peer_pod": view.key, "sandbox": view.sandbox, "instance": view.instance_id, "provider": view.provider}


def _event_name(reason: str) -> str:
    return {
        "VMDeleted": "vm_deleted",
        "VMDeletionFailed": "vm_deletion_failed",
        "UnknownProvider": "unknown_provider",
        "VMMayBeLeft": "vm_may_be_left",
    }[reason]


def _reference(view: PeerPodView) -> dict[str, Any]:
    return {
        "apiVersion": PEER_PODS.api_version,
        "kind": PEER_PODS.kind,
        "name": view.name,
        "namespace": view.namespace,
        "uid": view.uid,
    }
