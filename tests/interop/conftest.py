"""Counts the cases that each peer ran, and says so at the end of the run."""

import os

import pytest

from tests.interop.peers import PEERS, build

_counts: dict[str, int] = {}
NOT_SHOWN = os.environ.get("PEERPODS_NO_INTEROP") == "1"


@pytest.fixture(params=list(PEERS))
def peer(request):
    """(name, program, count): call count(n) for n cases that passed."""
    if NOT_SHOWN:
        pytest.skip("PEERPODS_NO_INTEROP=1: not shown")
    name = request.param
    try:
        program = build(name)
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)

    def count(cases: int) -> None:
        _counts[name] = _counts.get(name, 0) + cases

    return name, program, count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NOT_SHOWN:
        terminalreporter.write_line("interop: not shown (PEERPODS_NO_INTEROP=1)")
    elif _counts:
        parts = ", ".join(f"{name} {_counts[name]} cases" for name in PEERS if name in _counts)
        terminalreporter.write_line(f"interop: {parts}")
