"""The service in this process: what it does when it leads no more, and at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred

from peerpods.aio import spawn
from peerpods.kube.client import KubeSettings
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.peerpodconfig.service import PeerPodConfigService
from peerpods.kube.peerpodconfig.settings import PeerPodConfigCtrlSettings
from tests.kube.double import Double
from tests.kube.peerpodconfig.harness import Scene, scene
from tests.kube.peerpodconfig.samples import NAMESPACE, config_object

IGNORE = {"failurePolicy": "Ignore"}


@pytest_twisted.async_yield_fixture
async def here(double: Double, tmp_path: Path) -> AsyncIterator[Scene]:
    """The admin's client; `service` is the controller's process."""
    from twisted.internet import reactor

    double.knobs.users = {"admin-token": "admin", "own-token": "own"}
    double.seed(r.NAMESPACES, {"metadata": {"name": NAMESPACE}})
    labels = {"app": "ctrl"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    double.seed(r.DEPLOYMENTS, {"metadata": {"name": names.PEER_POD_CONFIG_CTRL, "namespace": NAMESPACE}, "spec": spec})
    async with scene(reactor, tmp_path, double.kubeconfig_dict("admin-token")) as admin:
        await admin.config_map(CLOUD_PROVIDER="memory")
        await admin.node("n1")
        yield admin


def service_of(here: Scene, double: Double, folder: Path) -> PeerPodConfigService:
    import json

    path = folder / "own"
    path.write_text(json.dumps(double.kubeconfig_dict("own-token")))
    settings = PeerPodConfigCtrlSettings(namespace=NAMESPACE, identity="one", resync=1.0, finish=20.0)
    return PeerPodConfigService(settings, KubeSettings(kubeconfig=str(path)), here.reactor)


async def leads(here: Scene, service: PeerPodConfigService) -> None:
    async def probe() -> bool:
        return service.controller is not None and service.controller.synced

    await here.until(probe)


async def set_up(here: Scene, service: PeerPodConfigService) -> None:
    await leads(here, service)
    await here.create(r.PEER_POD_CONFIGS, config_object(limit="4", webhook=IGNORE))
    await here.workloads_ready()
    await here.until_reason("SetUp")


@pytest_twisted.ensureDeferred
async def test_the_lease_goes_with_the_namespace_and_the_rest_is_undone(
    here: Scene, double: Double, tmp_path: Path
) -> None:
    service = service_of(here, double, tmp_path)
    await service.startService()
    await set_up(here, service)
    # Something of the removal takes longer than a lease that cannot be renewed.
    double.knobs.authorizer = lambda asked: asked.user != "own" or asked.subresource != "status"
    await here.kube.delete(r.NAMESPACES, NAMESPACE)
    assert service._election is not None
    service._election._lost("it could not be renewed: its namespace goes")

    async def follows() -> bool:
        return service.controller is None

    await here.until(follows)
    double.knobs.authorizer = lambda _: True
    await service.stopService()
    assert await here.config() is None, "or its namespace hangs"
    assert (await here.get(r.NODES, "n1"))["status"]["capacity"] == {}
    assert await here.names(r.RUNTIME_CLASSES) == []


@pytest_twisted.ensureDeferred
async def test_a_lease_that_is_lost_while_all_is_undone_stops_nothing(
    here: Scene, double: Double, tmp_path: Path
) -> None:
    service = service_of(here, double, tmp_path)
    await service.startService()
    await set_up(here, service)
    double.knobs.authorizer = lambda asked: asked.user != "own" or asked.subresource != "status"
    await here.kube.delete(r.NAMESPACES, NAMESPACE)
    ended = service.stopService()

    async def undoing() -> bool:
        return service._ending

    await here.until(undoing)
    assert service._election is not None
    service._election._lost("it could not be renewed: its namespace goes")
    double.knobs.authorizer = lambda _: True
    await ended
    assert await here.config() is None
    assert (await here.get(r.NODES, "n1"))["status"]["capacity"] == {}


@pytest_twisted.ensureDeferred
async def test_an_api_server_that_was_away_at_the_start_is_asked_again_for_our_deployment(
    here: Scene, double: Double, tmp_path: Path
) -> None:
    service = service_of(here, double, tmp_path)
    double.fail_next(4, 503)  # all tries of one read
    await service.startService()
    assert service._installed is None
    await set_up(here, service)
    assert service._installed is True
    double.remove(r.DEPLOYMENTS, names.PEER_POD_CONFIG_CTRL, NAMESPACE, now=True)
    await service.stopService()
    finalizers = (await here.config())["metadata"].get("finalizers") or []
    assert names.CONFIG_FINALIZER not in finalizers, "nobody comes after us to take it off"


@pytest_twisted.ensureDeferred
async def test_nothing_is_begun_while_a_provider_takes_its_time_to_stop(here: Scene) -> None:
    called: list[str] = []
    stopping: Deferred[None] = Deferred()

    class Slow:
        name = "memory"

        async def start(self) -> None:
            called.append("start")
            await Deferred()

        async def stop(self) -> None:
            called.append("stop")
            await stopping

    def make(*_: Any) -> Any:
        return Slow()

    controller = await here.start(make_provider=make)
    await here.create(r.PEER_POD_CONFIGS, config_object(webhook=IGNORE))

    async def checks() -> bool:
        return called == ["start"]

    await here.until(checks)
    ended = spawn(controller.stop())
    assert called == ["start", "stop"] and not ended.called
    queues = (controller._configs, controller._nodes, controller._namespaces)
    assert [queue._started for queue in queues] == [False, False, False]
    stopping.callback(None)
    await ended
