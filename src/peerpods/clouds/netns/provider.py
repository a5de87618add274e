"""The provider `netns`: see `peerpods.clouds.interface.Provider` for the methods. NO isolation: it shares the kernel,
the file system and root with the node; for tests, benches and demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from peerpods.clouds.interface import Capabilities, CreateRequest, InstanceEvent
from peerpods.clouds.netns.making import Maker
from peerpods.clouds.netns.settings import NetnsSettings
from peerpods.clouds.netns.state import Record, carries, identity
from peerpods.errors import CloudError, CloudFailure
from peerpods.model import Instance, InstanceState
from peerpods.obs.log import get_logger

T = TypeVar("T")
LOOK_EVERY = 0.25  # seconds between looks for instances that ended
log = get_logger("clouds.netns")


class NetnsProvider:
    """Instances are namespaces of this machine.

    Args:
        home: path of the network namespace that they are joined to; empty: that of the process.
    """

    name = "netns"

    def __init__(self, settings: NetnsSettings, reactor: Any, *, home: str = "") -> None:
        self._home = home
        self._settings = settings
        self._reactor = reactor
        self._maker = Maker(settings)
        self._pool: ThreadPoolExecutor | None = None
        self._watchers: list[Callable[[InstanceEvent], None]] = []
        self._looking: LoopingCall | None = None
        self._running: set[str] = set()
        self._deleting: set[str] = set()

    def capabilities(self) -> Capabilities:
        return Capabilities(max_user_data=self._settings.max_user_data, console=True, events=True, isolated=False)

    async def start(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns")
        await self._run(self._maker.open)
        known = await self._run(self._maker.look)
        self._running = {one.id for one in known.values() if one.alive()}
        self._looking = LoopingCall(self._look)
        self._looking.clock = self._reactor
        self._looking.start(LOOK_EVERY, now=False).addErrback(
            lambda failure: log.error("watch_ended", reason=str(failure.value))
        )

    async def stop(self) -> None:
        if self._looking is not None and self._looking.running:
            self._looking.stop()
        self._looking = None
        if self._pool is not None:
            pool = self._pool
            try:
                await self._run(self._maker.close)
            finally:
                self._pool = None
                pool.shutdown(wait=False)

    async def verify(self) -> None:
        await self._run(self._maker.verify)

    async def create(self, request: CreateRequest) -> Instance:
        limit = self._settings.max_user_data
        if len(request.user_data) > limit:
            raise CloudError(
                f"the user data has {len(request.user_data)} bytes, this provider takes {limit}",
                kind=CloudFailure.INVALID,
                remedy="send less initdata or raise max-user-data",
            )
        record = await self._run(lambda: self._maker.create(request))
        if record.alive():
            self._running.add(record.id)
        return record.instance()

    async def wait_address(self, instance_id: str) -> Instance:
        instance = await self.describe(instance_id)
        if instance.state is not InstanceState.RUNNING:
            raise CloudError(f"instance {instance_id} has stopped; its console says why")
        return instance

    async def find(self, token: str) -> Instance | None:
        record = await self._run(lambda: self._maker.store.read(identity(token)))
        return record.instance() if record is not None else None

    async def list(self, tags: Mapping[str, str]) -> list[Instance]:
        records = await self._run(self._maker.store.all)
        return [one.instance() for one in records if carries(one, tags)]

    async def describe(self, instance_id: str) -> Instance:
        return (await self._record(instance_id)).instance()

    async def delete(self, instance_id: str) -> None:
        self._deleting.add(instance_id)
        try:
            await self._run(lambda: self._maker.delete(instance_id))
        finally:
            self._running.discard(instance_id)
            self._deleting.discard(instance_id)

    async def console(self, instance_id: str, max_bytes: int = 65536) -> bytes:
        await self._record(instance_id)
        return await self._run(lambda: self._maker.console(instance_id, max_bytes))

    def watch(self, callback: Callable[[InstanceEvent], None]) -> Callable[[], None]:
        self._watchers.append(callback)

        def stop() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return stop

    async def _record(self, instance_id: str) -> Record:
        record = await self._run(lambda: self._maker.store.read(instance_id))
        if record is None:
            raise CloudError(f"there is no instance {instance_id}", kind=CloudFailure.NOT_FOUND)
        return record

    def _look(self) -> Deferred[None]:
        """Tell watchers of instances that have ended since the last look."""
        return self._run(self._maker.look).addCallback(self._compare)

    def _compare(self, records: dict[str, Record]) -> None:
        for instance_id in self._running - self._deleting:
            record = records.get(instance_id)
            if record is not None and record.alive():
                continue
            self._running.discard(instance_id)
            if record is not None:
                event = InstanceEvent(instance=record.instance(), reason="its main process ended")
                for told in tuple(self._watchers):
                    told(event)

    def _at_home(self) -> AbstractContextManager[None]:
        if not self._home:
            return nullcontext()
        from peerpods.podnet.kernel import inside

        return inside(self._home)

    def _run(self, action: Callable[[], T]) -> Deferred[T]:
        """An action of the maker in its thread."""
        answer: Deferred[T] = Deferred(lambda _: None)  # the thread finishes; its answer is dropped

        def arrived(result: Any) -> None:
            if not answer.called:
                answer.callback(result)

        def _thd_act() -> None:
            try:
                with self._at_home():
                    result: Any = action()
            except BaseException:  # the Deferred carries it, whatever it is
                result = Failure()  # type: ignore[no-untyped-call]
            self._reactor.callFromThread(arrived, result)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns")
        self._pool.submit(_thd_act)
        return answer


def make_provider(settings: NetnsSettings, reactor: Any) -> NetnsProvider:
    """Configured, not yet started."""
    return NetnsProvider(settings, reactor)
