"""The controller may die at any write, while it sets up and while it undoes; the next one comes to the same end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from tests.kube.double import Double
from tests.kube.peerpodconfig.harness import Scene, connected, scene
from tests.kube.peerpodconfig.samples import NAMESPACE, config_object

CLASSES = [{"name": "kata-remote"}, {"name": "other", "resourceName": "example.com/vm"}]
READS = ("get", "list", "watch")


@pytest_twisted.async_yield_fixture
async def here(double: Double, tmp_path: Path) -> AsyncIterator[Scene]:
    """A client of the test's own, `admin`, whom no crash concerns."""
    from twisted.internet import reactor

    double.knobs.users = {"admin-token": "admin", "own-token": "own"}
    double.seed(r.NAMESPACES, {"metadata": {"name": NAMESPACE}})
    async with scene(reactor, tmp_path, double.kubeconfig_dict("admin-token")) as admin:
        await admin.config_map(CLOUD_PROVIDER="memory")
        await admin.node("n1")
        admin.kubeconfig = double.kubeconfig_dict("own-token")  # type: ignore[attr-defined]
        admin.folder = tmp_path / "own"  # type: ignore[attr-defined]
        admin.folder.mkdir()  # type: ignore[attr-defined]
        yield admin


class Process:
    """A controller with its own client, whose writes end after some: from then on it is as dead."""

    def __init__(self, admin: Any, double: Double, writes: int | None) -> None:
        self.admin, self.double, self.left = admin, double, writes
        self.dead = False
        self.scene: Scene | None = None

    async def start(self) -> None:
        self.double.knobs.authorizer = self._allowed
        kube = await connected(self.admin.reactor, self.admin.folder, self.admin.kubeconfig)
        self.scene = Scene(self.admin.reactor, kube)
        await self.scene.start()

    def _allowed(self, asked: Any) -> bool:
        if asked.user != "own" or asked.verb in READS or self.left is None:
            return True
        if self.left <= 0:
            self.dead = True
            return False
        self.left -= 1
        return True

    async def stop(self) -> None:
        assert self.scene is not None
        await self.scene.stop()
        await self.scene.kube.close()
        self.double.knobs.authorizer = lambda _: True


async def _set_up(admin: Scene) -> None:
    await admin.workloads_ready()
    await admin.until_reason("SetUp")


async def _died_or(process: Process, done: Any) -> bool:
    async def probe() -> bool:
        return process.dead or bool(await done())

    await process.admin.until(probe)
    return process.dead


@pytest.mark.parametrize("writes", range(0, 8, 2))
@pytest_twisted.ensureDeferred
async def test_setting_up(here: Scene, double: Double, writes: int) -> None:
    await here.create(r.PEER_POD_CONFIGS, config_object(limit="4"))
    process = Process(here, double, writes)
    await process.start()

    async def some() -> bool:
        return process.left == 0

    await _died_or(process, some)
    await process.stop()
    after = Process(here, double, None)
    await after.start()
    await _set_up(here)
    assert (await here.get(r.NODES, "n1"))["status"]["capacity"] == {names.EXTENDED_RESOURCE: "4"}
    assert await here.names(r.RUNTIME_CLASSES) == ["kata-remote"]
    await after.stop()


@pytest.mark.parametrize("writes", [*range(8), 10, 12, 14, 16, 40])
@pytest_twisted.ensureDeferred
async def test_undoing(here: Scene, double: Double, writes: int) -> None:
    await here.create(r.PEER_POD_CONFIGS, config_object(webhook={"failurePolicy": "Ignore"}, runtimeClasses=CLASSES))
    first = Process(here, double, None)
    await first.start()
    await _set_up(here)
    double.seed(r.NAMESPACES, {"metadata": {"name": "apps"}})
    pod = {
        "runtimeClassName": "kata-remote",
        "containers": [{"name": "c", "image": "i"}],
        "imagePullSecrets": [{"name": "s"}],
    }
    await here.create(r.PODS, {"metadata": {"name": "web", "namespace": "apps"}, "spec": pod})
    await here.until(lambda: here.get(r.ROLE_BINDINGS, names.PULL_SECRETS_ROLE, "apps"))
    await here.create(r.PEER_PODS, {"metadata": {"name": "p", "namespace": "apps"}, "spec": {"instanceID": "i"}})
    await here.pause(0.3)
    first.left = writes
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)

    async def gone() -> bool:
        return await here.config() is None

    died = await _died_or(first, gone)
    await first.stop()
    if died:
        assert writes < 40, "this many writes are never needed"
        assert await here.config(), "the finalizer stays until the end"
        after = Process(here, double, None)
        await after.start()
        await here.until(gone)
        await here.pause(0.1)
        await after.stop()
    for kind in (r.DAEMON_SETS, r.DEPLOYMENTS, r.SERVICES, r.NETWORK_POLICIES):
        assert await here.names(kind, NAMESPACE) == [], kind
    for kind in (r.RUNTIME_CLASSES, r.MUTATING_WEBHOOKS, r.ROLES, r.ROLE_BINDINGS, r.PEER_PODS):
        assert await here.names(kind) == [], kind
    assert not (await here.get(r.NODES, "n1"))["status"]["capacity"]
