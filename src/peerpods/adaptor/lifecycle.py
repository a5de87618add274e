"""The life of a sandbox as a pure function: `decide(state, event) -> (state, effects)`.

    prepared -> launching -> booting -> linking -> running -> stopping -> gone
                    \\___________\\_________\\-> failed -> stopping

The shell writes the new state down (fsync) before it starts the first effect, and feeds what the effects end in back
as events. A crash is a pause: on start each record gets `Restarted`. An event that a state does not wait for (a late
answer, a repeated sign) changes nothing. Every pair is defined; a table test walks all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from peerpods.adaptor import effects as fx
from peerpods.adaptor import events as ev
from peerpods.adaptor.effects import Answer, Effect, Question
from peerpods.adaptor.events import Cause, Event, Step
from peerpods.adaptor.sandbox import LIVE, STARTING, Problem, Sandbox
from peerpods.model import Instance, Phase, TunnelKind

Decision = tuple[Sandbox | None, tuple[Effect, ...]]

LAUNCH_TRIES = 4
"""Creates with one token before a passing fault of the cloud ends the start."""
LOOK_DELAYS = (2.0, 10.0)
"""Seconds before the second and third look for an instance whose create was cut off."""
BACK_OFF_MAX = 60.0
"""Longest pause between two tries to delete, in seconds."""

CANCELLED, DEADLINE, NOT_FOUND, EXISTS, PRECONDITION, UNAVAILABLE = 1, 4, 5, 6, 9, 14


def back_off(tries: int) -> float:
    """Seconds before try number `tries` (0 is the first, at once): 1, 2, 4 ... BACK_OFF_MAX."""
    return 0.0 if tries <= 0 else min(BACK_OFF_MAX, 2.0 ** min(tries - 1, 10))


def decide(state: Sandbox | None, event: Event) -> Decision:
    """The next state and what is to be done for it.

    Args:
        state: the record, or None for an id that the journal does not have.
        event: what happened.

    Returns:
        The new record (equal to `state` when nothing changes) and the effects in order. Never raises for any pair.
    """
    if state is None:
        if isinstance(event, ev.CreateRequested) and event.draft is not None:
            return _begin(event.draft, event.at)
        return None, _without_record(event)
    return _HANDLERS[type(event)](state, event)


def _begin(draft: Sandbox, at: float) -> Decision:
    return draft.moved(Phase.PREPARED, at, "CreateVM", created_at=at), (fx.OpenSocket(),)


def _without_record(event: Event) -> tuple[Effect, ...]:
    match event:
        case ev.CreateRequested():
            return (_ending(Question.CREATE, event.call, "with this id"),)
        case ev.StartRequested():
            text = f"StartVM for sandbox {event.sandbox}, which has not been created (send CreateVM first)"
            return (Answer(question=Question.START, call=event.call, problem=Problem(code=NOT_FOUND, text=text)),)
        case ev.StopRequested():
            return (Answer(question=Question.STOP, call=event.call), fx.DeleteStrays())
        case ev.Launched():
            return (fx.DeleteStrays(),)
    return ()


def _ending(question: Question, call: int | None, sandbox: str) -> Answer:
    text = f"sandbox {sandbox} is ending or has ended; a pod needs a new sandbox id"
    return Answer(question=question, call=call, problem=Problem(code=PRECONDITION, text=text))


def _stop(s: Sandbox, at: float, reason: str, *, problem: Problem | None = None) -> Decision:
    """Enter `stopping` from any state before it: answer who waits, close the agent's socket, delete."""
    told = problem or Problem(code=CANCELLED, text=f"sandbox {s.id} was stopped: {reason}")
    after = s.moved(
        Phase.STOPPING,
        at,
        reason,
        retries=0,
        looks=0,
        uncertain=s.uncertain or s.phase is Phase.LAUNCHING,
        cloud_gone=not s.attempt,  # nothing was ever asked of the cloud
    )
    answers: tuple[Effect, ...] = ()
    if s.phase is Phase.PREPARED:
        answers = (Answer(question=Question.CREATE, problem=told),)
    elif s.phase in STARTING or s.phase is Phase.FAILED:
        answers = (Answer(question=Question.START, problem=told),)
    return after, (*answers, *_resume_stopping(after))


def _resume_stopping(s: Sandbox) -> tuple[Effect, ...]:
    return fx.CloseAgent(), fx.CleanUp() if s.cloud_gone else fx.Delete()


def _fail(s: Sandbox, at: float, problem: Problem, step: Step) -> Decision:
    """A start did not work out: look at the console of an instance there may be, else roll back at once."""
    told = Problem(code=problem.code, text=f"StartVM of sandbox {s.id} failed in phase {step.value}: {problem.text}")
    changes = {"last_error": told.text, "error_code": told.code, "uncertain": s.phase is Phase.LAUNCHING}
    failed = s.moved(Phase.FAILED, at, told.text, **changes)
    if s.instance is None:
        return _stop(failed, at, "rolled back", problem=told)
    return failed, (fx.ReadConsole(),)


def _create_requested(s: Sandbox, e: ev.CreateRequested) -> Decision:
    if s.phase is Phase.GONE:
        if e.draft is None:
            return s, (_ending(Question.CREATE, e.call, s.id),)
        # The count goes on, so that no token is used twice.
        return _begin(attrs.evolve(e.draft, attempt=s.attempt), e.at)
    if e.digest != s.digest:
        text = f"sandbox {s.id} exists with other facts (another pod, namespace, size or network namespace)"
        return s, (Answer(question=Question.CREATE, call=e.call, problem=Problem(code=EXISTS, text=text)),)
    if s.phase not in LIVE:
        return s, (_ending(Question.CREATE, e.call, s.id),)
    return s, (Answer(question=Question.CREATE, call=e.call),) if s.opened else ()


def _start_requested(s: Sandbox, e: ev.StartRequested) -> Decision:
    if s.phase is Phase.PREPARED and s.opened:
        after = s.moved(Phase.LAUNCHING, e.at, "StartVM", attempt=s.attempt + 1, launch_tries=0)
        return after, (fx.SetDeadline(e.budget), fx.Launch())
    if s.phase in STARTING:
        return s, ()
    if s.phase is Phase.RUNNING:
        return s, (Answer(question=Question.START, call=e.call),)
    if s.phase is Phase.PREPARED:
        text = f"sandbox {s.id} is still being created (wait for CreateVM's answer)"
        return s, (Answer(question=Question.START, call=e.call, problem=Problem(code=PRECONDITION, text=text)),)
    if s.phase is Phase.FAILED and not s.console_read:
        return s, ()
    return s, (_ending(Question.START, e.call, s.id),)


def _stop_requested(s: Sandbox, e: ev.StopRequested) -> Decision:
    answer = Answer(question=Question.STOP, call=e.call)
    if s.phase is Phase.FAILED:
        # The shim sends StopVM right after a failed StartVM: a VM that is kept for a look outlives it.
        return s, (answer,)
    if s.phase not in LIVE:
        return s, (answer,)
    after, effects = _stop(s, e.at, "StopVM")
    return after, (answer, *effects)


def _socket_opened(s: Sandbox, e: ev.SocketOpened) -> Decision:
    if s.phase not in LIVE:
        return s, ()
    answer = Answer(question=Question.CREATE)
    if s.opened:
        return s, (answer,)
    return attrs.evolve(s.timed("create_vm", e.took_ms), opened=True), (answer,)


def _launched(s: Sandbox, e: ev.Launched) -> Decision:
    if s.phase is Phase.GONE:
        return s, (fx.DeleteStrays(),)
    if s.phase is Phase.STOPPING and s.attempt == e.attempt:
        known = attrs.evolve(s, instance=e.instance, uncertain=False, cloud_gone=False)
        # A deletion that had already seen nothing must look again.
        return known, (fx.Delete(),) if s.cloud_gone else ()
    if s.phase is not Phase.LAUNCHING or s.attempt != e.attempt:
        return s, ()
    booting = s.moved(Phase.BOOTING, e.at, f"instance {e.instance.id}", instance=e.instance).timed("launch", e.took_ms)
    if e.instance.addresses:
        return _address(booting, e.at, e.instance, 0.0)
    return booting, (fx.AwaitAddress(),)


def _address_known(s: Sandbox, e: ev.AddressKnown) -> Decision:
    if s.phase is not Phase.BOOTING or s.attempt != e.attempt:
        return s, ()
    return _address(s, e.at, e.instance, e.took_ms)


def _address(s: Sandbox, at: float, instance: Instance, took_ms: float) -> Decision:
    if not instance.addresses:
        problem = Problem(code=UNAVAILABLE, text=f"the cloud gave instance {instance.id} no address")
        return _fail(attrs.evolve(s, instance=instance), at, problem, Step.ADDRESS)
    wanted = instance.tunnel is not TunnelKind.NONE
    after = s.moved(Phase.LINKING, at, f"address {instance.addresses[0]}", instance=instance, tunnelled=wanted).timed(
        "address", took_ms
    )
    return after, (fx.SetUpTunnel() if wanted else fx.MakeLink(),)


def _tunnel_up(s: Sandbox, e: ev.TunnelUp) -> Decision:
    if s.phase is not Phase.LINKING or s.attempt != e.attempt:
        return s, ()
    return s.timed("tunnel", e.took_ms), (fx.MakeLink(),)


def _link_up(s: Sandbox, e: ev.LinkUp) -> Decision:
    if s.phase is not Phase.LINKING or s.attempt != e.attempt:
        return s, ()
    after = s.moved(Phase.RUNNING, e.at, "the agent answers").timed("link", e.took_ms)
    return after, (Answer(question=Question.START),)


_WAITS_FOR = {
    Step.LAUNCH: frozenset({Phase.LAUNCHING}),
    Step.ADDRESS: frozenset({Phase.BOOTING}),
    Step.TUNNEL: frozenset({Phase.LINKING}),
    Step.LINK: frozenset({Phase.LINKING}),
}


def _step_failed(s: Sandbox, e: ev.StepFailed) -> Decision:
    if e.step is Step.OPEN:
        if s.phase is not Phase.PREPARED or s.opened:
            return s, ()
        told = Problem(code=e.problem.code, text=f"CreateVM of sandbox {s.id} failed: {e.problem.text}")
        return _stop(attrs.evolve(s, last_error=told.text, error_code=told.code), e.at, told.text, problem=told)
    if s.phase not in _WAITS_FOR[e.step] or s.attempt != e.attempt:
        return s, ()
    if e.step is Step.LAUNCH and e.retryable and s.launch_tries + 1 < LAUNCH_TRIES:
        tries = s.launch_tries + 1
        again = attrs.evolve(s, launch_tries=tries, last_error=e.problem.text, error_code=e.problem.code)
        return again, (fx.Launch(back_off(tries)),)
    return _fail(s, e.at, e.problem, e.step)


_STEP_OF = {Phase.LAUNCHING: Step.LAUNCH, Phase.BOOTING: Step.ADDRESS, Phase.LINKING: Step.LINK}


def _deadline_passed(s: Sandbox, e: ev.DeadlinePassed) -> Decision:
    if s.phase not in STARTING or s.attempt != e.attempt:
        return s, ()
    waited = e.at - s.history[-1].at if s.history else 0.0
    text = f"no end within the time StartVM has (in this phase for {waited:.0f} s)"
    if s.phase is Phase.LAUNCHING and s.last_error:
        text += f"; the cloud's last words: {s.last_error}"
    return _fail(s, e.at, Problem(code=DEADLINE, text=text), _STEP_OF[s.phase])


def _ended(s: Sandbox, e: ev.Ended) -> Decision:
    reason = f"{e.cause.value}: {e.detail}" if e.detail else e.cause.value
    if e.cause is Cause.INSTANCE_GONE:
        if s.phase in (Phase.BOOTING, Phase.LINKING):
            return _fail(s, e.at, Problem(code=UNAVAILABLE, text=reason), _STEP_OF[s.phase])
        if s.phase in (Phase.RUNNING, Phase.FAILED):
            return _stop(_blamed(s, reason), e.at, reason)
        return s, ()
    if s.phase not in LIVE:
        return s, ()
    if e.cause is Cause.LINK_LOST:
        return _stop(_blamed(s, reason), e.at, reason) if s.phase is Phase.RUNNING else (s, ())
    if e.cause is Cause.RELAY_LOST and s.phase is not Phase.RUNNING:
        # Nobody has dialled yet: a new relay opens the socket again. Linking opens it by itself.
        return s, (fx.OpenSocket(),) if s.phase is not Phase.LINKING else ()
    return _stop(_blamed(s, reason) if e.cause is Cause.RELAY_LOST else s, e.at, reason)


def _blamed(s: Sandbox, reason: str) -> Sandbox:
    return attrs.evolve(s, last_error=f"sandbox {s.id}: {reason}", error_code=UNAVAILABLE)


def _pod_known(s: Sandbox, e: ev.PodKnown) -> Decision:
    if s.pod_uid or s.phase is Phase.GONE:
        return s, ()
    return attrs.evolve(s, pod_uid=e.uid), ()


def _console_read(s: Sandbox, e: ev.ConsoleRead) -> Decision:
    if s.phase is not Phase.FAILED or s.console_read:
        return s, ()
    text = s.last_error
    if e.lines:
        text = "\n".join((f"{text}; last lines of the console:", *e.lines))
    told = attrs.evolve(s, last_error=text, console_read=True)
    problem = Problem(code=told.error_code, text=text)
    if s.keep_failed <= 0:
        return _stop(told, e.at, "rolled back", problem=problem)
    return told, (
        Answer(question=Question.START, problem=problem),
        fx.CloseAgent(),
        fx.Keep(s.changed_at + s.keep_failed),
    )


def _keep_expired(s: Sandbox, e: ev.KeepExpired) -> Decision:
    if s.phase is not Phase.FAILED:
        return s, ()
    return _stop(s, e.at, "kept long enough")


def _cloud_gone(s: Sandbox, e: ev.CloudGone) -> Decision:
    if s.phase is not Phase.STOPPING:
        return s, ()
    if s.uncertain and s.looks < len(LOOK_DELAYS):
        return attrs.evolve(s, looks=s.looks + 1), (fx.Delete(LOOK_DELAYS[s.looks]),)
    return attrs.evolve(s, cloud_gone=True, retries=0, trouble=""), (fx.CleanUp(),)


def _delete_failed(s: Sandbox, e: ev.DeleteFailed) -> Decision:
    if s.phase is not Phase.STOPPING:
        return s, ()
    text = f"deletion is being tried again: {e.problem.text}"
    return attrs.evolve(s, trouble=text, retries=s.retries + 1), (fx.Delete(back_off(s.retries + 1)),)


def _cleaned_up(s: Sandbox, e: ev.CleanedUp) -> Decision:
    if s.phase is not Phase.STOPPING or not s.cloud_gone:
        return s, ()
    return s.moved(Phase.GONE, e.at, "nothing is left", tunnelled=False, vni=0, trouble=""), ()


def _clean_up_failed(s: Sandbox, e: ev.CleanUpFailed) -> Decision:
    if s.phase is not Phase.STOPPING or not s.cloud_gone:
        return s, ()
    text = f"clean-up is being tried again: {e.problem.text}"
    return attrs.evolve(s, trouble=text, retries=s.retries + 1), (fx.CleanUp(back_off(s.retries + 1)),)


def _restarted(s: Sandbox, e: ev.Restarted) -> Decision:
    match s.phase:
        case Phase.PREPARED if s.opened:
            return s, (fx.OpenSocket(),)
        case Phase.PREPARED:
            return _stop(s, e.at, "the adaptor restarted before CreateVM was answered")
        case Phase.LAUNCHING | Phase.BOOTING | Phase.LINKING:
            return _stop(s, e.at, "the adaptor restarted while StartVM was in flight")
        case Phase.FAILED if not s.console_read:
            return s, (fx.ReadConsole(),)
        case Phase.FAILED:
            return s, (fx.CloseAgent(), fx.Keep(s.changed_at + s.keep_failed))
        case Phase.STOPPING:
            return s, _resume_stopping(s)
    return s, ()


_HANDLERS: dict[type[Event], Callable[[Sandbox, Any], Decision]] = {
    ev.CreateRequested: _create_requested,
    ev.StartRequested: _start_requested,
    ev.StopRequested: _stop_requested,
    ev.SocketOpened: _socket_opened,
    ev.Launched: _launched,
    ev.AddressKnown: _address_known,
    ev.TunnelUp: _tunnel_up,
    ev.LinkUp: _link_up,
    ev.StepFailed: _step_failed,
    ev.DeadlinePassed: _deadline_passed,
    ev.Ended: _ended,
    ev.PodKnown: _pod_known,
    ev.ConsoleRead: _console_read,
    ev.KeepExpired: _keep_expired,
    ev.CloudGone: _cloud_gone,
    ev.DeleteFailed: _delete_failed,
    ev.CleanedUp: _cleaned_up,
    ev.CleanUpFailed: _clean_up_failed,
    ev.Restarted: _restarted,
}
"""One function an event; each looks at the phase itself."""
