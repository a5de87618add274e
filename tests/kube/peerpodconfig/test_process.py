"""`twistd peerpodconfig-ctrl` as a process: serving, ending, and ending when everything goes in the wrong order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from peerpods.kube.client import Kube
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from tests.kube.cluster_process import free_port
from tests.kube.double import Double
from tests.kube.peerpodconfig.harness import Scene, scene
from tests.kube.peerpodconfig.samples import NAMESPACE, config_object

TOP = Path(__file__).parents[3]
CTRL = names.PEER_POD_CONFIG_CTRL


class Child:
    """One process of the controller."""

    def __init__(self, folder: Path, kubeconfig: dict[str, Any], number: int, *more: str) -> None:
        path = folder / f"kubeconfig-{number}"
        path.write_text(json.dumps(kubeconfig))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / f"log-{number}"
        flags = {
            "kubeconfig": str(path),
            "namespace": NAMESPACE,
            "identity": f"ctrl-{number}",
            "http": self.url.removeprefix("http://"),
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        twistd = str(Path(sys.executable).parent / "twistd")
        environ = {key: value for key, value in os.environ.items() if key not in ("KUBECONFIG", "NOTIFY_SOCKET")}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [twistd, "-n", "--pidfile=", CTRL, *words, *more],
                cwd=TOP, env={**environ, "PYTHONPATH": f"{TOP}/src"}, stdout=out, stderr=out,
            )  # fmt: skip

    async def status(self, page: str) -> tuple[int, str]:
        """Code and text of one of its pages; 0 when nobody answers."""
        return await deferToThread(self._thd_get, f"{self.url}{page}")  # type: ignore[no-any-return]

    @staticmethod
    def _thd_get(url: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    async def ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Processes of the test; none outlives it."""
    started: list[Child] = []
    yield started
    for child in started:
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait(10)


@pytest_twisted.async_yield_fixture
async def here(double: Double, tmp_path: Path) -> AsyncIterator[Scene]:
    from twisted.internet import reactor

    double.seed(r.NAMESPACES, {"metadata": {"name": NAMESPACE}})
    meta = {"name": CTRL, "namespace": NAMESPACE}
    labels = {"app": "ctrl"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    double.seed(r.DEPLOYMENTS, {"metadata": meta, "spec": spec})
    async with scene(reactor, tmp_path, double.kubeconfig_dict()) as made:
        await made.config_map(CLOUD_PROVIDER="memory")
        await made.node("n1")
        yield made


async def _ready(here: Scene, child: Child) -> None:
    async def probe() -> bool:
        assert child.process.poll() is None, child.log.read_text()
        return (await child.status("/readyz"))[0] == 200

    await here.until(probe, "ready")


async def _serving(here: Scene, child: Child) -> None:
    await _ready(here, child)
    await here.create(r.PEER_POD_CONFIGS, config_object(webhook={"failurePolicy": "Ignore"}))
    await here.until(lambda: here.own(r.DAEMON_SETS, names.ADAPTOR))
    await here.workloads_ready()
    await here.until_reason("SetUp")


async def _lease(kube: Kube) -> Any:
    return (await kube.get(r.LEASES, CTRL, NAMESPACE))["spec"]


@pytest_twisted.ensureDeferred
async def test_serves_hands_over_and_ends(here: Scene, double: Double, tmp_path: Path, children: list[Child]) -> None:
    first = Child(tmp_path, double.kubeconfig_dict(), 1)
    children.append(first)
    await _serving(here, first)
    assert (await _lease(here.kube))["holderIdentity"].startswith("ctrl-1_")
    second = Child(tmp_path, double.kubeconfig_dict(), 2)
    children.append(second)
    await _ready(here, second)
    _, text = await second.status("/metrics")
    assert "peerpods_config_leader 0.0" in text
    _, text = await first.status("/metrics")
    assert "peerpods_config_leader 1.0" in text
    assert 'peerpods_config_condition{type="Ready"} 1.0' in text
    first.process.send_signal(signal.SIGTERM)
    await here.until(first.ended)
    assert first.process.returncode in (0, -signal.SIGTERM), first.log.read_text()

    async def taken_over() -> bool:
        return bool((await _lease(here.kube))["holderIdentity"].startswith("ctrl-2_"))

    await here.until(taken_over)
    assert names.CONFIG_FINALIZER in (await here.config())["metadata"]["finalizers"], "an update undoes nothing"
    assert await here.get(r.RUNTIME_CLASSES, "kata-remote")
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)

    async def gone() -> bool:
        return await here.config() is None

    await here.until(gone)
    events, _ = await here.kube.list(r.EVENTS, NAMESPACE)
    assert {"SetUp", "Removing"} <= {event["reason"] for event in events}
    assert "Traceback" not in first.log.read_text() + second.log.read_text()


@pytest_twisted.ensureDeferred
async def test_the_namespace_goes_first(here: Scene, double: Double, tmp_path: Path, children: list[Child]) -> None:
    child = Child(tmp_path, double.kubeconfig_dict(), 1)
    children.append(child)
    await _serving(here, child)
    double.seed(r.NAMESPACES, {"metadata": {"name": "apps"}})
    meta = {"name": "p", "namespace": "apps", "finalizers": [names.FINALIZER]}
    await here.create(r.PEER_PODS, {"metadata": meta, "spec": {"cloudProvider": "memory", "instanceID": "i-1"}})
    await here.kube.delete(r.NAMESPACES, NAMESPACE)
    child.process.send_signal(signal.SIGTERM)

    async def gone() -> bool:
        return await here.get(r.NAMESPACES, NAMESPACE) is None

    await here.until(gone)
    await here.until(child.ended)
    assert await here.names(r.RUNTIME_CLASSES) == []
    assert await here.names(r.MUTATING_WEBHOOKS) == []
    assert not (await here.get(r.NODES, "n1"))["status"]["capacity"]
    left = await here.get(r.PEER_PODS, "p", "apps")
    assert left["metadata"]["deletionTimestamp"], "peerpod-ctrl sees to its VM"
    assert "Traceback" not in child.log.read_text()


@pytest_twisted.ensureDeferred
async def test_only_the_deployment_goes(here: Scene, double: Double, tmp_path: Path, children: list[Child]) -> None:
    child = Child(tmp_path, double.kubeconfig_dict(), 1)
    children.append(child)
    await _serving(here, child)
    await here.kube.delete(r.DEPLOYMENTS, CTRL, NAMESPACE)
    child.process.send_signal(signal.SIGTERM)
    await here.until(child.ended)
    assert "finalizers" not in (await here.config())["metadata"] or (
        names.CONFIG_FINALIZER not in (await here.config())["metadata"]["finalizers"]
    )
    assert await here.get(r.RUNTIME_CLASSES, "kata-remote"), "the set-up itself stays"
    text = child.log.read_text()
    assert "finalizer_stripped" in text
    assert "peerpods uninstall --force" in text
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)
    assert await here.config() is None, "nothing hangs"


@pytest_twisted.ensureDeferred
async def test_a_bound_for_the_end(here: Scene, double: Double, tmp_path: Path, children: list[Child]) -> None:
    child = Child(tmp_path, double.kubeconfig_dict(), 1, "--finish=3")
    children.append(child)
    await _serving(here, child)
    double.seed(r.NAMESPACES, {"metadata": {"name": "apps"}})
    meta = {"name": "p", "namespace": "apps", "finalizers": [names.FINALIZER]}
    await here.create(r.PEER_PODS, {"metadata": meta, "spec": {"cloudProvider": "memory", "instanceID": "i-1"}})
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)

    async def waiting() -> bool:
        return bool((await here.condition("Deleting")).get("reason") == "WaitingPeerPods")

    await here.until(waiting)
    await here.kube.delete(r.DEPLOYMENTS, CTRL, NAMESPACE)
    child.process.send_signal(signal.SIGTERM)
    await here.until(child.ended)
    assert await here.config() is None
    assert "finalizer_stripped" in child.log.read_text()
