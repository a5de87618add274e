"""Conditions keep the API's rule: the transition time moves only with the status."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.objects.conditions import condition, cut, find_condition, parse_time, set_condition, time_text


def test_time_text_and_back() -> None:
    assert time_text(0) == "1970-01-01T00:00:00Z"
    assert time_text(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert parse_time("2023-11-14T22:13:20Z") == 1_700_000_000
    assert parse_time("2023-11-14T22:13:20.5+00:00") == 1_700_000_000.5
    assert parse_time("2023-11-14T22:13:20") == 1_700_000_000


@pytest.mark.parametrize("text", [None, "", 5, "yesterday", [], "2023-13-41T00:00:00Z"])
def test_what_is_no_time(text: object) -> None:
    assert parse_time(text) is None


def test_transition_time_moves_only_with_the_status() -> None:
    first = set_condition([], condition("Ready", False, "Booting", "booting", 100))
    again = set_condition(first, condition("Ready", False, "Linking", "linking", 200))
    assert again[0]["reason"] == "Linking" and again[0]["lastTransitionTime"] == time_text(100)
    ready = set_condition(again, condition("Ready", True, "Running", "", 300, generation=4))
    assert ready[0]["lastTransitionTime"] == time_text(300) and ready[0]["observedGeneration"] == 4
    assert set_condition(ready, condition("Ready", True, "Running", "", 400, generation=4)) == ready


def test_order_and_strangers_are_kept() -> None:
    stranger = {"type": "Theirs", "status": "True", "extra": 1}
    ready = condition("Ready", True, "R", "", 1)
    found = set_condition([stranger, ready], condition("Deleted", None, "D", "", 2))
    assert [one["type"] for one in found] == ["Theirs", "Ready", "Deleted"]
    assert found[0] == stranger and found[2]["status"] == "Unknown"
    assert find_condition(found, "Ready") == ready and find_condition(found, "None") is None


def test_a_condition_without_a_time_gets_one() -> None:
    assert set_condition([{"type": "Ready", "status": "True"}], condition("Ready", True, "R", "", 7))[0][
        "lastTransitionTime"
    ] == time_text(7)


@given(st.text(max_size=60))
def test_every_reason_is_one_the_api_takes(text: str) -> None:
    reason = condition("Ready", True, text, "", 0)["reason"]
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", reason)


def test_messages_are_cut() -> None:
    assert cut("abc", 3) == "abc" and cut("abcd", 3) == "ab…"
    assert len(condition("Ready", False, "R", "x" * 50000, 0)["message"]) == 4096
