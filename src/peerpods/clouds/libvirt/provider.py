"""The provider `libvirt`: keeps the contract on the reactor; the work is done in two threads.

Thread `calls` makes and looks, thread `ends` deletes (ending a guest takes a second or two). Calls for one instance
never overlap. The events of thread `calls`' connection tell when a guest stops by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import libvirt
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall, deferLater

from peerpods.clouds.interface import Capabilities, CreateRequest, InstanceEvent
from peerpods.clouds.libvirt import operations as ops
from peerpods.clouds.libvirt.connection import Lane
from peerpods.clouds.libvirt.domain import instance_uuid
from peerpods.clouds.libvirt.iso import build_iso
from peerpods.clouds.libvirt.settings import LibvirtSettings
from peerpods.clouds.libvirt.verify import _thd_verify, check_local, is_local, uses_kvm
from peerpods.errors import CloudError, CloudFailure, ConfigError
from peerpods.model import Instance, InstanceState
from peerpods.obs.log import get_logger

log = get_logger("clouds.libvirt")
T = TypeVar("T")
MAX_USER_DATA = 1 << 20  # bytes; ours, an ISO image could hold more
ADDRESS_STEP = 1.0  # seconds between looks for a lease, where no address could be reserved
ROUND_STEP = 20.0  # seconds between rounds: consoles' sizes, and ends that libvirt told nobody of
CONSOLE_MOST = 8 << 20  # bytes from which on a console file is cut…
CONSOLE_KEEP = 1 << 20  # …to its last bytes
RECONNECT = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds; the last is repeated
_STOPPED = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "shut down",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: "migrated away",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "saved",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "failed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT: "reverted to a snapshot",
}
_ENDS = {libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED}


def shield(inner: Deferred[T]) -> Deferred[T]:
    """A Deferred with the same result, whose cancellation leaves `inner` running."""
    outer: Deferred[T] = Deferred()
    inner.addCallbacks(outer.callback, outer.errback)
    return outer


class LibvirtProvider:
    """See `peerpods.clouds.interface.Provider` for the methods."""

    name = "libvirt"

    def __init__(self, settings: LibvirtSettings, reactor: Any) -> None:
        self.settings = settings
        self._reactor = reactor
        self._calls = Lane(reactor, settings.uri, "calls", self._thd_opened)
        self._ends = Lane(reactor, settings.uri, "ends")
        self._locks: dict[str, DeferredLock] = {}
        self._known: dict[str, Instance] = {}
        """Instances seen alive: what a reconnection compares with."""
        self._deleting: set[str] = set()
        self._told: set[str] = set()
        """Instances whose end the watchers know; until they are deleted."""
        self._watchers: list[Callable[[InstanceEvent], None]] = []
        self._rounds = LoopingCall(self._round)
        self._rounds.clock = reactor
        self._running = False
        self._reconnecting: Deferred[None] | None = None

    def capabilities(self) -> Capabilities:
        return Capabilities(max_user_data=MAX_USER_DATA, console=True, events=True)

    async def start(self) -> None:
        self._running = True
        self._calls.start()
        self._ends.start()
        await shield(self._calls.run(f"connecting to {self.settings.uri}", ops._thd_nothing))
        if self._running and not self._rounds.running:
            self._rounds.start(ROUND_STEP, now=False).addErrback(
                lambda f: log.error("rounds_ended", error=str(f.value))
            )

    async def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        if self._rounds.running:
            self._rounds.stop()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        await self._calls.stop()
        await self._ends.stop()

    async def verify(self) -> None:
        check_local(self.settings)
        try:
            await shield(self._calls.run("checking the settings", _thd_verify, self.settings))
        except CloudError as error:
            raise ConfigError(error.message, setting="uri", remedy=error.remedy) from error

    async def create(self, request: CreateRequest) -> Instance:
        order = self._order(request)
        instance = await self._alone(
            instance_uuid(request.token),
            lambda: self._calls.run(f"making {request.name}", ops._thd_create, order),
        )
        return self._seen(instance)

    def _order(self, request: CreateRequest) -> ops.Order:
        settings, spec = self.settings, request.spec
        if len(request.user_data) > MAX_USER_DATA:
            raise CloudError(
                f"the user data of {request.name} has {len(request.user_data)} bytes, "
                f"the provider takes {MAX_USER_DATA}",
                kind=CloudFailure.INVALID,
                remedy="make initdata or the registry credentials smaller",
            )
        if spec.gpus:
            raise CloudError(
                f"{request.name} asks for {spec.gpus} GPUs, which libvirt instances do not have",
                kind=CloudFailure.INVALID,
            )
        if settings.image_dir and spec.image:
            raise CloudError(
                f"{request.name} asks for the image {spec.image!r}, but this node boots the one in image-dir",
                kind=CloudFailure.INVALID,
                remedy="remove the pod's image annotation, or unset image-dir",
            )
        files = {
            "user-data": request.user_data,
            "meta-data": f"local-hostname: {request.name}\n".encode(),
            "vendor-data": b"",
        }
        return ops.Order(
            name=request.name,
            token=request.token,
            tags=dict(request.tags),
            vcpus=spec.vcpus or settings.cpu,
            memory_mib=_memory(settings, spec.memory_mib),
            kvm=uses_kvm(settings),
            image_dir=settings.image_dir,
            base=spec.image or settings.vol_name,
            root_bytes=settings.root_disk_size << 30,
            firmware=settings.firmware,
            vtpm=settings.vtpm == "on",
            pool=settings.pool_name,
            network=settings.network_name,
            cpuset=settings.cpuset,
            cidata=build_iso("cidata", files),
        )

    async def wait_address(self, instance_id: str) -> Instance:
        while True:
            instance = await self.describe(instance_id)
            if instance.state is InstanceState.STOPPED:
                raise CloudError(f"{instance.name} stopped before it had an address", kind=CloudFailure.RETRYABLE)
            if instance.addresses:
                return instance
            await deferLater(self._reactor, ADDRESS_STEP)

    async def find(self, token: str) -> Instance | None:
        instance = await shield(
            self._calls.run("looking for an instance", ops._thd_find, token, self.settings.network_name)
        )
        return self._seen(instance) if instance is not None else None

    async def list(self, tags: Mapping[str, str]) -> list[Instance]:
        found = await shield(
            self._calls.run("listing instances", ops._thd_list, dict(tags), self.settings.network_name)
        )
        return [self._seen(instance) for instance in found]

    async def describe(self, instance_id: str) -> Instance:
        instance = await shield(
            self._calls.run(f"looking at {instance_id}", ops._thd_describe, instance_id, self.settings.network_name)
        )
        if instance is None:
            raise CloudError(f"libvirt has no instance {instance_id!r}", kind=CloudFailure.NOT_FOUND)
        return self._seen(instance)

    async def delete(self, instance_id: str) -> None:
        def job() -> Deferred[None]:
            self._deleting.add(instance_id)
            running = self._ends.run(
                f"deleting {instance_id}",
                ops._thd_delete,
                instance_id,
                self.settings.pool_name,
                self.settings.network_name,
            )
            return running.addCallbacks(gone).addBoth(over)

        def gone(_: None) -> None:
            self._known.pop(instance_id, None)
            self._told.discard(instance_id)

        def over(result: Any) -> Any:
            self._deleting.discard(instance_id)
            return result

        await self._alone(instance_id, job)

    async def console(self, instance_id: str, max_bytes: int = 65536) -> bytes:
        text = await shield(
            self._calls.run(
                f"reading the console of {instance_id}",
                ops._thd_console,
                instance_id,
                self.settings.pool_name,
                max_bytes,
            )
        )
        if text is None:
            raise CloudError(f"libvirt has no instance {instance_id!r}", kind=CloudFailure.NOT_FOUND)
        return text

    def watch(self, callback: Callable[[InstanceEvent], None]) -> Callable[[], None]:
        self._watchers.append(callback)

        def stop() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return stop

    async def _alone(self, uuid: str, job: Callable[[], Deferred[T]]) -> T:
        """Run a job while no other runs for this instance; a cancelled caller leaves the job running."""
        lock = self._locks.setdefault(uuid, DeferredLock())
        await lock.acquire()

        def release(result: Any) -> Any:
            lock.release()
            if not lock.locked and self._locks.get(uuid) is lock:
                del self._locks[uuid]
            return result

        return await shield(job().addBoth(release))

    def _seen(self, instance: Instance) -> Instance:
        if instance.state is InstanceState.RUNNING and instance.id not in self._deleting:
            self._known[instance.id] = instance
        return instance

    def _thd_opened(self, conn: Any) -> None:
        def lifecycle(_conn: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
            if event in _ENDS:
                reason = _STOPPED.get(detail, "stopped") if event != _UNDEFINED else "undefined"
                self._reactor.callFromThread(self._ended, domain.UUIDString(), reason)

        def closed(_conn: Any, _reason: int, _opaque: Any) -> None:
            self._reactor.callFromThread(self._lost)

        conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        conn.registerCloseCallback(closed, None)

    def _ended(self, uuid: str, reason: str) -> None:
        if not self._running or uuid in self._deleting:
            return
        self._background(self._report(uuid, reason), "event_lost")

    async def _report(self, uuid: str, reason: str) -> None:
        """Tell the watchers that an instance of ours is over; once for each."""
        known = self._known.get(uuid)
        try:
            instance = await self.describe(uuid)
        except CloudError as error:
            if error.kind is not CloudFailure.NOT_FOUND or known is None:
                return
            instance = known
            state = InstanceState.GONE
        else:
            state = instance.state
            if state is not InstanceState.STOPPED:
                return
        if uuid in self._deleting or uuid in self._told:
            return
        self._told.add(uuid)
        self._known.pop(uuid, None)
        event = InstanceEvent(instance=_with_state(instance, state), reason=reason)
        for watcher in list(self._watchers):
            watcher(event)

    def _lost(self) -> None:
        if self._running and self._reconnecting is None:
            log.warning("libvirt_connection_lost", uri=self.settings.uri)
            self._reconnecting = self._background(self._reconnect(), "reconnect_ended")

    async def _reconnect(self) -> None:
        """Open the connection again, then look at what ended meanwhile."""
        try:
            attempt = 0
            while self._running:
                await deferLater(self._reactor, RECONNECT[min(attempt, len(RECONNECT) - 1)])
                attempt += 1
                try:
                    await shield(self._calls.run("connecting again", ops._thd_nothing))
                    break
                except CloudError as error:
                    log.warning("libvirt_still_away", attempt=attempt, error=error.message)
        finally:
            self._reconnecting = None
        await self._compare("ended while libvirt was away")

    async def _compare(self, reason: str) -> None:
        """Tell of those that have ended since they were last seen alive."""
        before = set(self._known)
        alive = {i.id for i in await self.list({}) if i.state is InstanceState.RUNNING}
        for uuid in before - alive:
            await self._report(uuid, reason)

    async def _round(self) -> None:
        """The net below the events: libvirtd tells nobody of a guest that ends while it starts again."""
        if not self._known:
            return
        try:
            await self._compare("ended")
            if is_local(self.settings.uri):
                pool = self.settings.pool_name
                await shield(
                    self._ends.run(
                        "bounding console files",
                        ops._thd_cut_consoles,
                        list(self._known),
                        pool,
                        CONSOLE_MOST,
                        CONSOLE_KEEP,
                    )
                )
        except CloudError as error:
            log.warning("round_failed", error=error.message)

    def _background(self, coroutine: Any, event: str) -> Deferred[None]:
        def failed(failure: Any) -> None:
            if self._running:
                log.error(event, error=str(failure.value))

        started: Deferred[None] = Deferred.fromCoroutine(coroutine)
        return started.addErrback(failed)


_UNDEFINED = libvirt.VIR_DOMAIN_EVENT_UNDEFINED


def _with_state(instance: Instance, state: InstanceState) -> Instance:
    return attrs.evolve(instance, state=state)


def _memory(settings: LibvirtSettings, asked: int) -> int:
    """MiB of a VM: what the pod asks for, but no less than a guest needs; the operator's own figure as it is."""
    return max(asked, settings.min_memory) if asked else settings.memory


def make_provider(settings: LibvirtSettings, reactor: Any) -> LibvirtProvider:
    """For the registry."""
    return LibvirtProvider(settings, reactor)
