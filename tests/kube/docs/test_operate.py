"""docs/operate.md names what the code counts and says: metrics, event reasons, conditions; none missing or invented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operate.md").read_text()
METRIC = re.compile(r"(?:Counter|Gauge|Histogram)\(\s*\"(peerpods_\w+)\"")
REASON = re.compile(
    r"\b(?:PeerPod(?:Launching|Ready|Failed|Slow|Lost|LimitReached|PullSecret|UserDataTooLarge)|VM\w+)\b"
)


def code(*folders: str) -> str:
    return "\n".join(
        path.read_text() for one in folders for path in sorted((ROOT / "src/peerpods" / one).rglob("*.py"))
    )


def test_metrics() -> None:
    counted = set(METRIC.findall(code("kube", "adaptor/kube")))
    assert len(counted) >= 25
    assert counted - set(re.findall(r"`(peerpods_\w+)`", PAGE)) == set()


def test_metrics_that_are_named_exist() -> None:
    named = set(re.findall(r"`(peerpods_\w+)[`{]", PAGE))
    assert named - set(METRIC.findall(code("."))) == set()


@pytest.mark.parametrize("folders", [("adaptor/kube", "adaptor"), ("kube/peerpod",)])
def test_event_reasons(folders: tuple[str, ...]) -> None:
    told = set(re.findall(r"\"((?:PeerPod|VM|Unknown)[A-Z]\w+)\"", code(*folders))) - {"UnknownProvider"}
    told = {one for one in told if REASON.fullmatch(one)}
    assert len(told) >= 3
    assert {one for one in told if not re.search(rf"\| (?:\w+, )*{one}\b", PAGE)} == set()


def test_event_reasons_that_are_named_exist() -> None:
    source = code("adaptor", "kube")
    table = PAGE.split("## Events", 1)[1].split("## Conditions", 1)[0]
    named = set(REASON.findall(table)) | {"UnknownProvider", "Removing", "RemovalSlow"}
    assert len(named) >= 12
    assert {one for one in named if f'"{one}"' not in source} == set()


def test_conditions() -> None:
    told = set(re.findall(r"Finding\(\s*\"(\w+)\"", code("kube/peerpodconfig")))
    table = PAGE.split("## Conditions", 1)[1].split("## Node limits", 1)[0]
    assert len(told) >= 7
    assert {one for one in told if one not in table} == set()
