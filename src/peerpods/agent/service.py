"""The development agent as a Twisted service."""

# ruff: noqa: ASYNC240  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred

from peerpods.agent import cgroup, kernel
from peerpods.agent.rpc import AgentRpc, health_service, map_error
from peerpods.agent.sandbox import Sandbox
from peerpods.obs import ready
from peerpods.obs.log import get_logger
from peerpods.ttrpc import Server
from peerpods.ttrpc.unix import listen_unix

if TYPE_CHECKING:
    from peerpods.config.settings import AgentSettings

GRACE_SECONDS = 1.0
log = get_logger("agent")


class AgentService(Service):
    """Listens on the agent socket; owns the sandbox. Needs root."""

    def __init__(self, settings: AgentSettings, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor
        self._server: Server | None = None
        self._port: Any = None
        self._sandbox: Sandbox | None = None
        self.started: Deferred[None] | None = None
        """Fires once the socket listens; fails when it cannot."""

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self.started = Deferred.fromCoroutine(self._start())
        return self.started  # type: ignore[return-value]

    async def _start(self) -> None:
        kernel.become_subreaper()
        os.umask(0o022)  # roots and folders are read by containers of any user
        cgroups = cgroup.detect()
        if cgroups.version == 0:
            log.warning("cgroups_unusable", consequence="containers run without limits and figures")
        state = Path(self._settings.state_dir)
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)
        listen = self._settings.listen
        Path(listen).parent.mkdir(parents=True, exist_ok=True)
        self._sandbox = Sandbox(self._reactor, state, cgroups, keep=listen)
        services = [AgentRpc(self._sandbox).service(), health_service()]
        self._server = Server(self._reactor, services, map_error=map_error)
        self._port = await listen_unix(self._reactor, listen, self._server)
        ready.mark("agent")
        log.info("ready", socket=listen, cgroup_version=cgroups.version)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ready.unmark("agent")
        if self._port is not None:
            await self._port.stopListening()
        if self._sandbox is not None:
            await self._sandbox.destroy()
        if self._server is not None:
            await self._server.close(GRACE_SECONDS)


def make_service(settings: AgentSettings, reactor: Any) -> IService:
    """The service of `twistd agent`."""
    return AgentService(settings, reactor)
