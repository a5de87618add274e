"""The adaptor as a Twisted service: builds the parts, starts them in order, and lets go of them again."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from peerpods.adaptor.admin import Admin
from peerpods.adaptor.calls import Calls, Policy
from peerpods.adaptor.executor import Executor, Place, World
from peerpods.adaptor.guestfiles import GuestFiles
from peerpods.adaptor.hypervisor import Hypervisor, PodVMInfo
from peerpods.adaptor.journal import Journal
from peerpods.adaptor.meters import Meters
from peerpods.adaptor.ports import Alone, ClusterPort
from peerpods.adaptor.problems import to_status
from peerpods.adaptor.real import RealFolders, RealKeys, RealNetwork, RealUserData
from peerpods.adaptor.relay_client import RelayClient
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import Sandbox
from peerpods.adaptor.watch import Watch
from peerpods.aio import spawn
from peerpods.clouds.interface import Provider
from peerpods.config.settings import AdaptorSettings, GuestSettings
from peerpods.errors import ConfigError, LocalFailure
from peerpods.model import Phase
from peerpods.obs import ready
from peerpods.obs.log import get_logger
from peerpods.ttrpc import Server
from peerpods.ttrpc.unix import listen_unix

if TYPE_CHECKING:
    from peerpods.kube.client.settings import KubeSettings

log = get_logger("adaptor")
GRACE = 1.0
"""Seconds that calls in flight have when the adaptor stops."""
SETTLE = 15.0
"""Seconds that deletions under way have when the adaptor stops; the next start goes on with them."""


class AdaptorService(Service):
    """One adaptor.

    Attributes:
        runner, calls, watch: the parts, for tests and benches; there from `startService` on.
    """

    def __init__(
        self,
        settings: AdaptorSettings,
        guest: GuestSettings,
        provider: Provider,
        reactor: Any,
        *,
        network: Any = None,
        folders: Any = None,
        open_cluster: Callable[[Place, int], Awaitable[ClusterPort]] | None = None,
    ) -> None:
        self.settings = settings
        self.reactor = reactor
        self.provider = provider
        self.runner: Runner
        self.calls: Calls
        self.watch: Watch
        self._guest = GuestFiles(guest)
        self._network = network or RealNetwork(
            host_interface=settings.host_interface,
            vxlan_port=settings.vxlan_port,
            vxlan_min_id=settings.vxlan_min_id,
        )
        self._folders = folders or RealFolders(settings.pods_dir)
        self._ports: list[IListeningPort] = []
        self._servers: list[Server] = []
        self._pool: ThreadPool | None = None
        self._journal: Journal | None = None
        self._relay: RelayClient | None = None
        self._lock: int | None = None
        self._info: PodVMInfo
        self._meters = Meters()
        self._provider_started = False
        self._open_cluster = open_cluster
        self._cluster: ClusterPort = Alone(settings.limit_per_node)

    def startService(self) -> Deferred[None]:
        """Start; fails with a PeerPodError, everything undone, when it cannot."""
        super().startService()  # type: ignore[no-untyped-call]
        return spawn(self._start())

    async def _start(self) -> None:
        try:
            await self._bring_up()
        except BaseException:
            await self._let_go()
            raise
        ready.mark("adaptor")
        log.info(
            "ready",
            socket=self.settings.socket,
            provider=self.provider.name,
            sandboxes=len(self.runner.living()),
        )

    async def _bring_up(self) -> None:
        settings = self.settings
        default_initdata = self._guest.check()
        self._lock = _lock_folder(settings.state_dir)
        self._pool = ThreadPool(1, 1, "journal")
        self._pool.start()
        self._journal = Journal.open(settings.state_dir, self._defer)
        records = self._journal.load()
        self._provider_started = True  # a start that fails half-way has threads to end, too
        await self.provider.start()
        await self.provider.verify()
        if not self.provider.capabilities().isolated:
            log.warning("no_isolation", provider=self.provider.name, note="pods share this machine's kernel")
        place = Place(node=settings.node or socket.gethostname(), cluster=settings.cluster)
        if self._open_cluster is not None:
            self._cluster = await self._open_cluster(place, self.provider.capabilities().max_user_data)
        world = self._world(place)
        executor = Executor(self.reactor, world, self._journal)
        self.runner = Runner(self.reactor, self._journal, executor, on_change=self._changed)
        policy = Policy(
            pods_dir=settings.pods_dir,
            start_timeout=settings.start_timeout,
            keep_failed=settings.keep_failed,
            default_initdata=default_initdata,
        )
        self.calls = Calls(self.reactor, world, self.runner, policy)
        self.watch = Watch(self.reactor, world, self.runner, self.calls, executor)
        self._info = PodVMInfo(self.reactor, self.runner)
        hypervisor = Server(
            self.reactor,
            [*Hypervisor(self.calls).services(), *self._info.services()],
            map_error=to_status,
            on_call_done=self._meters.call_done,
        )
        admin = Server(
            self.reactor,
            Admin(self.reactor, world, self.runner).services(),
            map_error=to_status,
            on_call_done=self._meters.call_done,
        )
        # The sockets come first: whoever loses the race for one must not have touched a sandbox.
        await self._listen(settings.socket, hypervisor)
        await self._listen(settings.admin, admin)
        await self._cluster.start(self.watch.host())
        self.runner.load(records)
        assert self._relay is not None
        self._relay.start()
        self.watch.start()
        self._meters.start(self.reactor, self.runner, self._journal)

    def _world(self, place: Place) -> World:
        settings = self.settings
        self._relay = RelayClient(
            self.reactor,
            settings.relay,
            before_sync=lambda: self.watch.before_sync(),
            on_sync=lambda facts: self.watch.on_sync(facts),
            on_report=lambda event: self.watch.on_report(event),
        )
        return World(
            provider=self.provider,
            network=self._network,
            relay=self._relay,
            keys=RealKeys(),
            user_data=RealUserData(
                vxlan_port=settings.vxlan_port,
                auth_json=self._guest.auth_json,
                registries_json=self._guest.registries_json,
            ),
            folders=self._folders,
            place=place,
            now=time.time,
            cluster=self._cluster,
        )

    def _defer(self, function: Any) -> Deferred[Any]:
        assert self._pool is not None
        return deferToThreadPool(self.reactor, self._pool, function)

    async def _listen(self, path: str, server: Server) -> None:
        try:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._ports.append(await listen_unix(self.reactor, path, server, mode=0o600))
        except OSError as error:
            text = str(error) if path in str(error) else f"{path}: {error.strerror or error}"
            raise LocalFailure(f"the adaptor cannot start: {text}") from error
        self._servers.append(server)

    def _changed(self, before: Sandbox | None, after: Sandbox) -> None:
        self._meters.changed(before, after)
        self._info.changed(after)
        if after.phase is Phase.GONE:
            self.watch.forget(after)

    def stopService(self) -> Deferred[None]:
        """Stop. Running pods go on: their sockets are the relay's, their facts the journal's."""
        super().stopService()  # type: ignore[no-untyped-call]
        return spawn(self._let_go())

    async def _let_go(self) -> None:
        ready.unmark("adaptor")
        ports, self._ports = self._ports, []
        for port in ports:
            await _maybe(port.stopListening())
        servers, self._servers = self._servers, []
        for server in servers:
            # Calls that are cut off end their sandboxes, as a lost connection does.
            await server.close(GRACE)
        if hasattr(self, "watch"):
            self.watch.stop()
        self._meters.stop()
        if hasattr(self, "runner") and servers:
            settled = self.runner.when_settled()
            await settled.addTimeout(SETTLE, self.reactor, onTimeoutCancel=lambda _result, _timeout: None)
            self.runner.stop()
        await self._cluster.stop()
        if self._relay is not None:
            await self._relay.stop()
        if self._provider_started:
            self._provider_started = False
            await self.provider.stop()
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


async def _maybe(value: Any) -> None:
    if isinstance(value, Deferred):
        await value


def _lock_folder(state_dir: str) -> int:
    """Hold the state folder for this process: two adaptors must never share a journal.

    Raises:
        LocalFailure: another process holds it, or it cannot be made or opened.
    """
    try:
        Path(state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(Path(state_dir) / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalFailure(
            f"the state folder {state_dir} cannot be used: {error.strerror}",
            remedy="let the adaptor's user write there, or choose another --state-dir",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LocalFailure(
            f"the state folder {state_dir} is in use by another adaptor",
            remedy="stop it, or choose another --state-dir",
        ) from error
    return descriptor


def make_service(
    settings: AdaptorSettings,
    guest: GuestSettings,
    provider: Provider,
    reactor: Any,
    kubernetes: KubeSettings | None = None,
) -> IService:
    """The adaptor for the plugin; builds only, `startService` connects.

    Args:
        kubernetes: how to reach the API server; None for an adaptor without Kubernetes.
    """
    if kubernetes is None:
        return AdaptorService(settings, guest, provider, reactor)

    async def open_cluster(place: Place, max_user_data: int) -> ClusterPort:
        from peerpods.adaptor.kube.connect import open_cluster as connect

        try:
            return await connect(reactor, settings, kubernetes, place, provider.name, max_user_data)
        except ConfigError as error:
            if settings.kubernetes == "on" or kubernetes.kubeconfig:
                raise
            log.warning("kubernetes_unusable", error=str(error), note="going on without; see --kubernetes")
            return Alone(settings.limit_per_node)

    return AdaptorService(settings, guest, provider, reactor, open_cluster=open_cluster)
