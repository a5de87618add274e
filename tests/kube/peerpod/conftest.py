"""The stage: on the double always, and on the real server with `-m kube`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml

from peerpods.kube.objects.resources import NAMESPACES, NODES
from tests.kube.peerpod.stage import Stage


def on_double(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, str]:
    """Kubeconfig and namespace on the in-memory server."""
    double = request.getfixturevalue("double")
    double.seed(NAMESPACES, {"metadata": {"name": "stage"}})
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    double.seed(NODES, {"metadata": {"name": "stage-node"}, "status": ready})
    config = folder / "kubeconfig"
    config.write_text(yaml.safe_dump(double.kubeconfig_dict()))
    return config, "stage"


def on_real(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Kubeconfig and namespace on the real server."""
    cluster: Any = request.getfixturevalue("cluster")
    request.getfixturevalue("our_crds")
    if cluster.request("GET", "/api/v1/nodes/stage-node")[0] == 404:
        cluster.create_node("stage-node")
    return cluster.kubeconfig(), request.getfixturevalue("namespace")


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.kube)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Kubeconfig of the admin, and a namespace of the test's own."""
    return on_double(request, tmp_path) if request.param == "double" else on_real(request)


@pytest_twisted.async_yield_fixture
async def stage(place: tuple[Path, str]) -> AsyncIterator[Stage]:
    """An API server and a cloud; everything is stopped afterwards."""
    from twisted.internet import reactor

    opened = await Stage(reactor, *place).open()
    yield opened
    await opened.close()
