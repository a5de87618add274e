"""Limits of nodes and the patch that advertises them."""

from __future__ import annotations

import pytest

from peerpods.kube.objects import capacity
from peerpods.kube.objects.capacity import Limit, LimitRule, capacity_patch, limit_mistakes, limit_of, matches

VM = "kata.peerpods.io/vm"
NOTE = "kata.peerpods.io/limit"
BIG = (LimitRule({"size": "big"}, "50"), LimitRule({"size": "big", "zone": "a"}, "70"))


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("10", 10), (" 7 ", 7), ("100000", 100000), ("007", 7)])
def test_a_limit_is_a_whole_number(text: str, number: int) -> None:
    assert capacity.parse_limit(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", "ten", "1e3", "100001", "1Ki", "0x10", "٣", "9999999999"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        capacity.parse_limit(text)


@pytest.mark.parametrize(
    ("labels", "note", "limit", "found"),
    [
        ({}, "", "", Limit(10)),
        ({}, "", "25", Limit(25)),
        ({"size": "big"}, "", "25", Limit(50)),
        ({"size": "big", "zone": "a"}, "", "25", Limit(50)),
        ({"size": "big"}, "3", "25", Limit(3)),
        ({}, "0", "25", Limit(0)),
    ],
)
def test_the_annotation_beats_the_first_rule_beats_the_spec_beats_ten(
    labels: dict[str, str], note: str, limit: str, found: Limit
) -> None:
    assert limit_of(labels, {NOTE: note} if note else {}, BIG, limit) == found


def test_a_wrong_limit_is_passed_over_and_told_of() -> None:
    found = limit_of({}, {NOTE: "many"}, (), "25")
    assert found.value == 25
    assert found.mistake == f"the node's annotation {NOTE} is 'many', not a whole number from 0 to 100000"
    assert limit_of({}, {}, (), "lots").value == 10
    assert limit_mistakes((LimitRule({}, "5"), LimitRule({}, "x")), "-3") == [
        "spec.limit is '-3', not a whole number from 0 to 100000",
        "spec.nodeLimits[1].limit is 'x', not a whole number from 0 to 100000",
    ]
    assert limit_mistakes((), "") == []


def test_selectors() -> None:
    assert matches({}, {"a": "b"})
    assert matches({"node.kubernetes.io/worker": ""}, {"node.kubernetes.io/worker": "", "x": "y"})
    assert not matches({"node.kubernetes.io/worker": ""}, {})
    assert not matches({"a": "b"}, {"a": "c"})


@pytest.mark.parametrize(
    ("now", "wanted", "patch"),
    [
        ({}, {VM: 10}, {VM: "10"}),
        ({VM: "10", "cpu": "4"}, {VM: 10}, None),
        ({VM: "0"}, {VM: 10}, {VM: "10"}),
        ({VM: "10"}, {}, {VM: None}),
        ({}, {}, None),
        ({"cpu": "4"}, {}, None),
        ({"kata.peerpods.io/gpu": "2", VM: "10"}, {VM: 10}, {"kata.peerpods.io/gpu": None}),
        ({"example.com/vm": "2"}, {VM: 0}, {VM: "0"}),
    ],
)
def test_the_patch_holds_only_what_is_wrong(
    now: dict[str, str], wanted: dict[str, int], patch: dict[str, str | None] | None
) -> None:
    assert capacity_patch(now, wanted) == ({"status": {"capacity": patch}} if patch else None)


def test_resources_of_another_domain_go_only_when_they_are_named() -> None:
    assert capacity_patch({"example.com/vm": "2"}, {}, ["example.com/vm"]) == {
        "status": {"capacity": {"example.com/vm": None}}
    }
    assert capacity_patch({"nvidia.com/gpu": "2"}, {}) is None
