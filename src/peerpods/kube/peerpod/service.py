"""peerpod-ctrl as a Twisted service: clients, informers, queue, lease and sweeps around a `Controller`."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from peerpods.aio import spawn
from peerpods.errors import PeerPodError
from peerpods.kube.client import (
    Change,
    EventRecorder,
    Informer,
    Kube,
    KubeSettings,
    LeaderElection,
    WorkQueue,
    connect,
    keep,
    release,
)
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.names import GROUP, PEER_POD_CTRL
from peerpods.kube.objects.peerpod import parse
from peerpods.kube.objects.resources import DEPLOYMENTS, NODES, PEER_PODS
from peerpods.kube.peerpod import final
from peerpods.kube.peerpod.asking import get_or_none
from peerpods.kube.peerpod.controller import Controller
from peerpods.kube.peerpod.facts import Ending
from peerpods.kube.peerpod.providers import Providers, bounded
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.kube.peerpod.sweeping import Sweeper
from peerpods.obs import ready
from peerpods.obs.log import get_logger

READY = PEER_POD_CTRL
"""The part's name in `obs.ready`."""
COUNT_EVERY = 5.0
FLUSH_TIMEOUT = 5.0
WORK_GRACE = 3.0
"""Seconds that looks under way have at the end; less than the lease holds after we have stopped to renew it."""
LOOK_TIMEOUT = 10.0
"""Seconds to find out at our end whether the installation goes; a server that is away lets nothing be finished."""
RETRY_CAP = 60.0
"""Longest wait in seconds before a key whose writes the API server did not take is looked at again."""
log = get_logger("peerpod-ctrl")


def is_ready_node(node: dict[str, Any]) -> bool:
    """What is kept of a Node: whether its kubelet is well."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


class PeerPodCtrl(Service):
    """Started it connects and follows; as leader it acts; stopped it first looks whether the installation goes.

    Args:
        clock: seconds since the epoch, comparable with the API server's times.
    """

    def __init__(
        self,
        settings: PeerPodCtrlSettings,
        kube_settings: KubeSettings,
        providers: Providers,
        reactor: Any,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._kube_settings = kube_settings
        self._providers = providers
        self._reactor = reactor
        self._clock = clock
        # Two replicas of one identity would both lead: a name of this process alone.
        self._identity = f"{settings.identity or socket.gethostname()}_{secrets.token_hex(4)}"
        self._had_deployment: bool | None = None  # not known
        self._leads = self._led = self._ending = False
        self._sweeping: Deferred[None] | None = None
        self._timers: list[LoopingCall] = []

    def startService(self) -> Deferred[None]:
        """Connect and begin; fires before the informers have synced: an API server that is away is no error."""
        super().startService()  # type: ignore[no-untyped-call]
        return spawn(self._start())

    def stopService(self) -> Deferred[None]:
        """Finish when the installation goes (see `final`), then stop everything and give the lease back."""
        super().stopService()  # type: ignore[no-untyped-call]
        return spawn(self._stop())

    @property
    def leads(self) -> bool:
        """Whether this replica acts."""
        return self._leads

    # -- start

    async def _start(self) -> None:
        reactor, settings = self._reactor, self.settings
        self.kube: Kube = await connect(reactor, self._kube_settings, component=PEER_POD_CTRL)
        reporter = f"{GROUP}/{PEER_POD_CTRL}"
        self.recorder = EventRecorder(reactor, self.kube, component=reporter, instance=self._identity)
        self._peer_pods = Informer(reactor, self.kube, PEER_PODS, shrink=parse, on_change=self._peer_pod)
        self._nodes = Informer(reactor, self.kube, NODES, shrink=is_ready_node, on_change=self._node)
        self.controller = Controller(
            reactor,
            self.kube,
            settings,
            self._providers,
            self.recorder,
            views=self._peer_pods.store,
            nodes=self._nodes.store,
            enqueue=self._enqueue,
            clock=self._clock,
        )
        self.sweeper = Sweeper(
            self.kube, settings, self._providers, views=self._peer_pods.store, nodes=self._nodes.store
        )
        self._queue: WorkQueue | None = None
        self._election: LeaderElection | None = None
        started = gatherResults([self._peer_pods.start(), self._nodes.start()], consumeErrors=True)
        started.addCallbacks(lambda _: spawn(self._synced()), _stopped_before)
        started.addErrback(_broke, "start")
        self.controller.count()
        self._every(COUNT_EVERY, self.controller.count)
        log.info("started", namespace=settings.namespace, identity=self._identity, sweep=self.sweeper.mode)

    def _every(self, seconds: float, what: Callable[[], Any]) -> None:
        timer = LoopingCall(what)
        timer.clock = self._reactor
        timer.start(seconds, now=False).addErrback(_broke, getattr(what, "__name__", "timer"))
        self._timers.append(timer)

    async def _synced(self) -> None:
        """Both stores are complete: from here on an absent node is absent."""
        if not self.running or self._ending:
            return
        await self._know_deployment()
        ready.mark(READY)
        self._every(self.settings.sweep_every, self._sweep)
        if not self.settings.leader_elect:
            self._lead()
            return
        self._election = LeaderElection(
            self._reactor,
            self.kube,
            name=PEER_POD_CTRL,
            namespace=self.settings.namespace,
            identity=self._identity,
            on_started=self._lead,
            on_stopped=self._follow,
        )
        self._election.start()

    async def _know_deployment(self) -> None:
        """Look, once it can be told, whether a Deployment runs us."""
        if self._had_deployment is not None:
            return
        try:
            own = await get_or_none(self.kube, DEPLOYMENTS, self.settings.deployment, self.settings.namespace)
            self._had_deployment = own is not None
        except ApiError as error:
            log.warning("own_deployment_not_known", error=str(error))

    # -- leading

    def _lead(self) -> None:
        if self._leads:
            return
        log.info("leading", identity=self._identity)
        self._leads = self._led = self.controller.acting = True
        self.sweeper.forget()
        self._queue = WorkQueue(
            self._reactor, self.controller.work, workers=self.settings.workers, cap=RETRY_CAP, name="peerpods"
        )
        self._queue.start()
        for key in list(self._peer_pods.store):
            self._queue.add(key)
        self._sweep()
        spawn(self._keep_rights()).addErrback(_broke, "rights")

    async def _keep_rights(self) -> None:
        try:
            await keep(self.kube, PEER_POD_CTRL, self.settings.namespace)
        except ApiError as error:  # the next leader does it
            log.warning("rights_not_kept", error=str(error))
        await self._know_deployment()

    async def _follow(self) -> None:
        """The lease is lost: stop acting, unless the installation goes and the lease went with it."""
        if not self._leads or self._ending:
            return
        log.warning("not_leading", identity=self._identity)
        self._leads = self.controller.acting = False
        queue, self._queue = self._queue, None
        self._cut_short()
        if queue is not None:
            await queue.stop(WORK_GRACE)

    def _cut_short(self) -> None:
        self.controller.abandon()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _enqueue(self, key: str, delay: float = 0.0) -> None:
        if self._queue is not None:
            self._queue.add(key, delay)

    def _sweep(self) -> None:
        if not self._leads or self._ending or self._sweeping is not None:
            return
        running = spawn(self.sweeper.round())
        self._sweeping = running
        running.addErrback(_stopped_before).addErrback(_broke, "sweep").addBoth(self._swept)

    def _swept(self, _result: object) -> None:
        self._sweeping = None

    def _peer_pod(self, change: Change) -> None:
        self.controller.peer_pod_changed(change.old, change.new)

    def _node(self, change: Change) -> None:
        if change.kind == "deleted" or change.old != change.new:
            self.controller.node_changed(change.key, change.new)

    # -- the end

    async def _stop(self) -> None:
        if not hasattr(self, "controller"):
            return
        around = final.Around()
        if self._led or not self.settings.leader_elect:
            around = await self._look_around()
        if around.ending is not Ending.NONE and self._peer_pods.synced:
            await self._finish(around)
        ready.unmark(READY)
        self._ending = True
        self.controller.acting = self._leads = False
        for timer in self._timers:
            if timer.running:
                timer.stop()
        self._cut_short()
        if self._queue is not None:
            await self._queue.stop(WORK_GRACE)
        if self._election is not None:
            await self._election.stop()
        self._peer_pods.stop()
        self._nodes.stop()
        await self.recorder.flush(FLUSH_TIMEOUT)
        self.recorder.stop()
        await self._providers.stop()
        await self.kube.close()

    async def _look_around(self) -> final.Around:
        look = final.look_around(self.kube, self.settings, had_deployment=bool(self._had_deployment))
        try:
            return await bounded(self._reactor, look, LOOK_TIMEOUT, "looking at the installation")
        except PeerPodError as error:
            log.warning("end_not_known", what="installation", error=str(error))
            return final.Around()

    async def _finish(self, around: final.Around) -> None:
        """Act to the end, whether or not the lease can still be held: every action is idempotent."""
        self._lead()
        self._ending = True
        await final.finish(self._reactor, self.controller, around, self.settings, self._enqueue)
        try:
            await release(self.kube, PEER_POD_CTRL, self.settings.namespace)
        except ApiError as error:
            log.warning("rights_left", error=str(error))


def _stopped_before(failure: Failure) -> None:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]


def _broke(failure: Failure, what: str) -> None:
    log.error("defect", what=what, error=failure.getTraceback())


def make_service(
    settings: PeerPodCtrlSettings, kube_settings: KubeSettings, providers: Providers, reactor: Any
) -> IService:
    """The controller, not yet started."""
    return PeerPodCtrl(settings, kube_settings, providers, reactor)
