"""`twistd peerpodconfig-ctrl`: leads or waits to lead, and ends well."""

from __future__ import annotations

import os
import secrets
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from peerpods.aio import spawn
from peerpods.kube.client import EventRecorder, KubeApi, KubeSettings, LeaderElection, connect
from peerpods.kube.objects.names import PEER_POD_CONFIG_CTRL
from peerpods.kube.peerpodconfig import ending
from peerpods.kube.peerpodconfig.controller import Controller, started
from peerpods.kube.peerpodconfig.metrics import LEADER
from peerpods.kube.peerpodconfig.seed import Seed
from peerpods.kube.peerpodconfig.settings import PeerPodConfigCtrlSettings
from peerpods.obs import ready
from peerpods.obs.log import get_logger

START_WITHIN = 30.0
"""Seconds for a controller to have looked at everything, when it must undo at the end of the process."""
log = get_logger("peerpodconfig")


def default_image() -> str:
    """`peerpods:VERSION`."""
    try:
        return f"peerpods:{version('peerpods')}"
    except PackageNotFoundError:
        return "peerpods"


class PeerPodConfigService(Service):
    """The controller's process."""

    def __init__(self, settings: PeerPodConfigCtrlSettings, kube_settings: KubeSettings, reactor: Any) -> None:
        self._settings = settings
        self._kube_settings = kube_settings
        self._reactor = reactor
        self._kube: KubeApi | None = None
        self._recorder: EventRecorder | None = None
        self._election: LeaderElection | None = None
        self._starting: Deferred[None] | None = None
        self._installed: bool | None = None
        self._led = self._ending = False
        self._seed: Seed | None = None
        self.controller: Controller | None = None
        """While this process leads."""

    def startService(self) -> Deferred[None]:
        """Begin; fails with ConfigError when the API server's credentials cannot be read."""
        super().startService()  # type: ignore[no-untyped-call]
        return spawn(self._start())

    async def _start(self) -> None:
        settings = self._settings
        self._kube = kube = await connect(self._reactor, self._kube_settings, component=PEER_POD_CONFIG_CTRL)
        who = settings.identity or socket.gethostname()
        self._recorder = EventRecorder(self._reactor, kube, component=PEER_POD_CONFIG_CTRL, instance=who)
        self._installed = await ending.is_installed(kube, settings.namespace)
        self._election = LeaderElection(
            self._reactor,
            kube,
            name=PEER_POD_CONFIG_CTRL,
            namespace=settings.namespace,
            identity=f"{who}_{secrets.token_hex(4)}",
            on_started=self._lead,
            on_stopped=self._follow,
        )
        self._election.start()
        ready.mark(PEER_POD_CONFIG_CTRL)

    def stopService(self) -> Deferred[None]:
        """End. When our own installation is being deleted, finish the deletions under way first, within a bound."""
        super().stopService()  # type: ignore[no-untyped-call]
        return spawn(self._stop())

    async def _stop(self) -> None:
        ready.unmark(PEER_POD_CONFIG_CTRL)
        if self._kube is None:
            return
        await self._stop_seed()
        if self._led and not (self.controller and self.controller.synced and not self.controller.held()):
            await self._finish(self._kube)
        if self._election is not None:
            await self._election.stop()
        await self._end_leading()  # when the lease had gone before
        if self._recorder is not None:
            await self._recorder.flush(timeout=3.0)
            self._recorder.stop()
        await self._kube.close()

    async def _finish(self, kube: KubeApi) -> None:
        """When our installation goes, undo to the end, whether or not the lease can still be held: it goes with the
        namespace, nobody else can take it, and every action is idempotent."""
        what = await ending.going(kube, self._settings.namespace, installed=bool(self._installed))
        if not what.what or not (self.controller or what.configs_too):
            return  # or another replica leads, and ends as we do
        self._ending = True
        if self.controller is None:
            log.warning("leading_anew", note="the lease went before the PeerPodConfig did")
            self._begin()
        controller, starting = self.controller, self._starting
        if controller is None or starting is None:
            return
        timer = self._reactor.callLater(START_WITHIN, starting.cancel)
        await starting
        if timer.active():
            timer.cancel()
        if controller.held():
            await ending.finish(self._reactor, controller, what, bound=self._settings.finish, sleep=self._sleep)

    # -- leading

    def _lead(self) -> None:
        if self._ending:
            return  # we act already
        LEADER.set(1)
        log.info("leading", pid=os.getpid())
        assert self._kube is not None
        self._begin()
        self._seed = Seed(self._reactor, self._kube, self._settings.namespace)
        self._seed.start()

    def _begin(self) -> None:
        """Start a controller; `_starting` fires when it works, or when it was given up."""
        assert self._kube is not None
        assert self._recorder is not None
        self._led = True
        self.controller = Controller(
            self._reactor,
            self._kube,
            self._recorder,
            namespace=self._settings.namespace,
            image=self._settings.image or default_image(),
            resync=self._settings.resync,
        )
        self._starting = spawn(self._started(self._kube, self.controller))
        self._starting.addErrback(self._not_started)

    async def _started(self, kube: KubeApi, controller: Controller) -> None:
        await started(self._reactor, controller, self._sleep)
        if self._installed is None:  # the API server was away when we asked first
            self._installed = await ending.is_installed(kube, self._settings.namespace)

    async def _follow(self) -> None:
        LEADER.set(0)
        if not self._ending:
            await self._end_leading()

    async def _end_leading(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
        controller, self.controller = self.controller, None
        if controller is None:
            return
        # Together: what takes its time must not keep the other at work.
        await gatherResults([spawn(controller.stop()), spawn(self._stop_seed())], consumeErrors=True)
        log.info("not_leading")

    async def _stop_seed(self) -> None:
        seed, self._seed = self._seed, None
        if seed is not None:
            await seed.stop()

    def _not_started(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            log.error("start_broke", error=failure.getTraceback())

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds, lambda: None)
