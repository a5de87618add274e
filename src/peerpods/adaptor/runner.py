"""The shell around `decide`: one queue of events a sandbox; write the new state down, then start its effects.

For each sandbox events are taken one at a time. A state that differs in what must survive is in the journal before
it is used; when it cannot be written, a request is refused and nothing has changed, and a fact is tried again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from peerpods.adaptor import effects as fx
from peerpods.adaptor import events as ev
from peerpods.adaptor.effects import Answer, Effect, Question
from peerpods.adaptor.events import Event
from peerpods.adaptor.executor import Executor
from peerpods.adaptor.journal import GONE_KEPT, Journal
from peerpods.adaptor.lifecycle import back_off, decide
from peerpods.adaptor.problems import CallFailed
from peerpods.adaptor.sandbox import Sandbox
from peerpods.aio import spawn
from peerpods.errors import LocalFailure
from peerpods.model import Phase, SandboxId
from peerpods.obs.log import get_logger

log = get_logger("adaptor")

LAUNCH_GRACE = 10.0
"""Seconds that a deletion waits for a create in flight, whose answer names what is to be deleted."""
WRITE_PAUSE_MAX = 30.0
"""Longest pause, in seconds, before a fact that could not be written down is tried again."""
QUEUE_MAX = 1000
"""Events that may wait for one sandbox; more is a fault of ours."""
_REQUESTS = (ev.CreateRequested, ev.StartRequested, ev.StopRequested)
_ENDED = frozenset({Phase.FAILED, Phase.STOPPING, Phase.GONE})


def _leaving(record: Sandbox) -> bool:
    return record.phase is Phase.STOPPING or (record.phase is Phase.FAILED and not record.console_read)


@attrs.define(eq=False)
class _Waiter:
    sandbox: SandboxId
    question: Question
    answer: Deferred[None]


@attrs.define(eq=False)
class _Actor:
    """What runs for one sandbox."""

    queue: deque[Event] = attrs.field(factory=deque)
    pumping: bool = False
    blocked: LocalFailure | None = None
    """The journal's error while an event waits to be written down."""
    tasks: dict[str, Deferred[Any]] = attrs.field(factory=dict)
    deadline: float = 0.0
    """When the start under way must have ended, in the reactor's seconds."""
    begun: float | None = None
    """When CreateVM arrived."""
    launching: bool = False
    """The provider has been called for the launch under way."""


class Runner:
    """All sandboxes of a node.

    Args:
        on_change: told of each sandbox that reached another phase: (before, after).
    """

    def __init__(
        self,
        reactor: IReactorTime,
        journal: Journal,
        executor: Executor,
        *,
        on_change: Callable[[Sandbox | None, Sandbox], None] = lambda _before, _after: None,
    ) -> None:
        self.sandboxes: dict[SandboxId, Sandbox] = {}
        self._reactor = reactor
        self._journal = journal
        self._executor = executor
        self._on_change = on_change
        self._actors: dict[SandboxId, _Actor] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._calls = itertools.count(1)
        self._idle: list[Deferred[None]] = []
        self._stopped = False

    def load(self, records: Iterable[Sandbox]) -> None:
        """Take the journal's records over and replay them: the only recovery there is."""
        for record in records:
            self.sandboxes[record.id] = record
        for record in list(self.sandboxes.values()):
            self._on_change(None, record)
            self._executor.world.cluster.changed(None, record)
            if record.phase is not Phase.GONE:
                self.post(record.id, ev.Restarted(at=self._executor.world.now()))

    def living(self) -> list[Sandbox]:
        """All records but those of ended sandboxes."""
        return [record for record in self.sandboxes.values() if record.phase is not Phase.GONE]

    def ask(
        self,
        sandbox: SandboxId,
        question: Question,
        event: Callable[[int], Event],
        *,
        begun: float | None = None,
    ) -> Deferred[None]:
        """Post a request and wait for its answer.

        Fails with CallFailed (the life cycle's answer) or LocalFailure (it cannot be written down). Cancelling only
        stops the wait.
        """
        call = next(self._calls)
        answer: Deferred[None] = Deferred(lambda _: self._drop(call))
        self._waiters[call] = _Waiter(sandbox, question, answer)
        actor = self._actor(sandbox)
        if question is Question.CREATE:
            actor.begun = begun
        self.post(sandbox, event(call))
        return answer

    def _drop(self, call: int) -> None:
        self._waiters.pop(call, None)

    def waiting(self, sandbox: SandboxId, question: Question) -> int:
        """How many calls wait for this answer."""
        return sum(1 for w in self._waiters.values() if w.sandbox == sandbox and w.question is question)

    def post(self, sandbox: SandboxId, event: Event) -> None:
        """Something happened. Returns at once."""
        if self._stopped:
            return
        actor = self._actor(sandbox)
        if actor.blocked is not None and isinstance(event, _REQUESTS):
            self._refuse(event, actor.blocked)
            if not isinstance(event, ev.StopRequested):
                return
        if len(actor.queue) >= QUEUE_MAX:
            log.error("event_dropped", **self._named(sandbox), kind=type(event).__name__)
            return
        actor.queue.append(event)
        if not actor.pumping:
            actor.pumping = True
            spawn(self._pump(sandbox, actor)).addErrback(self._pump_died, sandbox)

    def when_settled(self) -> Deferred[None]:
        """Fires when no sandbox is on its way out; a failed VM that is kept for a look does not count."""
        done: Deferred[None] = Deferred()
        self._idle.append(done)
        self._check_idle()
        return done

    def stop(self) -> None:
        """Stop everything that runs here; the journal says how to go on. Waiting calls fail."""
        self._stopped = True
        for actor in self._actors.values():
            actor.queue.clear()
            for task in list(actor.tasks.values()):
                task.cancel()
        for waiter in list(self._waiters.values()):
            waiter.answer.cancel()

    def _named(self, sandbox: SandboxId) -> dict[str, str]:
        record = self.sandboxes.get(sandbox)
        return record.named() if record is not None else {"sandbox": sandbox}

    def _actor(self, sandbox: SandboxId) -> _Actor:
        return self._actors.setdefault(sandbox, _Actor())

    async def _pump(self, sandbox: SandboxId, actor: _Actor) -> None:
        tries = 0
        while actor.queue and not self._stopped:
            event = actor.queue[0]
            before = self.sandboxes.get(sandbox)
            after, effects = decide(before, event)
            if after is not None and (before is None or after.durable() != before.durable()):
                try:
                    secrets = event.secrets if isinstance(event, ev.CreateRequested) else None
                    await self._journal.write(after, secrets)
                except LocalFailure as error:
                    log.warning("journal_failed", **self._named(sandbox), error=str(error))
                    self._refuse(event, error)
                    if isinstance(event, (ev.CreateRequested, ev.StartRequested)):
                        actor.queue.popleft()
                        continue
                    actor.blocked = error
                    tries += 1
                    await self._executor.pause(min(back_off(tries), WRITE_PAUSE_MAX))
                    continue
            if self._stopped:
                return
            actor.blocked, tries = None, 0
            actor.queue.popleft()
            self._apply(sandbox, actor, before, after, effects)
        actor.pumping = False
        if not actor.tasks and not actor.queue:
            self._forget(sandbox)

    def _apply(
        self,
        sandbox: SandboxId,
        actor: _Actor,
        before: Sandbox | None,
        after: Sandbox | None,
        effects: tuple[Effect, ...],
    ) -> None:
        if after is not None:
            self.sandboxes[sandbox] = after
            if after != before:
                self._executor.world.cluster.changed(before, after)
            if before is None or before.phase is not after.phase:
                self._changed(actor, before, after)
        for effect in effects:
            self._start(sandbox, actor, effect)
        self._check_idle()

    def _changed(self, actor: _Actor, before: Sandbox | None, after: Sandbox) -> None:
        if after.phase in _ENDED:
            self._cancel(actor, "OpenSocket", "AwaitAddress", "SetUpTunnel", "MakeLink", "SetDeadline")
            if not actor.launching:
                self._cancel(actor, "Launch")
            if after.phase is not Phase.FAILED:
                self._cancel(actor, "Keep")
        elif after.phase is Phase.RUNNING:
            self._cancel(actor, "SetDeadline")
        entry = after.history[-1]
        log.info(
            "sandbox_state",
            **after.named(),
            state=after.phase.value,
            reason=entry.reason,
        )
        self._on_change(before, after)

    def _cancel(self, actor: _Actor, *names: str) -> None:
        for name in names:
            task = actor.tasks.pop(name, None)
            if task is not None:
                task.cancel()

    def _forget(self, sandbox: SandboxId) -> None:
        record = self.sandboxes.get(sandbox)
        if record is None or record.phase is Phase.GONE:
            self._actors.pop(sandbox, None)
        gone = [record for record in self.sandboxes.values() if record.phase is Phase.GONE]
        for old in sorted(gone, key=lambda r: r.changed_at)[: max(0, len(gone) - GONE_KEPT)]:
            self.sandboxes.pop(old.id, None)

    # Answers

    def _refuse(self, event: Event, error: LocalFailure) -> None:
        if isinstance(event, _REQUESTS):
            self._settle(event.call, error)

    def _settle(self, call: int, error: BaseException | None) -> None:
        waiter = self._waiters.pop(call, None)
        if waiter is None:
            return
        if error is None:
            waiter.answer.callback(None)
        else:
            waiter.answer.errback(error)

    def _answer(self, sandbox: SandboxId, effect: Answer) -> None:
        if effect.call is not None:
            calls = [effect.call]
        else:
            calls = [
                call
                for call, waiter in self._waiters.items()
                if waiter.sandbox == sandbox and waiter.question is effect.question
            ]
        for call in calls:
            self._settle(call, CallFailed(effect.problem, sandbox=sandbox) if effect.problem else None)

    # Effects

    def _start(self, sandbox: SandboxId, actor: _Actor, effect: Effect) -> None:
        if isinstance(effect, Answer):
            self._answer(sandbox, effect)
            return
        name = type(effect).__name__
        if isinstance(effect, fx.SetDeadline):
            actor.deadline = self._reactor.seconds() + effect.seconds
        self._cancel(actor, name)
        task = spawn(self._run(sandbox, actor, effect))
        actor.tasks[name] = task

        def ended(result: Any) -> Any:
            if actor.tasks.get(name) is task:
                del actor.tasks[name]
            if isinstance(result, Event):
                self.post(sandbox, result)
            elif not actor.tasks and not actor.pumping:
                self._forget(sandbox)
            return result

        task.addBoth(ended).addErrback(self._task_died, sandbox, name)

    async def _run(self, sandbox: SandboxId, actor: _Actor, effect: Effect) -> Event | None:
        if isinstance(effect, fx.DeleteStrays):
            await self._executor.delete_strays(sandbox)
            return None
        record = self.sandboxes.get(sandbox)
        assert record is not None
        return await self._perform(record, actor, effect)

    async def _perform(self, s: Sandbox, actor: _Actor, effect: Effect) -> Event | None:
        do = self._executor
        match effect:
            case fx.OpenSocket():
                return await do.open_socket(s, actor.begun)
            case fx.Launch():
                await do.pause(effect.delay)
                actor.launching = True
                try:
                    return await do.launch(s)
                finally:
                    actor.launching = False
            case fx.AwaitAddress():
                return await do.await_address(s)
            case fx.SetUpTunnel():
                return await do.set_up_tunnel(s)
            case fx.MakeLink():
                return await do.make_link(s, actor.deadline)
            case fx.SetDeadline():
                await do.pause(effect.seconds)
                return ev.DeadlinePassed(at=do.world.now(), attempt=s.attempt)
            case fx.ReadConsole():
                return await do.read_console(s)
            case fx.CloseAgent():
                await do.close_agent(s)
            case fx.Keep():
                await do.pause(max(0.0, effect.until - do.world.now()))
                return ev.KeepExpired(at=do.world.now())
            case fx.Delete():
                await do.pause(effect.delay)
                await self._launch_ended(actor)
                # The record as it is now: the create that was waited for may have named its instance.
                return await do.delete(self.sandboxes.get(s.id, s))
            case fx.CleanUp():
                await do.pause(effect.delay)
                return await do.clean_up(self.sandboxes.get(s.id, s))
        return None

    async def _launch_ended(self, actor: _Actor) -> None:
        """Wait a bounded time for a create in flight, then give it up; the cloud is asked for what it made."""
        task = actor.tasks.get("Launch")
        if task is None:
            return
        ended: Deferred[None] = Deferred()

        def tell(result: Any) -> Any:
            if not ended.called:
                ended.callback(None)
            return result

        task.addBoth(tell)
        give_up = self._reactor.callLater(LAUNCH_GRACE, task.cancel)
        try:
            await ended
        finally:
            if give_up.active():
                give_up.cancel()

    # Ends

    def _check_idle(self) -> None:
        if self._idle and not any(map(_leaving, self.sandboxes.values())):
            idle, self._idle = self._idle, []
            for done in idle:
                if not done.called:
                    done.callback(None)

    def _task_died(self, failure: Failure, sandbox: SandboxId, name: str) -> None:
        if not isinstance(failure.value, CancelledError):
            log.error("effect_died", **self._named(sandbox), effect=name, error=failure.getTraceback())

    def _pump_died(self, failure: Failure, sandbox: SandboxId) -> None:
        actor = self._actor(sandbox)
        actor.pumping = False
        if isinstance(failure.value, CancelledError):
            return
        log.error("sandbox_died", **self._named(sandbox), error=failure.getTraceback())
        if actor.queue:
            # The event that cannot be handled must not block those behind it.
            actor.queue.popleft()
        if actor.queue:
            actor.pumping = True
            spawn(self._pump(sandbox, actor)).addErrback(self._pump_died, sandbox)
