"""Carries out effects: each method does one step against the outside and gives the event it ends in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from peerpods.adaptor import console
from peerpods.adaptor import events as ev
from peerpods.adaptor.events import Event, Step
from peerpods.adaptor.journal import Journal
from peerpods.adaptor.ports import (
    Alone,
    Clock,
    ClusterPort,
    Folders,
    KeyPort,
    NetworkPort,
    RelayAway,
    RelayForgot,
    RelayPort,
    UserDataPort,
)
from peerpods.adaptor.problems import is_passing, problem_of
from peerpods.adaptor.sandbox import Sandbox
from peerpods.aio import spawn
from peerpods.clouds.interface import (
    TAG_CLUSTER,
    TAG_NAMESPACE,
    TAG_NODE,
    TAG_POD,
    TAG_SANDBOX,
    TAG_TOKEN,
    CreateRequest,
    Provider,
)
from peerpods.errors import CloudError, DeadlineExceeded, LinkError, LinkFailure, Refused
from peerpods.model import Instance, SandboxId
from peerpods.obs.log import get_logger

T = TypeVar("T")
log = get_logger("adaptor")

CONSOLE_TIMEOUT = 3.0  # seconds; the caller of StartVM waits for it
DELETE_TIMEOUT = 600.0  # seconds for one try to delete everything of a sandbox
LOOK_TIMEOUT = 60.0  # seconds for find and list
CLEAN_TIMEOUT = 60.0  # seconds for the node's own things
LINK_WORDS = 0.5
"""Seconds by which the relay's bound for a link is shorter than the start's: it knows why there was none."""
RELINK_PAUSE = 0.2  # seconds before a link is asked for again from a relay that came back


@attrs.frozen(kw_only=True)
class Place:
    """Which adaptor this is, as its instances' tags say."""

    node: str
    cluster: str

    def tags(self) -> dict[str, str]:
        """What every instance of this node carries."""
        return {TAG_CLUSTER: self.cluster, TAG_NODE: self.node}


@attrs.frozen(kw_only=True)
class World:
    """Everything outside the adaptor."""

    provider: Provider
    network: NetworkPort
    relay: RelayPort
    keys: KeyPort
    user_data: UserDataPort
    folders: Folders
    place: Place
    now: Clock
    cluster: ClusterPort = attrs.field(factory=Alone)


class Executor:
    """One method an effect. Errors become events; only CancelledError passes through."""

    def __init__(self, reactor: IReactorTime, world: World, journal: Journal) -> None:
        self.world = world
        self._reactor = reactor
        self._journal = journal

    async def bounded(self, coroutine: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
        """The coroutine's result; DeadlineExceeded, and the coroutine cancelled, when it takes longer."""

        def late(_result: object, timeout: float) -> Any:
            raise DeadlineExceeded(f"{what} did not end within {timeout:g} s")

        return await spawn(coroutine).addTimeout(seconds, self._reactor, onTimeoutCancel=late)

    async def cloud(self, call: str, coroutine: Awaitable[T]) -> T:
        """Await a call of the provider, and count it by its result."""
        from peerpods.obs.metrics import CLOUD_CALLS

        result = "cancelled"
        try:
            value = await coroutine
            result = "ok"
        except CloudError as error:
            result = error.kind.value
            raise
        except CancelledError:
            raise
        except Exception:
            result = "error"
            raise
        finally:
            CLOUD_CALLS.labels(self.world.provider.name, call, result).inc()
        return value

    def _took(self, since: float) -> float:
        return (self._reactor.seconds() - since) * 1000

    async def _step(self, s: Sandbox, step: Step, work: Callable[[], Awaitable[Event]]) -> Event:
        try:
            return await work()
        except CancelledError:
            raise
        except Exception as error:
            log.warning("step_failed", **s.named(), step=step.value, error=str(error))
            return ev.StepFailed(
                at=self.world.now(),
                attempt=s.attempt,
                step=step,
                problem=problem_of(error),
                retryable=is_passing(error),
            )

    async def open_socket(self, s: Sandbox, begun: float | None) -> Event:
        """Have the relay listen. `begun`: when CreateVM arrived, in the reactor's seconds."""
        since = self._reactor.seconds() if begun is None else begun

        async def work() -> Event:
            await self._open(s)
            return ev.SocketOpened(at=self.world.now(), took_ms=self._took(since))

        return await self._step(s, Step.OPEN, work)

    async def _open(self, s: Sandbox) -> None:
        secrets = await self._journal.secrets(s.id)
        path = await self.world.relay.open(s.id, self.world.keys.relay_keys(secrets.keys))
        if path != s.agent_socket:
            raise LinkError(
                f"the relay opened {path}, the adaptor promised {s.agent_socket}",
                kind=LinkFailure.CLOSED,
                sandbox=s.id,
                remedy="give both the same --pods-dir",
            )

    async def launch(self, s: Sandbox) -> Event:
        """Create the instance under the attempt's token, once the cluster has been told of it."""
        since = self._reactor.seconds()

        async def work() -> Event:
            secrets = await self._journal.secrets(s.id)
            request = CreateRequest(
                token=s.token,
                name=s.server_name[: self.world.provider.capabilities().name_limit],
                spec=s.spec,
                user_data=self.world.user_data.compose(s, secrets),
                tags=self._tags(s),
            )
            await self.world.cluster.announce(s)
            instance = await self.cloud("create", self.world.provider.create(request))
            return ev.Launched(at=self.world.now(), attempt=s.attempt, instance=instance, took_ms=self._took(since))

        return await self._step(s, Step.LAUNCH, work)

    def _tags(self, s: Sandbox) -> dict[str, str]:
        return {
            **self.world.place.tags(),
            TAG_TOKEN: s.token,
            TAG_SANDBOX: s.id,
            TAG_POD: s.pod,
            TAG_NAMESPACE: s.namespace,
        }

    async def await_address(self, s: Sandbox) -> Event:
        """Wait for the address; the start's deadline is the bound."""
        since = self._reactor.seconds()

        async def work() -> Event:
            assert s.instance is not None
            instance = await self.cloud("wait_address", self.world.provider.wait_address(s.instance.id))
            return ev.AddressKnown(at=self.world.now(), attempt=s.attempt, instance=instance, took_ms=self._took(since))

        return await self._step(s, Step.ADDRESS, work)

    async def set_up_tunnel(self, s: Sandbox) -> Event:
        """Make the worker's end of the tunnel."""
        since = self._reactor.seconds()

        async def work() -> Event:
            tunnel = self.world.network.tunnel(s)
            assert tunnel is not None
            await self.world.network.set_up(tunnel)
            return ev.TunnelUp(at=self.world.now(), attempt=s.attempt, took_ms=self._took(since))

        return await self._step(s, Step.TUNNEL, work)

    async def make_link(self, s: Sandbox, deadline: float) -> Event:
        """Link until `deadline` (the reactor's seconds); a relay that restarts meanwhile gets the sandbox again."""
        since = self._reactor.seconds()

        async def work() -> Event:
            assert s.instance is not None
            assert s.instance.agent_host is not None
            forgotten = False
            while True:
                left = deadline - self._reactor.seconds()
                try:
                    if forgotten:
                        await self._open(s)
                    bound = max(left - LINK_WORDS, 0.1)
                    await self.world.relay.link(s.id, s.instance.agent_host, s.instance.agent_port, bound)
                    break
                except (RelayAway, RelayForgot):
                    forgotten = True
                    if left <= RELINK_PAUSE:
                        raise
                await deferLater(self._reactor, RELINK_PAUSE)
            return ev.LinkUp(at=self.world.now(), attempt=s.attempt, took_ms=self._took(since))

        return await self._step(s, Step.LINK, work)

    async def read_console(self, s: Sandbox) -> Event:
        """The last lines of the console, or none."""
        lines: tuple[str, ...] = ()
        if s.instance is not None and self.world.provider.capabilities().console:
            try:
                call = self.cloud("console", self.world.provider.console(s.instance.id))
                data = await self.bounded(call, CONSOLE_TIMEOUT, "reading the console")
                lines = console.tail(data)
            except CancelledError:
                raise
            except Exception as error:
                log.warning("console_unreadable", **s.named(), error=str(error))
        return ev.ConsoleRead(at=self.world.now(), lines=lines)

    async def close_agent(self, s: Sandbox) -> None:
        """Close the agent socket now, if the relay answers; clean-up does it again."""
        try:
            await self.world.relay.close(s.id)
        except LinkError as error:
            log.debug("agent_not_closed", **s.named(), error=str(error))

    async def instances_of(self, sandbox: SandboxId, *, token: str = "") -> dict[str, Instance]:
        """Every instance of a sandbox that the cloud shows, by tag and by token; never anybody else's."""
        provider = self.world.provider
        wanted = {**self.world.place.tags(), TAG_SANDBOX: sandbox}
        found = {
            instance.id: instance
            for instance in await self.bounded(self.cloud("list", provider.list(wanted)), LOOK_TIMEOUT, "list")
            if wanted.items() <= dict(instance.tags).items()
        }
        if token:
            one = await self.bounded(self.cloud("find", provider.find(token)), LOOK_TIMEOUT, "find")
            if one is not None:
                found[one.id] = one
        return found

    async def delete(self, s: Sandbox) -> Event:
        """Delete all instances of the sandbox; ends in gone only when the cloud says so of each."""
        try:
            known = [s.instance.id] if s.instance is not None else []
            found = await self.instances_of(s.id, token=s.token)
            for identity in dict.fromkeys([*known, *found]):
                call = self.cloud("delete", self.world.provider.delete(identity))
                await self.bounded(call, DELETE_TIMEOUT, f"deleting instance {identity}")
                log.info("instance_deleted", **{**s.named(), "instance": identity})
        except CancelledError:
            raise
        except Exception as error:
            log.warning("delete_failed", **s.named(), error=str(error))
            return ev.DeleteFailed(at=self.world.now(), problem=problem_of(error))
        return ev.CloudGone(at=self.world.now())

    async def delete_strays(self, sandbox: SandboxId) -> None:
        """Delete what carries the tag of a sandbox that nobody knows as alive. Errors wait for the next sweep."""
        try:
            for identity in await self.instances_of(sandbox):
                await self.delete_stray(identity, sandbox)
        except CancelledError:
            raise
        except Exception as error:
            log.warning("stray_not_deleted", sandbox=sandbox, error=str(error))

    async def delete_stray(self, identity: str, sandbox: str) -> None:
        """Delete one instance that no record explains; CloudError when it cannot be."""
        log.warning("stray_instance", sandbox=sandbox, instance=identity, note="no record explains it; deleting it")
        call = self.cloud("delete", self.world.provider.delete(identity))
        await self.bounded(call, DELETE_TIMEOUT, f"deleting instance {identity}")

    async def clean_up(self, s: Sandbox) -> Event:
        """Remove tunnel, agent socket and folder."""

        async def work() -> None:
            try:
                tunnel = self.world.network.tunnel(s) if s.tunnelled else None
            except Refused:
                tunnel = None  # what cannot be planned was never made; the rest must still go
            if tunnel is not None:
                await self.world.network.tear_down(tunnel)
            await self.world.relay.close(s.id)
            self.world.folders.remove(s.id)

        try:
            await self.bounded(work(), CLEAN_TIMEOUT, "clean-up")
        except CancelledError:
            raise
        except Exception as error:
            log.warning("clean_up_failed", **s.named(), error=str(error))
            return ev.CleanUpFailed(at=self.world.now(), problem=problem_of(error))
        return ev.CleanedUp(at=self.world.now())

    def pause(self, seconds: float) -> Deferred[None]:
        """Wait; not at all for 0. Cancellable."""
        return deferLater(self._reactor, seconds) if seconds > 0 else succeed(None)
