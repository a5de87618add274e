"""The clouds in use: each made when first named, made anew when its settings change, shared by all who call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, DeferredLock, DeferredSemaphore

from peerpods.aio import spawn
from peerpods.clouds import registry
from peerpods.clouds.interface import Provider
from peerpods.errors import CloudError, CloudFailure, ConfigError, DeadlineExceeded, PeerPodError
from peerpods.kube.peerpod.configuration import Configuration, Exports
from peerpods.obs.log import get_logger
from peerpods.obs.metrics import CLOUD_CALLS

T = TypeVar("T")
START_TIMEOUT = 60.0
HOLD = 10.0
"""Seconds for which a provider that could not be made is not tried again."""
REMAKE = 30.0
"""Seconds that lie between two makings of a provider whose credentials the cloud refuses."""
DEFECT = "this is a defect of the provider: report it"
log = get_logger("peerpod-ctrl")


def is_unusable(error: BaseException) -> bool:
    """Whether an error says that the provider cannot be used at all until somebody changes settings or rights."""
    return isinstance(error, ConfigError) or (isinstance(error, CloudError) and error.kind is CloudFailure.DENIED)


@attrs.define(eq=False)
class _Made:
    provider: Provider
    mark: str
    made_at: float
    users: int = 0
    retired: bool = False


@attrs.define(eq=False)
class _Slot:
    name: str
    gate: DeferredSemaphore
    lock: DeferredLock = attrs.field(factory=DeferredLock)
    made: _Made | None = None
    failure: PeerPodError | None = None
    failed_at: float = 0.0
    denied: bool = False


class Providers:
    """All clouds of this process.

    Args:
        make: as `registry.make_provider`; tests bring clouds of their own.
        exports: where SDKs find what the files of --provider-dir say.
        at_once: how many calls of `use` run at once for one cloud; the others wait in order, and no cloud waits for
            another.
    """

    def __init__(
        self,
        reactor: Any,
        configuration: Configuration,
        *,
        at_once: int = 16,
        make: Callable[[str, Any, Any], Provider] = registry.make_provider,
        exports: Exports | None = None,
    ) -> None:
        self.configuration = configuration
        self._reactor = reactor
        self._at_once = at_once
        self._make = make
        self._exports = exports
        self._slots: dict[str, _Slot] = {}
        self._stopped = False

    async def use(self, name: str, work: Callable[[Cloud], Awaitable[T]]) -> T:
        """Run something against a cloud, started and with the settings of now.

        Raises:
            ConfigError, CloudError: when the provider cannot be made (see `is_unusable`), or what `work` raises.
        """
        slot = self._slots.setdefault(name, _Slot(name, DeferredSemaphore(self._at_once)))
        await slot.gate.acquire()
        try:
            made = await self._ready(slot)
            made.users += 1
            try:
                return await work(Cloud(made.provider, self._reactor, partial(self._hide, name)))
            except PeerPodError as error:
                slot.denied = slot.denied or is_unusable(error)
                raise
            finally:
                made.users -= 1
                await self._let_go(made)
        finally:
            slot.gate.release()

    async def stop(self) -> None:
        """Let go of all clouds. Idempotent."""
        self._stopped = True
        for slot in self._slots.values():
            if slot.made is not None:
                await self._retire(slot)

    async def _ready(self, slot: _Slot) -> _Made:
        await slot.lock.acquire()
        try:
            now = self._reactor.seconds()
            if slot.failure is not None and now - slot.failed_at < HOLD:
                raise slot.failure
            try:
                return await self._current(slot, now)
            except PeerPodError as error:
                self._hide(slot.name, error)
                slot.failure, slot.failed_at = error, now
                raise
        finally:
            slot.lock.release()

    def _hide(self, name: str, error: PeerPodError) -> None:
        """Take what the credentials' files hold out of an error: its words come into events that users read."""
        error.message = self.configuration.hidden(name, error.message)
        error.remedy = self.configuration.hidden(name, error.remedy) if error.remedy else error.remedy

    async def _current(self, slot: _Slot, now: float) -> _Made:
        if self._stopped:
            raise CloudError(f"provider {slot.name} is not used any more: this process ends")
        configured = self.configuration.read(slot.name)
        made = slot.made
        again = made is not None and slot.denied and now - made.made_at >= REMAKE
        if made is not None and made.mark == configured.mark and not again:
            return made
        if made is not None:
            log.info("provider_remade", provider=slot.name, why="refused by the cloud" if again else "settings changed")
            await self._retire(slot)
        if self._exports is not None:
            self._exports.put(self.configuration.files(slot.name))
        try:
            provider = self._make(slot.name, configured.settings, self._reactor)
            await bounded(self._reactor, provider.start(), START_TIMEOUT, f"starting provider {slot.name}")
        except (PeerPodError, CancelledError):
            raise
        except Exception as error:
            raise CloudError(f"provider {slot.name} cannot start: {error!r}", remedy=DEFECT) from error
        slot.made = _Made(provider, configured.mark, now)
        slot.failure, slot.denied = None, False
        return slot.made

    async def _retire(self, slot: _Slot) -> None:
        made, slot.made = slot.made, None
        if made is not None:
            made.retired = True
            await self._let_go(made)

    async def _let_go(self, made: _Made) -> None:
        if not made.retired or made.users:
            return
        try:
            await bounded(self._reactor, made.provider.stop(), START_TIMEOUT, "stopping a provider")
        except PeerPodError as error:
            log.warning("provider_not_stopped", provider=made.provider.name, error=str(error))


async def bounded(reactor: Any, call: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
    """The call's result; DeadlineExceeded, and the call cancelled, when it takes longer."""

    def late(_result: object, timeout: float) -> Any:
        raise DeadlineExceeded(f"{what} did not end within {timeout:g} s")

    return await spawn(call).addTimeout(seconds, reactor, onTimeoutCancel=late)


@attrs.frozen
class Cloud:
    """One started provider; its calls are bounded and counted."""

    provider: Provider
    _reactor: Any
    _hide: Callable[[PeerPodError], None] = attrs.field(default=lambda _: None)

    async def call(self, name: str, call: Coroutine[Any, Any, T], seconds: float) -> T:
        """Await a call of the provider.

        Raises:
            CloudError: as the provider, and RETRYABLE for what it must not raise.
            DeadlineExceeded: when it takes longer than `seconds`.
        """
        result = "cancelled"
        try:
            value = await bounded(self._reactor, call, seconds, f"{self.provider.name} {name}")
        except CancelledError:
            raise
        except PeerPodError as error:
            result = error.kind.value if isinstance(error, CloudError) else type(error).__name__
            self._hide(error)
            raise
        except Exception as error:
            result = "bug"
            wrong = CloudError(f"{self.provider.name} {name} failed: {error!r}", remedy=DEFECT)
            self._hide(wrong)
            raise wrong from error
        else:
            result = "ok"
            return value
        finally:
            CLOUD_CALLS.labels(self.provider.name, name, result).inc()
