"""Asks the cloud, with the provider's own check, whether the settings can work. Bounded, remembered, in background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from peerpods.aio import spawn
from peerpods.clouds import registry
from peerpods.clouds.interface import Provider
from peerpods.errors import CloudError, CloudFailure, ConfigError, PeerPodError
from peerpods.kube.peerpodconfig.credentials import Credentials, Environment, Verdict, judge
from peerpods.kube.peerpodconfig.spec import Config
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
LIMIT = 30.0  # seconds for one check
STOP_LIMIT = 10.0  # seconds a provider has to let go
AGAIN_FINE = 600.0  # seconds until settings that worked are checked anew: an image or a key may go
AGAIN_BAD = 60.0
Make = Callable[[str, Any, Any], Provider]


def _max_user_data(name: str, settings: Any, reactor: Any) -> int:
    """Bytes; by a provider that is never started."""
    return registry.make_provider(name, settings, reactor).capabilities().max_user_data


class Verifier:
    """One check at a time, one answer remembered.

    Args:
        on_answer: called when a check that ran in the background has ended.
    """

    def __init__(
        self,
        reactor: Any,
        on_answer: Callable[[], None],
        make: Make = registry.make_provider,
        measure: Callable[[str, Any, Any], int] = _max_user_data,
    ) -> None:
        self._reactor = reactor
        self._on_answer = on_answer
        self._make = make
        self._measure = measure
        self.max_user_data = 0
        """Bytes of user data that the provider takes; 0: not known yet."""
        self._learned: tuple[str, str] = ("", "")
        self._asked: tuple[str, str] = ("", "")
        self._answer: Credentials | None = None
        self._stale_at = 0.0
        self._running: Deferred[None] | None = None

    def look(self, config: Config, env: Environment) -> Credentials:
        """What is known of these settings now; asks the cloud when nothing is, or when it was long ago."""
        known, settings = judge(config, env)
        wanted = (env.provider, env.checksum)
        self._learn(wanted, settings)
        if known is not None:
            return known
        if wanted != self._asked:
            self._asked, self._answer, self._stale_at = wanted, None, 0.0
        if self._running is None and self._reactor.seconds() >= self._stale_at:
            self._running = spawn(self._ask(wanted, env, settings))
            self._running.addErrback(self._failed).addBoth(self._done)
        return self._answer or Credentials(Verdict.PENDING, f"provider {env.provider} is being asked")

    def _learn(self, wanted: tuple[str, str], settings: Any) -> None:
        """What the provider says of itself. Nothing is connected for it; what is not known leaves what was."""
        if settings is None or wanted == self._learned:
            return
        self._learned = wanted
        try:
            self.max_user_data = self._measure(wanted[0], settings, self._reactor)
        except Exception as error:  # the check that follows says what is wrong with the provider
            log.info("capabilities_unknown", provider=wanted[0], reason=type(error).__name__)

    async def stop(self) -> None:
        """End a check that runs."""
        running = self._running
        self._on_answer = lambda: None
        if running is not None:
            running.cancel()
            await running

    async def _ask(self, wanted: tuple[str, str], env: Environment, settings: Any) -> None:
        answer = await self._verdict(env, settings)
        if wanted == self._asked:
            self._answer = scrubbed(answer, env)
            wait = AGAIN_FINE if answer.verdict is Verdict.FINE else AGAIN_BAD
            self._stale_at = self._reactor.seconds() + wait

    async def _verdict(self, env: Environment, settings: Any) -> Credentials:
        provider: Provider | None = None
        try:
            provider = self._make(env.provider, settings, self._reactor)
            checking = spawn(_check(provider))
            checking.addTimeout(LIMIT, self._reactor)
            await checking
        except TimeoutError:
            return Credentials(Verdict.UNREACHABLE, f"provider {env.provider} gave no answer within {LIMIT:g} s")
        except ConfigError as error:
            setting = f"{error.setting}: " if error.setting and error.setting not in error.message else ""
            return Credentials(Verdict.REFUSED, f"{setting}{error}")
        except CloudError as error:
            passing = error.kind in (CloudFailure.RETRYABLE, CloudFailure.QUOTA)
            return Credentials(Verdict.UNREACHABLE if passing else Verdict.REFUSED, str(error))
        except PeerPodError as error:
            return Credentials(Verdict.REFUSED, str(error))
        finally:
            if provider is not None:
                await self._let_go(provider)
        return Credentials(Verdict.FINE, f"provider {env.provider} accepts the settings")

    async def _let_go(self, provider: Provider) -> None:
        try:
            stopping = spawn(provider.stop())
            stopping.addTimeout(STOP_LIMIT, self._reactor)
            await stopping
        except (PeerPodError, TimeoutError) as error:
            log.warning("provider_not_stopped", provider=provider.name, reason=str(error))

    def _failed(self, failure: Any) -> None:
        if failure.check(CancelledError):
            return
        # A provider's fault of its own kind: said by its class alone, since its words may hold anything.
        log.error("check_failed", reason=failure.type.__name__)
        self._answer = Credentials(Verdict.UNREACHABLE, f"the provider's check broke ({failure.type.__name__})")
        self._stale_at = self._reactor.seconds() + AGAIN_BAD

    def _done(self, _: Any) -> None:
        self._running = None
        self._on_answer()


async def _check(provider: Provider) -> None:
    await provider.start()
    await provider.verify()


def scrubbed(answer: Credentials, env: Environment) -> Credentials:
    """The answer without a secret value in its words: a cloud may quote what it was given."""
    return Credentials(answer.verdict, env.scrub(answer.words))
