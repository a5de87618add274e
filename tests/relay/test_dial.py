"""The dial policy."""

import pytest

from peerpods.errors import LinkFailure
from peerpods.relay import dial


@pytest.mark.parametrize(
    ("elapsed", "random", "pause"),
    [
        (0, 0, 0.02),
        (0, 1, 0.01),
        (0.4, 0, 0.02),
        (1, 0, 0.05),
        (10, 0, 0.5),
        (10, 1, 0.25),
        (60, 0, 1.0),
        (1e6, 1, 0.5),
    ],
)
def test_pauses_are_a_share_of_the_time_spent(elapsed, random, pause):
    assert dial.next_pause(elapsed, random) == pytest.approx(pause)


def test_a_boot_of_any_length_is_found_little_late():
    """Refused dials answer at once: the VM listens from `boot` on; how late is the first try after it?"""
    for boot in (0.1, 0.5, 2.0, 10.0, 30.0):
        now = 0.0
        tries = 0
        while now < boot:
            now += dial.next_pause(now, 0.0)
            tries += 1
        assert now - boot <= max(0.02, 0.0501 * boot)
        assert tries < 150


def test_connects_are_short_at_first():
    assert dial.connect_timeout(0, 2.0) == 0.25
    assert dial.connect_timeout(20, 2.0) == 1.0
    assert dial.connect_timeout(1000, 2.0) == 2.0
    assert dial.connect_timeout(0, 0.1) == 0.1


@pytest.mark.parametrize(("nano", "seconds"), [(0, 300), (-5, 300), (2_500_000_000, 2.5), (10**18, 3600)])
def test_bound(nano, seconds):
    assert dial.bound(nano) == seconds


def test_refused_goes_on_until_the_bound():
    tries = dial.Tries(0.0, 10.0)
    for _ in range(50):
        assert tries.after(LinkFailure.REFUSED, 5.0, 0.5) is not None
    assert tries.after(LinkFailure.REFUSED, 9.9, 0.5) is None


@pytest.mark.parametrize("kind", [LinkFailure.TLS, LinkFailure.WRONG_PEER])
def test_what_lasts_ends_after_a_few_tries(kind):
    tries = dial.Tries(0.0, 100.0)
    assert [tries.after(kind, 1.0, 0) is None for _ in range(3)] == [False, False, True]


def test_another_failure_between_begins_the_count_anew():
    tries = dial.Tries(0.0, 100.0)
    for kind in ("TLS", "TLS", "REFUSED", "WRONG_PEER", "TLS"):
        assert tries.after(LinkFailure[kind], 1.0, 0) is not None
    assert tries.after(LinkFailure.TLS, 1.0, 0) is None


def test_closed_ends_at_once():
    assert dial.Tries(0.0, 100.0).after(LinkFailure.CLOSED, 1.0, 0) is None
