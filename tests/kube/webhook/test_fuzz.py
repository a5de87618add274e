"""A few thousand pods at random; `python -m tests.kube.webhook.fuzz` does more."""

import pytest

from tests.kube.webhook import fuzz


@pytest.mark.parametrize("seed", range(4))
def test_pods_at_random(seed):
    fuzz.run(750, seed)


@pytest.mark.kube
@pytest.mark.timeout(900)
def test_a_hundred_thousand_pods():
    """Needs no server; it is long, so it runs with the tests that take time."""
    fuzz.run(100_000, 4)


def test_the_oracle_can_tell_a_wrong_sum(monkeypatch):
    from peerpods.kube.webhook import mutate

    monkeypatch.setattr(mutate, "total", lambda init, app: mutate.Amount())
    with pytest.raises(AssertionError):
        fuzz.run(50, 1)
