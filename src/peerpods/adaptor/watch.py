"""Signs from outside that a sandbox has ended: the relay's reports, vanished namespaces, the cloud's events, sweeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from peerpods.adaptor.calls import Calls
from peerpods.adaptor.events import Cause
from peerpods.adaptor.executor import Executor, World
from peerpods.adaptor.ports import Host, LinkFacts
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import LIVE, Sandbox
from peerpods.adaptor.shims import ShimTracker, is_gone
from peerpods.adaptor.sweep import missing_instances, stray_instances
from peerpods.aio import spawn
from peerpods.clouds.interface import TAG_SANDBOX, InstanceEvent
from peerpods.errors import CloudError, CloudFailure, LinkError
from peerpods.model import InstanceState, Phase, SandboxId
from peerpods.obs.log import get_logger
from peerpods.protocols import relay_pb2 as pb

log = get_logger("adaptor")
NETNS_PERIOD = 2.0  # seconds between the looks at the pods' namespaces
SWEEP_PERIOD = 60.0  # seconds between two comparisons of the cloud's list with the journal
_ENDS = frozenset({InstanceState.STOPPED, InstanceState.DELETING, InstanceState.GONE})


class Watch:
    """Turns signs into life cycle events. `relay` is set before `start`."""

    def __init__(self, reactor: IReactorTime, world: World, runner: Runner, calls: Calls, executor: Executor) -> None:
        self._reactor = reactor
        self._world = world
        self._runner = runner
        self._calls = calls
        self._executor = executor
        self._shims = ShimTracker()
        self._timer: IDelayedCall | None = None
        self._known_before: dict[SandboxId, Phase] = {}
        self._unwatch: Callable[[], None] | None = None
        self._loops: list[LoopingCall] = []

    def start(self) -> None:
        """Begin to look."""
        self._unwatch = self._world.provider.watch(self.on_instance)
        for function, period in ((self.look_at_namespaces, NETNS_PERIOD), (self._swept, SWEEP_PERIOD)):
            loop = LoopingCall(function)
            loop.clock = self._reactor
            loop.start(period).addErrback(self._died)
            self._loops.append(loop)

    def stop(self) -> None:
        """Look no more."""
        if self._unwatch is not None:
            self._unwatch()
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # The relay

    def before_sync(self) -> None:
        """Remember what was known before the relay is asked: younger sandboxes cannot be missing from its answer."""
        self._known_before = {s.id: s.phase for s in self._runner.living() if s.opened}

    def on_sync(self, facts: list[LinkFacts]) -> None:
        """Compare the relay's list with the journal."""
        has = {one.sandbox: one for one in facts}
        for sandbox, phase in self._known_before.items():
            record = self._runner.sandboxes.get(sandbox)
            if record is None or record.phase is not phase or phase not in LIVE:
                continue
            one = has.get(sandbox)
            if one is None:
                self._calls.end(sandbox, Cause.RELAY_LOST)
            elif phase is Phase.RUNNING and not one.up:
                self._calls.end(sandbox, Cause.LINK_LOST, "while nobody watched")
        now = self._reactor.seconds()
        for one in facts:
            self._shims.baseline(one, now)
            record = self._runner.sandboxes.get(one.sandbox)
            if record is None or record.phase is Phase.GONE:
                self._close_stray(one.sandbox)
        self._arm()

    def _close_stray(self, sandbox: SandboxId) -> None:
        log.warning("stray_socket", sandbox=sandbox)
        spawn(self._world.relay.close(sandbox)).addErrback(self._died)

    def on_report(self, event: pb.WatchEvent) -> None:
        """One report of the relay."""
        sandbox, now, kind = SandboxId(event.sandbox), self._reactor.seconds(), event.kind
        if kind == pb.WatchEvent.LINK_DOWN:
            self._calls.end(sandbox, Cause.LINK_LOST, event.message)
        elif kind == pb.WatchEvent.SHIM_CONNECTED:
            self._shims.opened(sandbox, now)
        elif kind == pb.WatchEvent.SHIM_ACTIVE:
            self._shims.forget(sandbox)
        elif kind == pb.WatchEvent.SHIM_GONE:
            self._shims.gone(sandbox, event.active, event.by_relay, now)
        self._arm()

    def _arm(self) -> None:
        due = self._shims.next_due()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if due is not None:
            self._timer = self._reactor.callLater(max(0.0, due - self._reactor.seconds()), self._shims_gone)

    def _shims_gone(self) -> None:
        due = []
        for sandbox in self._shims.expired(self._reactor.seconds()):
            record = self._runner.sandboxes.get(sandbox)
            if record is not None and record.phase in LIVE:
                due.append(sandbox)
        if due:
            spawn(self._confirm_gone(due)).addErrback(self._died)
        self._arm()

    async def _confirm_gone(self, due: list[SandboxId]) -> None:
        try:
            facts = {one.sandbox: one for one in await self._world.relay.facts()}
        except LinkError as error:
            # A new connection to the relay begins with a listing, which says it again.
            log.debug("shims_not_confirmed", error=str(error))
            return
        for sandbox in due:
            one = facts.get(sandbox)
            if one is not None and is_gone(one):
                self._calls.end(sandbox, Cause.SHIM_GONE)

    def forget(self, after: Sandbox) -> None:
        """A sandbox has ended."""
        self._shims.forget(after.id)

    # The node

    def look_at_namespaces(self) -> None:
        """End sandboxes whose network namespace has gone."""
        for record in self._runner.living():
            if record.phase in LIVE and not self._world.network.exists(record.netns):
                self._calls.end(record.id, Cause.NETNS_GONE, record.netns)

    # The cloud

    def on_instance(self, event: InstanceEvent) -> None:
        """The cloud reports an instance."""
        if event.instance.state not in _ENDS:
            return
        sandbox = SandboxId(dict(event.instance.tags).get(TAG_SANDBOX, ""))
        record = self._runner.sandboxes.get(sandbox)
        if record is None or record.instance is None or record.instance.id != event.instance.id:
            return
        self._calls.end(sandbox, Cause.INSTANCE_GONE, event.reason)

    def _swept(self) -> Deferred[None]:
        return spawn(self.sweep())

    async def sweep(self) -> None:
        """Compare the cloud's list with the journal: delete strays, end sandboxes without their instance."""
        provider, tags = self._world.provider, self._world.place.tags()
        before = {s.id: s for s in self._runner.living()}
        try:
            listed = await self._executor.bounded(self._executor.cloud("list", provider.list(tags)), 60.0, "list")
            current = {s.id: s for s in self._runner.living()}
            for instance in stray_instances(listed, current, tags):
                await self._executor.delete_stray(instance.id, dict(instance.tags)[TAG_SANDBOX])
            for record, instance_id in missing_instances(listed, before, current):
                await self._check_missing(record, instance_id)
        except Exception as error:
            log.warning("sweep_failed", error=str(error))

    async def _check_missing(self, record: Sandbox, instance_id: str) -> None:
        """A list may be behind; the instance itself is asked before a pod is ended."""
        reason = "the cloud no longer knows it"
        try:
            call = self._executor.cloud("describe", self._world.provider.describe(instance_id))
            found = await self._executor.bounded(call, 60.0, "describe")
            if found.state not in _ENDS:
                return
            reason = f"the cloud says {found.state.value}"
        except CloudError as error:
            if error.kind is not CloudFailure.NOT_FOUND:
                raise
        self._calls.end(record.id, Cause.INSTANCE_GONE, reason)

    # The cluster

    def host(self) -> Host:
        """What the cluster's side may ask of this adaptor."""
        return Host(
            records=self._runner.sandboxes,
            post=self._runner.post,
            instances_of=self._executor.instances_of,
            look_at_instance=self.look_at_instance,
        )

    async def look_at_instance(self, record: Sandbox) -> None:
        """Ask the cloud for a sandbox's instance, and end the sandbox if it has gone; CloudError, DeadlineExceeded."""
        if record.instance is not None:
            await self._check_missing(record, record.instance.id)

    def _died(self, failure: Any) -> None:
        log.error("watch_died", error=failure.getTraceback())
