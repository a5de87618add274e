"""How the bench of the image's boot reads a console."""

from __future__ import annotations

import pytest

from bench.image_boot import LISTENING, MARKS, factor, phases


def test_each_phase_ends_at_the_first_line_after_the_phase_before():
    lines = [(0.5, "Created slice of the firmware, which does not count")]
    lines += [(float(number), f"… {words} …") for number, (_, words) in enumerate(MARKS, 1)]
    lines += [(99.0, LISTENING)]
    assert phases(lines) == [(name, 1.0) for name, _ in MARKS]


def test_a_boot_that_ended_early_is_an_error_that_names_the_phase():
    lines = [(1.0, words) for _, words in MARKS[:-1]]
    with pytest.raises(ValueError, match="forwarder"):
        phases(lines)


def test_the_factor_of_translation():
    assert factor(6.0, 0.3) == pytest.approx(20)
    assert factor(6.0, 0.0) == pytest.approx(6000)
