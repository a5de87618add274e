"""Two candidates, clocks that differ, requests that hang: never two leaders."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerpods.kube.client.lease import Election, Terms

TERMS = Terms()


class Shelf:
    """One Lease with optimistic locking."""

    def __init__(self):
        self.lease = None
        self.version = 0

    def write(self, wish):
        known = wish["metadata"].get("resourceVersion")
        current = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if known != current:
            return None
        self.version += 1
        self.lease = {
            "metadata": {**wish["metadata"], "uid": "u", "resourceVersion": str(self.version)},
            "spec": wish["spec"],
        }
        return self.lease


def candidate(name):
    return Election("lock", "ns", name, TERMS)


def acquire(shelf, who, now, wall=1000.0):
    who.seen(shelf.lease, now)
    wish = who.wish(now, wall)
    if wish is None:
        return False
    written = shelf.write(wish)
    assert written is not None
    who.wrote(written, now, now)
    return True


def test_the_first_takes_it_and_the_second_waits_the_whole_duration():
    shelf, a, b = Shelf(), candidate("a"), candidate("b")
    assert acquire(shelf, a, 0) and a.leads(9.9) and not a.leads(10.0)
    assert shelf.lease["spec"]["leaseTransitions"] == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shelf.lease["spec"]["renewTime"])
    assert not acquire(shelf, b, 1) and not acquire(shelf, b, 15.9)
    assert acquire(shelf, b, 16.1)
    assert shelf.lease["spec"]["leaseTransitions"] == 1 and b.leads(16.2) and not a.leads(16.2)


def test_a_renewal_that_is_seen_starts_the_wait_anew():
    shelf, a, b = Shelf(), candidate("a"), candidate("b")
    acquire(shelf, a, 0)
    assert not acquire(shelf, b, 1)
    acquire(shelf, a, 8, wall=1008.0)
    assert not acquire(shelf, b, 14)
    assert not acquire(shelf, b, 28.9)
    assert acquire(shelf, b, 29.1)


@pytest.mark.parametrize("wall", [0.0, 1e9, 4e9])
def test_the_times_in_the_lease_count_for_nothing(wall):
    shelf, a, b = Shelf(), candidate("a"), candidate("b")
    acquire(shelf, a, 0, wall=wall)
    assert not acquire(shelf, b, 100_000)
    assert not acquire(shelf, b, 100_014)
    assert acquire(shelf, b, 100_016)


def test_a_holder_with_a_longer_duration_is_given_it():
    shelf, a, b = Shelf(), Election("lock", "ns", "a", Terms(duration=60, renew=40, retry=5)), candidate("b")
    acquire(shelf, a, 0)
    assert not acquire(shelf, b, 0) and not acquire(shelf, b, 59) and acquire(shelf, b, 61)


def test_renewing_keeps_the_time_of_acquisition_and_the_transitions():
    shelf, a = Shelf(), candidate("a")
    acquire(shelf, a, 0, wall=1000.0)
    first = shelf.lease["spec"]
    acquire(shelf, a, 2, wall=1002.0)
    second = shelf.lease["spec"]
    assert first["acquireTime"] == second["acquireTime"] and first["renewTime"] != second["renewTime"]
    assert second["leaseTransitions"] == 0


def test_a_released_lease_is_free_at_once():
    shelf, a, b = Shelf(), candidate("a"), candidate("b")
    acquire(shelf, a, 0)
    assert not acquire(shelf, b, 1)
    written = shelf.write(a.release(1000.0))
    assert written["spec"]["holderIdentity"] == "" and written["spec"]["leaseDurationSeconds"] == 1
    assert acquire(shelf, b, 1.1)
    assert shelf.lease["spec"]["leaseTransitions"] == 1
    assert a.release(1000.0) is not None, "a does not know yet"
    assert shelf.write(a.release(1000.0)) is None, "but the server refuses the old version"


def test_seeing_another_holder_ends_the_lead():
    shelf, a = Shelf(), candidate("a")
    acquire(shelf, a, 0)
    shelf.lease = {"metadata": {"uid": "u", "resourceVersion": "9"}, "spec": {"holderIdentity": "b"}}
    a.seen(shelf.lease, 1)
    assert not a.leads(1) and a.wish(1, 0) is None


def test_a_lease_that_was_deleted_is_made_anew():
    shelf, a = Shelf(), candidate("a")
    acquire(shelf, a, 0)
    shelf.lease = None
    a.seen(None, 1)
    assert not a.leads(1)
    wish = a.wish(1, 0)
    assert "resourceVersion" not in wish["metadata"]


def test_labels_of_others_stay():
    shelf, a = Shelf(), candidate("a")
    acquire(shelf, a, 0)
    shelf.lease["metadata"]["labels"] = {"x": "y"}
    acquire(shelf, a, 2)
    assert shelf.lease["metadata"]["labels"] == {"x": "y"}


STEP = st.tuples(
    st.integers(0, 2),
    st.sampled_from([0.1, 1.0, 2.0, 4.0, 9.0, 16.0]),
    st.sampled_from(["well", "lost", "slow", "slow"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_never_two_leaders(steps):
    """Writes may arrive without an answer, or be sent long before they are answered."""
    shelf, now = Shelf(), 0.0
    people = [candidate(name) for name in "abc"]
    under_way = {}
    for who, wait, fate in steps:
        now += wait
        assert sum(each.leads(now) for each in people) <= 1
        me = people[who]
        if who in under_way:
            began, written = under_way.pop(who)
            if written is not None:
                me.wrote(written, began, now)
            else:
                me.unsure()
            continue
        me.seen(shelf.lease, now)
        wish = me.wish(now, now * (1 + who) + (1e9, 0, 4e9)[who])
        if wish is None:
            continue
        written = shelf.write(wish)
        if fate == "well":
            assert written is not None
            me.wrote(written, now, now)
        elif fate == "slow":
            under_way[who] = (now, written)
        assert sum(each.leads(now) for each in people) <= 1


def test_terms_that_make_no_sense_are_refused():
    with pytest.raises(ValueError):
        Election("l", "n", "i", Terms(duration=10, renew=10, retry=2))
