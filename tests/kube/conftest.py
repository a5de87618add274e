"""The real API server for tests, and which of them it is too old for.

A test that asks for `cluster`, or for a fixture made of it, gets the mark `kube`: it is run by `make test-kube` only.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml

from peerpods.errors import LocalFailure
from peerpods.kube.objects.resources import CRDS, NAMESPACES
from tests.kube.cluster import RealCluster, assets, client_tools, has_controllers, version_of
from tests.kube.conformance.api import Api
from tests.kube.double import Double

HERE = Path(__file__).parent
_not_shown: list[str] = []
_numbers = itertools.count(1)


def _hindrance(item: pytest.Item, version: tuple[int, int], controllers: bool) -> str | None:
    for mark in item.iter_markers("needs_kube"):
        wanted = tuple(mark.args)
        if version < wanted:
            reason = mark.kwargs.get("reason", "")
            return f"needs {'.'.join(map(str, wanted))}" + (f": {reason}" if reason else "")
    if item.get_closest_marker("needs_controllers") and not controllers:
        return "needs kube-controller-manager, which KUBEBUILDER_ASSETS has not"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that need the server; takes out those that it is too old for, to be listed at the end."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("kube")
    ours = [item for item in ours if item.get_closest_marker("kube")]
    for item in ours:
        if not item.get_closest_marker(
            "timeout"
        ):  # a loaded machine is slow: the bounds of waits end a test before this
            item.add_marker(pytest.mark.timeout(300))
    marked = [i for i in ours if i.get_closest_marker("needs_kube") or i.get_closest_marker("needs_controllers")]
    if not marked or "not kube" in config.option.markexpr:
        return
    try:
        folder = assets()
    except LocalFailure:
        return  # the fixture says it, as an error of each test
    version, controllers = version_of(folder), has_controllers(folder)
    reasons = {item: why for item in marked if (why := _hindrance(item, version, controllers))}
    items[:] = [item for item in items if item not in reasons]
    name = ".".join(map(str, version))
    _not_shown.extend(f"not shown on {name}: {item.nodeid} — {why}" for item, why in reasons.items())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The list of what this server cannot show."""
    if _not_shown:
        terminalreporter.section(f"{len(_not_shown)} tests NOT SHOWN on this API server")
        for line in _not_shown:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """The API server that all tests share: each takes a namespace of its own, and names of its own beyond that."""
    with RealCluster() as running:
        yield running


@pytest.fixture
def namespace(cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, in which pods are admitted; it is asked to go afterwards."""
    name = cluster.create_namespace(f"test-{next(_numbers)}")
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")


Tool = Callable[..., subprocess.CompletedProcess[str]]


def _tool(program: str, cluster: RealCluster, tmp_path: Path) -> Tool:
    path, config = client_tools() / program, cluster.kubeconfig()
    environment = {"KUBECONFIG": str(config), "HOME": str(tmp_path), "PATH": f"{path.parent}:/usr/bin:/bin"}

    def run(*arguments: str | Path, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [path, *map(str, arguments)], input=input, capture_output=True, text=True, env=environment, timeout=300
        )
        assert not check or done.returncode == 0, (
            f"{program} {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        )
        return done

    return run


@pytest.fixture
def kubectl(cluster: RealCluster, tmp_path: Path) -> Tool:
    """kubectl as the admin of the test cluster; fails the test unless `check=False`."""
    return _tool("kubectl", cluster, tmp_path)


@pytest.fixture
def helm(cluster: RealCluster, tmp_path: Path) -> Tool:
    """Helm as the admin of the test cluster; fails the test unless `check=False`."""
    return _tool("helm", cluster, tmp_path)


@functools.cache
def our_definitions() -> list[dict[str, Any]]:
    """Our CRDs; read once, as that takes a while. Not to be changed."""
    files = sorted((HERE.parents[1] / "k8s/base/crds").glob("*.yaml"))
    found = [each for path in files for each in yaml.safe_load_all(path.read_text())]
    return [each for each in found if each and each.get("kind") == "CustomResourceDefinition"]


@pytest_twisted.async_yield_fixture
async def double() -> AsyncIterator[Double]:
    """A fresh in-memory API server on a loopback port, with our CRDs."""
    from twisted.internet import reactor

    running = Double(reactor)
    for crd in our_definitions():
        running.register(crd)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.kube)])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """A client of the double, and (with the mark `kube`) of the real server with our CRDs; a namespace for the test."""
    if request.param == "double":
        double: Double = request.getfixturevalue("double")
        client = Api(double.url)
        client.double, client.namespace = double, "test"
        double.seed(NAMESPACES, {"metadata": {"name": "test", "labels": {"kubernetes.io/metadata.name": "test"}}})
    else:
        cluster: RealCluster = request.getfixturevalue("cluster")
        client = Api(cluster.host, token=cluster.token, ca_file=cluster.ca_file)
        client.cluster, client.namespace = cluster, request.getfixturevalue("namespace")
        request.getfixturevalue("our_crds")
    yield client
    client.close()


@pytest.fixture(scope="session")
def our_crds(cluster: RealCluster) -> None:
    """Our CRDs on the real server, served."""
    for crd in our_definitions():
        define(cluster, crd)


def define(cluster: RealCluster, crd: dict[str, Any]) -> None:
    """Create a CRD unless it is there, and wait until it is served."""
    crds = CRDS.path()
    name, spec = crd["metadata"]["name"], crd["spec"]
    status, answer = cluster.request("POST", crds, crd)
    assert status in (201, 409), answer
    served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    deadline = time.monotonic() + 60
    while cluster.request("GET", served)[0] != 200:
        assert time.monotonic() < deadline, f"{name} is not served"
        time.sleep(0.1)
