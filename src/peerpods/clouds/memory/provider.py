"""The provider `memory`: a cloud with exact, injectable behaviour and no cloud behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from peerpods.clouds.interface import Capabilities, CreateRequest, InstanceEvent
from peerpods.clouds.memory.faults import FaultPlan, Guest, When
from peerpods.clouds.memory.guest import AgentScript, Guests, generic_agent
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.errors import CloudError, CloudFailure, PeerPodError
from peerpods.model import Instance, InstanceState, TunnelKind
from peerpods.obs.log import get_logger

log = get_logger("clouds.memory")
POLL_STEP = 0.01  # seconds between the looks of a delete


@attrs.define(kw_only=True)
class Record:
    """One instance and what only the cloud knows of it."""

    instance: Instance
    hidden: int = 0
    console: bytes = b""
    user_data: bytes = attrs.field(default=b"", repr=False)


@attrs.define
class MemoryStore:
    """The cloud's side: instances that outlive a provider object, so that a test can restart the adaptor."""

    records: dict[str, Record] = attrs.field(factory=dict)
    guests: dict[str, Any] = attrs.field(factory=dict)
    """Instance id to the listener that stands for its VM."""
    watchers: list[Callable[[InstanceEvent], None]] = attrs.field(factory=list)
    next_id: int = 1
    creates: int = 0
    calls: list[tuple[str, str]] = attrs.field(factory=list)
    """Every call that reached the cloud: (method, argument), the newest 10,000."""


class MemoryProvider:
    """See `peerpods.clouds.interface.Provider` for the methods.

    Args:
        reactor: needs IReactorTime, and IReactorTCP unless the guests refuse.
        store: shared between providers that shall see the same cloud.
        faults: what goes wrong; none by default.
        agent: what the instances answer; see `peerpods.clouds.memory.guest`.
        guests: boots the instances, instead of listeners with `agent` behind.
    """

    name = "memory"

    def __init__(
        self,
        settings: MemorySettings,
        reactor: Any,
        *,
        store: MemoryStore | None = None,
        faults: FaultPlan | None = None,
        agent: AgentScript = generic_agent,
        guests: Guests | None = None,
    ) -> None:
        self.settings = settings
        self.store = store if store is not None else MemoryStore()
        told = FaultPlan(address_delay=settings.boot_delay, guest=Guest(settings.guest))
        self.faults = faults if faults is not None else told
        self._reactor = reactor
        self._guests = guests if guests is not None else Guests(reactor, agent)
        self._changed: list[Deferred[None]] = []

    def capabilities(self) -> Capabilities:
        return Capabilities(max_user_data=self.settings.max_user_data, console=True, events=True, isolated=False)

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to let go of; instances and their listeners stay in the store."""

    async def verify(self) -> None:
        """Always right."""

    async def create(self, request: CreateRequest) -> Instance:
        limit = self.settings.max_user_data
        if len(request.user_data) > limit:
            raise CloudError(
                f"the user data of {request.name} has {len(request.user_data)} bytes, the provider takes {limit}",
                kind=CloudFailure.INVALID,
                remedy="make initdata or the registry credentials smaller",
            )
        self._called("create", request.token)
        self.store.creates += 1
        when, error = self.faults.creates.pop(self.store.creates, (None, None))
        if when is When.BEFORE:
            raise error or CloudError(f"the cloud could not make {request.name}")
        record = self._by_token(request.token) or await self._make(request)
        if when is When.AFTER:
            raise error or CloudError(f"the answer for {request.name} was lost")
        if when is When.LOST:
            await Deferred()
        return record.instance

    async def _make(self, request: CreateRequest) -> Record:
        identity = f"mem-{self.store.next_id}"
        self.store.next_id += 1
        instance = Instance(
            id=identity,
            name=request.name,
            token=request.token,
            tunnel=TunnelKind.NONE,
            tags=tuple(sorted(request.tags.items())),
        )
        record = Record(instance=instance, hidden=self.faults.hidden_for, user_data=request.user_data)
        self.store.records[identity] = record
        self._say(record, f"booting {request.name}")
        delay = self.faults.address_delay
        if delay == 0:
            await self._boot(identity)
        elif delay is not None:
            self._later(delay, self._boot, identity)
        if self.faults.dies_after is not None:
            self._later(self.faults.dies_after, self.die, identity, "crashed")
        return record

    def _later(self, delay: float, what: Callable[..., Any], *args: Any) -> None:
        async def run() -> None:
            await deferLater(self._reactor, delay)
            await what(*args)

        failed = lambda f: log.error("memory_guest_failed", error=str(f.value))  # noqa: E731
        Deferred.fromCoroutine(run()).addErrback(failed)

    async def _boot(self, identity: str) -> None:
        record = self.store.records.get(identity)
        if record is None or record.instance.state is not InstanceState.PENDING:
            return
        port = 1  # tcpmux: nobody listens there on loopback
        if self.faults.guest is not Guest.REFUSES:
            silent = self.faults.guest is Guest.SILENT
            try:
                guest = await self._guests.boot(
                    identity, record.user_data, silent=silent, say=lambda text: self._say(record, text)
                )
            except PeerPodError as error:
                # As in a VM: the cloud knows nothing of it, nobody listens, and the console says why.
                self._say(record, f"not ready: {error}")
            else:
                if self.store.records.get(identity) is not record:
                    await guest.close()
                    return
                self.store.guests[identity] = guest
                port = guest.port
                self._say(record, f"listening on port {port}")
        self._set(record, state=InstanceState.RUNNING, addresses=("127.0.0.1",), agent_port=port)
        self._emit(record, "address")

    async def die(self, identity: str, reason: str = "crashed") -> None:
        """Stop an instance as if it had crashed or been reclaimed; for tests. Unknown ids are ignored."""
        record = self.store.records.get(identity)
        if record is None or record.instance.state in (InstanceState.STOPPED, InstanceState.GONE):
            return
        self._set(record, state=InstanceState.STOPPED)
        await self._close_guest(identity)
        self._say(record, f"stopped: {reason}")
        self._emit(record, reason)

    async def wait_address(self, instance_id: str) -> Instance:
        while True:
            record = self._get(instance_id)
            if record.instance.state is InstanceState.STOPPED:
                raise CloudError(
                    f"instance {instance_id} stopped before it had an address", kind=CloudFailure.RETRYABLE
                )
            if record.instance.addresses:
                return record.instance
            waiter: Deferred[None] = Deferred()
            self._changed.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._changed:
                    self._changed.remove(waiter)

    async def find(self, token: str) -> Instance | None:
        self._called("find", token)
        record = self._by_token(token)
        if record is None or self._hidden(record):
            return None
        return record.instance

    async def list(self, tags: Mapping[str, str]) -> list[Instance]:
        self._called("list", ",".join(f"{k}={v}" for k, v in sorted(tags.items())))
        wanted = set(tags.items())
        return [
            record.instance
            for record in list(self.store.records.values())
            if wanted <= set(record.instance.tags) and not self._hidden(record)
        ]

    async def describe(self, instance_id: str) -> Instance:
        self._called("describe", instance_id)
        return self._get(instance_id).instance

    async def delete(self, instance_id: str) -> None:
        self._called("delete", instance_id)
        record = self.store.records.get(instance_id)
        if record is None:
            return
        if self.faults.delete_errors > 0:
            self.faults.delete_errors -= 1
            raise CloudError(f"deleting {instance_id} failed: internal error")
        self._set(record, state=InstanceState.DELETING)
        await self._close_guest(instance_id)
        while self.faults.delete_polls > 0 and instance_id in self.store.records:
            self.faults.delete_polls -= 1
            await deferLater(self._reactor, POLL_STEP)
        self.store.records.pop(instance_id, None)
        self._wake()

    async def console(self, instance_id: str, max_bytes: int = 65536) -> bytes:
        return self._get(instance_id).console[-max_bytes:] if max_bytes > 0 else b""

    def watch(self, callback: Callable[[InstanceEvent], None]) -> Callable[[], None]:
        self.store.watchers.append(callback)

        def stop() -> None:
            if callback in self.store.watchers:
                self.store.watchers.remove(callback)

        return stop

    async def close_all(self) -> None:
        """Delete every instance of the store; for the end of tests."""
        for identity in list(self.store.records):
            await self._close_guest(identity)
            self.store.records.pop(identity, None)
        self._wake()

    def _called(self, method: str, argument: str) -> None:
        self.store.calls.append((method, argument))
        del self.store.calls[:-10000]
        self.faults.throttle(method)

    def _get(self, identity: str) -> Record:
        record = self.store.records.get(identity)
        if record is None:
            raise CloudError(f"there is no instance {identity!r}", kind=CloudFailure.NOT_FOUND)
        return record

    def _by_token(self, token: str) -> Record | None:
        return next((r for r in self.store.records.values() if r.instance.token == token), None)

    def _hidden(self, record: Record) -> bool:
        if record.hidden > 0:
            record.hidden -= 1
            return True
        return False

    def _set(self, record: Record, **changes: Any) -> None:
        record.instance = attrs.evolve(record.instance, **changes)
        self._wake()

    def _wake(self) -> None:
        waiting, self._changed = self._changed, []
        for waiter in waiting:
            waiter.callback(None)

    def _say(self, record: Record, text: str) -> None:
        record.console = (record.console + text.encode() + b"\n")[-65536:]

    def _emit(self, record: Record, reason: str) -> None:
        for watcher in list(self.store.watchers):
            watcher(InstanceEvent(instance=record.instance, reason=reason))

    async def _close_guest(self, identity: str) -> None:
        guest = self.store.guests.pop(identity, None)
        if guest is not None:
            await guest.close()


def make_provider(settings: MemorySettings, reactor: Any) -> MemoryProvider:
    """For the registry."""
    return MemoryProvider(settings, reactor)
