"""The cores stay pure, and the package knows nothing else of the project."""

import ast
import pathlib

import pytest

import peerpods.ttrpc

FOLDER = pathlib.Path(peerpods.ttrpc.__file__).parent
CORES = ("frame", "fields", "envelope", "status", "connection")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("name", CORES)
def test_a_core_needs_no_socket_clock_or_reactor(name):
    for module in imported(FOLDER / f"{name}.py"):
        assert module.split(".")[0] not in ("twisted", "asyncio", "socket", "time", "random", "os", "google")
        if module.startswith("peerpods"):
            assert module.removeprefix("peerpods.ttrpc.") in CORES


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_nothing_of_ours_but_ttrpc(path):
    for module in imported(path):
        assert not module.startswith("peerpods") or module.startswith("peerpods.ttrpc")
        assert module != "asyncio"
