"""Keys: never twice at once, never lost, coalesced, later after each failure."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peerpods.kube.client.schedule import Schedule

KEYS = st.sampled_from("abc")
STEP = st.one_of(
    st.tuples(st.just("add"), KEYS, st.sampled_from([0.0, 0.0, 1.0, 50.0])),
    st.tuples(st.just("take"), KEYS, st.just(0.0)),
    st.tuples(st.just("done"), KEYS, st.just(0.0)),
    st.tuples(st.just("again"), KEYS, st.sampled_from([0.0, 5.0])),
    st.tuples(st.just("failed"), KEYS, st.just(0.0)),
    st.tuples(st.just("time"), KEYS, st.sampled_from([0.1, 2.0, 100.0])),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_nothing_runs_twice_at_once_and_what_was_added_runs_after_its_addition(steps):
    schedule = Schedule(0.2, 300.0, lambda: 0.5)
    now, running, owed = 0.0, set(), set()
    for what, key, number in steps:
        if what == "add":
            schedule.add(key, now, number)
            owed.add(key)
        elif what == "take":
            taken = schedule.take(now)
            if taken is not None:
                assert taken not in running
                running.add(taken)
                owed.discard(taken)
        elif what == "time":
            now += number
        elif key in running:
            running.discard(key)
            if what == "failed":
                schedule.failed(key, now)
                owed.add(key)
            else:
                schedule.done(key, now, number if what == "again" else None)
                if what == "again":
                    owed.add(key)
        assert schedule.running == len(running)
    for _ in range(30):
        for key in list(running):
            schedule.done(key, now)
            running.discard(key)
        now += 400
        while (taken := schedule.take(now)) is not None:
            assert taken not in running
            running.add(taken)
            owed.discard(taken)
    assert owed == set(), "all that was asked for has run"
    for key in list(running):
        schedule.done(key, now)
    assert schedule.idle and schedule.next_at() is None


def make():
    return Schedule(0.2, 300.0, lambda: 0.5)


def test_adding_many_times_runs_once():
    schedule = make()
    for _ in range(5):
        schedule.add("a", 0)
    assert schedule.take(0) == "a" and schedule.take(0) is None


def test_what_is_added_during_its_work_runs_once_more():
    schedule = make()
    schedule.add("a", 0)
    assert schedule.take(0) == "a"
    schedule.add("a", 0)
    schedule.add("a", 0)
    assert schedule.take(0) is None
    schedule.done("a", 1)
    assert schedule.take(1) == "a"
    schedule.done("a", 1)
    assert schedule.take(1) is None


def test_failures_wait_longer_up_to_a_bound_and_success_forgets_them():
    schedule = make()
    schedule.add("a", 0)
    now, waits = 0.0, []
    for _ in range(14):
        assert schedule.take(now) == "a"
        delay = schedule.failed("a", now)
        waits.append(delay)
        assert schedule.take(now + delay - 0.01) is None
        now += delay
    assert waits[0] < 0.2 and waits[-1] == 225.0 and waits == sorted(waits)
    assert schedule.take(now) == "a"
    schedule.done("a", now)
    schedule.add("a", now)
    assert schedule.take(now) == "a"
    assert schedule.failed("a", now) < 0.2


def test_a_user_need_not_wait_for_the_whole_back_off_but_a_loop_is_held_back():
    schedule = make()
    schedule.add("a", 0)
    now = 0.0
    for _ in range(10):
        schedule.take(now)
        now += schedule.failed("a", now)
    schedule.take(now)
    schedule.failed("a", now)
    schedule.add("a", now)
    assert schedule.take(now + 0.5) is None
    assert schedule.take(now + 1.01) == "a"
    schedule.add("a", now + 1.01)
    assert schedule.failed("a", now + 1.01) == 1.0


def test_the_earlier_of_two_times_counts():
    schedule = make()
    schedule.add("a", 0, 10)
    schedule.add("a", 0, 5)
    schedule.add("a", 0, 20)
    assert schedule.next_at() == 5
    assert schedule.take(4.9) is None and schedule.take(5) == "a"
    schedule.done("a", 5)
    assert schedule.next_at() is None


def test_looking_again_later():
    schedule = make()
    schedule.add("a", 0)
    schedule.take(0)
    schedule.done("a", 0, again=30)
    assert schedule.next_at() == 30
    schedule.add("a", 1)
    assert schedule.take(1) == "a"
    schedule.done("a", 1)
    assert schedule.next_at() is None, "a success without a wish for another look ends it"
