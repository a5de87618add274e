"""What all tests share: tests that this machine cannot run are named, never passed over in silence."""

from __future__ import annotations

import os

import pytest

ROOT = os.geteuid() == 0
_not_run: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root, tests that need it are skipped and listed."""
    if ROOT:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("vm"):
            _not_run.append(item.nodeid)
            item.add_marker(pytest.mark.skip(reason="needs root: network and mount namespaces"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The list of what was not run."""
    if _not_run:
        terminalreporter.section(f"{len(_not_run)} tests NOT RUN: they need root")
        for name in _not_run:
            terminalreporter.write_line(name)
