"""The life of a sandbox, without a reactor: every (state, event) pair, and random histories."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.adaptor import effects as fx
from peerpods.adaptor import events as ev
from peerpods.adaptor.effects import Answer, Question
from peerpods.adaptor.events import Cause, Step
from peerpods.adaptor.lifecycle import LAUNCH_TRIES, LOOK_DELAYS, back_off, decide
from peerpods.adaptor.sandbox import HISTORY_MAX, LIVE, STARTING, Problem, Sandbox
from peerpods.model import Instance, Phase, SandboxId, TunnelKind

VM = Instance(id="i-1", name="podvm-web-abcd", addresses=("192.0.2.7",))
BARE = attrs.evolve(VM, addresses=())
BAD = Problem(code=8, text="no capacity in zone a")


def draft(**changes) -> Sandbox:
    facts = {
        "id": SandboxId("abcd1234"),
        "digest": "d",
        "pod": "web",
        "namespace": "lab",
        "netns": "/run/netns/x",
        "agent_socket": "/run/peerpod/pods/abcd1234/agent.ttrpc",
        "server_name": "podvm-web-abcd1234",
    }
    return Sandbox(**{**facts, **changes})


def at(phase: Phase, **changes) -> Sandbox:
    """A sandbox in a phase, with what it then has."""
    facts: dict = {"phase": phase, "opened": True}
    if phase is not Phase.PREPARED:
        facts["attempt"] = 1
    if phase in (Phase.BOOTING, Phase.LINKING, Phase.RUNNING, Phase.FAILED):
        facts["instance"] = VM
    if phase is Phase.FAILED:
        facts |= {"last_error": "why", "error_code": 8}
    return draft(**{**facts, **changes})


def kinds(effects) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def answers(effects, question: Question) -> list[Answer]:
    return [e for e in effects if isinstance(e, Answer) and e.question is question]


EVENTS = {
    "create-equal": ev.CreateRequested(call=1, digest="d", draft=draft()),
    "create-other": ev.CreateRequested(call=1, digest="other", draft=draft(digest="other")),
    "create-known": ev.CreateRequested(call=1, digest="d", draft=None),
    "start": ev.StartRequested(call=2, budget=190),
    "stop": ev.StopRequested(call=3),
    "opened": ev.SocketOpened(),
    "launched": ev.Launched(attempt=1, instance=BARE),
    "launched-addressed": ev.Launched(attempt=1, instance=VM),
    "address": ev.AddressKnown(attempt=1, instance=VM),
    "tunnel": ev.TunnelUp(attempt=1),
    "link": ev.LinkUp(attempt=1),
    "open-failed": ev.StepFailed(attempt=0, step=Step.OPEN, problem=BAD),
    "launch-failed": ev.StepFailed(attempt=1, step=Step.LAUNCH, problem=BAD),
    "launch-retry": ev.StepFailed(attempt=1, step=Step.LAUNCH, problem=BAD, retryable=True),
    "address-failed": ev.StepFailed(attempt=1, step=Step.ADDRESS, problem=BAD),
    "tunnel-failed": ev.StepFailed(attempt=1, step=Step.TUNNEL, problem=BAD),
    "link-failed": ev.StepFailed(attempt=1, step=Step.LINK, problem=BAD),
    "deadline": ev.DeadlinePassed(attempt=1),
    **{f"ended-{cause.name.lower()}": ev.Ended(cause=cause) for cause in Cause},
    "pod-known": ev.PodKnown(uid="u-1"),
    "console": ev.ConsoleRead(lines=("panic",)),
    "keep-expired": ev.KeepExpired(),
    "cloud-gone": ev.CloudGone(),
    "delete-failed": ev.DeleteFailed(problem=BAD),
    "cleaned": ev.CleanedUp(),
    "clean-failed": ev.CleanUpFailed(problem=BAD),
    "restarted": ev.Restarted(),
}

P, L, B, K, R, F, S, G = (
    Phase.PREPARED,
    Phase.LAUNCHING,
    Phase.BOOTING,
    Phase.LINKING,
    Phase.RUNNING,
    Phase.FAILED,
    Phase.STOPPING,
    Phase.GONE,
)
# event: phase -> next phase; what is not named stays.
MOVES = {
    "create-equal": {G: P},
    "create-other": {G: P},
    "start": {P: L},
    "stop": {P: S, L: S, B: S, K: S, R: S},
    "launched": {L: B},
    "launched-addressed": {L: K},
    "address": {B: K},
    "link": {K: R},
    "launch-failed": {L: S},
    "address-failed": {B: F},
    "tunnel-failed": {K: F},
    "link-failed": {K: F},
    "deadline": {L: S, B: F, K: F},
    "ended-connection_lost": {P: S, L: S, B: S, K: S, R: S},
    "ended-shim_gone": {P: S, L: S, B: S, K: S, R: S},
    "ended-netns_gone": {P: S, L: S, B: S, K: S, R: S},
    "ended-pod_gone": {P: S, L: S, B: S, K: S, R: S},
    "ended-link_lost": {R: S},
    "ended-relay_lost": {R: S},
    "ended-instance_gone": {B: F, K: F, R: S, F: S},
    "console": {F: S},
    "keep-expired": {F: S},
    "restarted": {L: S, B: S, K: S},
}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("name", list(EVENTS))
def test_every_pair_goes_where_the_table_says(phase, name):
    before = at(phase)
    after, _effects = decide(before, EVENTS[name])
    assert after is not None
    assert after.phase is MOVES.get(name, {}).get(phase, phase)
    if after.phase is before.phase:
        assert after.history == before.history
    else:
        assert after.history[-1].state == after.phase.value


@pytest.mark.parametrize("name", list(EVENTS))
def test_an_unknown_sandbox_gets_a_record_by_create_only(name):
    after, effects = decide(None, EVENTS[name])
    if name in ("create-equal", "create-other"):
        assert after is not None
        assert after.phase is P
        assert effects == (fx.OpenSocket(),)
    else:
        assert after is None
        assert not set(kinds(effects)) - {"Answer", "DeleteStrays"}


def test_a_whole_life_in_order():
    state, effects = decide(None, EVENTS["create-equal"])
    trail = [kinds(effects)]
    for name in ("opened", "start", "launched", "address", "tunnel", "link", "stop", "cloud-gone", "cleaned"):
        state, effects = decide(state, EVENTS[name])
        trail.append(kinds(effects))
    assert trail == [
        ["OpenSocket"],
        ["Answer"],
        ["SetDeadline", "Launch"],
        ["AwaitAddress"],
        ["SetUpTunnel"],
        ["MakeLink"],
        ["Answer"],
        ["Answer", "CloseAgent", "Delete"],
        ["CleanUp"],
        [],
    ]
    assert state.phase is G
    assert [entry.state for entry in state.history] == [
        "prepared",
        "launching",
        "booting",
        "linking",
        "running",
        "stopping",
        "gone",
    ]
    assert dict(state.phases).keys() == {"create_vm", "launch", "address", "tunnel", "link"}


def test_without_a_tunnel_the_link_comes_next():
    bare = attrs.evolve(VM, tunnel=TunnelKind.NONE)
    after, effects = decide(at(L), ev.Launched(attempt=1, instance=bare))
    assert effects == (fx.MakeLink(),)
    assert not after.tunnelled


def test_an_equal_create_gets_the_same_answer_and_another_is_refused():
    _after, effects = decide(at(R), EVENTS["create-known"])
    assert effects == (Answer(question=Question.CREATE, call=1),)
    _after, effects = decide(at(R), EVENTS["create-other"])
    assert effects[0].problem.code == 6
    # while the first is still being made, the second waits with it
    assert decide(at(P, opened=False), EVENTS["create-equal"])[1] == ()


def test_a_second_start_joins_and_a_late_one_is_refused():
    for phase in STARTING:
        assert decide(at(phase), EVENTS["start"])[1] == ()
    assert decide(at(R), EVENTS["start"])[1] == (Answer(question=Question.START, call=2),)
    for phase in (S, G):
        assert decide(at(phase), EVENTS["start"])[1][0].problem.code == 9
    assert decide(at(F, console_read=True), EVENTS["start"])[1][0].problem.code == 9
    assert decide(None, EVENTS["start"])[1][0].problem.code == 5
    assert decide(at(P, opened=False), EVENTS["start"])[1][0].problem.code == 9


def test_stop_is_answered_before_anything_is_deleted_and_only_once_acted_on():
    after, effects = decide(at(R), EVENTS["stop"])
    assert kinds(effects)[0] == "Answer"
    assert "Delete" in kinds(effects)
    assert kinds(decide(after, EVENTS["stop"])[1]) == ["Answer"]


def test_a_start_that_is_stopped_is_answered():
    _, effects = decide(at(B), EVENTS["stop"])
    assert answers(effects, Question.START)[0].problem.code == 1
    _, effects = decide(at(P, opened=False), EVENTS["stop"])
    assert answers(effects, Question.CREATE)[0].problem.code == 1


def test_a_passing_fault_of_the_cloud_is_tried_again_with_the_same_token():
    state = at(L)
    token = state.token
    delays = []
    while state.phase is L:
        state, effects = decide(state, EVENTS["launch-retry"])
        delays += [e.delay for e in effects if isinstance(e, fx.Launch)]
        assert state.token == token
    assert delays == [1.0, 2.0, 4.0]
    assert len(delays) == LAUNCH_TRIES - 1
    assert "no capacity in zone a" in state.last_error
    assert "launch" in state.last_error


def test_a_failure_names_its_phase_the_clouds_words_and_the_console():
    failed, effects = decide(at(K), EVENTS["link-failed"])
    assert kinds(effects) == ["ReadConsole"]
    assert answers(effects, Question.START) == []
    stopping, effects = decide(failed, EVENTS["console"])
    answer = answers(effects, Question.START)[0].problem
    assert answer.code == 8
    assert "phase link: no capacity in zone a" in answer.text
    assert answer.text.endswith("\npanic")
    assert stopping.last_error == answer.text
    assert "Delete" in kinds(effects)


def test_a_deadline_names_the_phase():
    failed, _ = decide(at(B), ev.DeadlinePassed(attempt=1, at=200.0))
    assert failed.error_code == 4
    assert "phase address" in failed.last_error
    assert decide(at(B), ev.DeadlinePassed(attempt=7))[0] == at(B)


def test_keep_failed_keeps_the_vm_over_the_shims_stop():
    failed, _ = decide(at(K, keep_failed=60.0), ev.StepFailed(attempt=1, step=Step.LINK, problem=BAD, at=100.0))
    kept, effects = decide(failed, EVENTS["console"])
    assert kept.phase is F
    assert kinds(effects) == ["Answer", "CloseAgent", "Keep"]
    assert effects[-1] == fx.Keep(160.0)
    after, effects = decide(kept, EVENTS["stop"])
    assert (after.phase, kinds(effects)) == (F, ["Answer"])
    after, effects = decide(after, EVENTS["restarted"])
    assert effects[-1] == fx.Keep(160.0)
    after, effects = decide(after, EVENTS["keep-expired"])
    assert after.phase is S
    assert "Delete" in kinds(effects)


def test_a_create_cut_off_is_looked_for_more_than_once():
    state, effects = decide(at(L), EVENTS["restarted"])
    assert state.uncertain
    delays = []
    while not state.cloud_gone:
        state, effects = decide(state, EVENTS["cloud-gone"])
        delays += [e.delay for e in effects if isinstance(e, fx.Delete)]
    assert tuple(delays) == LOOK_DELAYS


def test_an_instance_that_comes_late_is_deleted():
    done = at(S, uncertain=True, cloud_gone=True)
    after, effects = decide(done, EVENTS["launched"])
    assert not after.cloud_gone
    assert kinds(effects) == ["Delete"]
    assert kinds(decide(at(G), EVENTS["launched"])[1]) == ["DeleteStrays"]
    assert kinds(decide(None, EVENTS["launched"])[1]) == ["DeleteStrays"]


def test_deletion_goes_on_with_capped_pauses():
    state = at(S)
    delays = []
    for _ in range(12):
        state, effects = decide(state, EVENTS["delete-failed"])
        delays.append(effects[0].delay)
    assert delays == sorted(delays)
    assert delays[0] == 1.0
    assert delays[-1] == 60.0 == back_off(99)
    assert "no capacity" in state.trouble


def test_a_new_relay_gets_the_sockets_nobody_has_dialled():
    for phase in (P, L, B):
        assert kinds(decide(at(phase), EVENTS["ended-relay_lost"])[1]) == ["OpenSocket"]


def test_what_ends_a_running_pod_closes_its_agent_connections_first():
    for cause in Cause:
        after, effects = decide(at(R), ev.Ended(cause=cause, detail="x"))
        assert kinds(effects) == ["CloseAgent", "Delete"]
        assert cause.value in after.history[-1].reason


def test_a_token_is_never_used_twice():
    first = at(G)
    again, _ = decide(first, EVENTS["create-equal"])
    again, _ = decide(again, EVENTS["opened"])
    again, _ = decide(again, EVENTS["start"])
    assert again.token != first.token


def test_a_sandbox_without_a_launch_asks_nothing_of_the_cloud():
    _after, effects = decide(at(P), EVENTS["ended-netns_gone"])
    assert kinds(effects) == ["Answer", "CloseAgent", "CleanUp"]


def test_restart_goes_on():
    assert kinds(decide(at(P), EVENTS["restarted"])[1]) == ["OpenSocket"]
    assert decide(at(P, opened=False), EVENTS["restarted"])[0].phase is S
    assert decide(at(R), EVENTS["restarted"]) == (at(R), ())
    assert kinds(decide(at(S), EVENTS["restarted"])[1]) == ["CloseAgent", "Delete"]
    assert kinds(decide(at(S, cloud_gone=True), EVENTS["restarted"])[1]) == ["CloseAgent", "CleanUp"]
    assert kinds(decide(at(F), EVENTS["restarted"])[1]) == ["ReadConsole"]
    assert decide(at(G), EVENTS["restarted"]) == (at(G), ())


def test_history_is_bounded_and_keeps_its_beginning():
    state = at(R)
    for step in range(100):
        state = state.moved(R, float(step), str(step))
    assert len(state.history) == HISTORY_MAX
    assert state.history[0].reason == "0"
    assert state.history[-1].reason == "99"


names = st.lists(st.sampled_from(sorted(EVENTS)), max_size=60)


@given(names)
def test_random_histories_keep_the_invariants(history):
    state: Sandbox | None = None
    for name in history:
        before = state
        state, effects = decide(state, EVENTS[name])
        shown = kinds(effects)
        # Nothing is made without a record that says so.
        if "Launch" in shown:
            assert state.phase is L
            assert state.attempt >= 1
        if {"SetUpTunnel", "MakeLink"} & set(shown):
            assert state.phase is K
            assert state.instance is not None
        if "SetUpTunnel" in shown:
            assert state.tunnelled
        # An instance is never forgotten before the cloud said gone.
        if before is not None and before.phase is not G and state.phase is G:
            assert before.cloud_gone
        if before is not None and before.phase not in (S, G) and state.phase is S:
            assert {"Delete", "CleanUp"} & set(shown)
        # gone is left by CreateVM only, stopping by gone only
        if before is not None and before.phase is S:
            assert state.phase in (S, G)
        if before is not None and before.phase is G:
            assert state.phase in (G, P)


@given(names)
def test_stop_always_leads_to_gone(history):
    state: Sandbox | None = None
    for name in [*history, "stop"]:
        state, _ = decide(state, EVENTS[name])
    for name in ("opened", "console", "keep-expired", *["cloud-gone"] * 5, "cleaned"):
        state, _effects = decide(state, EVENTS[name])
    assert state is None or state.phase is G


@given(names)
def test_a_replay_is_idempotent(history):
    state: Sandbox | None = None
    for name in history:
        state, _ = decide(state, EVENTS[name])
    once, first = decide(state, ev.Restarted())
    twice, second = decide(once, ev.Restarted())
    assert once == twice
    waited_for = [e for e in first if not isinstance(e, Answer)]
    assert waited_for == [e for e in second if not isinstance(e, Answer)]


@given(names, st.sampled_from(["opened", "tunnel", "cleaned", "cloud-gone", "console", "keep-expired", "link"]))
def test_a_doubled_event_changes_no_phase_twice(history, name):
    state: Sandbox | None = None
    for step in history:
        state, _ = decide(state, EVENTS[step])
    once, _ = decide(state, EVENTS[name])
    twice, _ = decide(once, EVENTS[name])
    assert (once and once.phase) == (twice and twice.phase)


def test_phases_are_all_sorted_into_live_or_not():
    assert set(Phase) - LIVE == {F, S, G}
