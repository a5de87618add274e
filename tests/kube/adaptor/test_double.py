"""The adaptor with its real client against the API server in memory: what needs HTTP, and no real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest_twisted
import yaml
from twisted.internet import reactor
from twisted.internet.task import deferLater

from peerpods.adaptor.kube.connect import open_cluster
from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.adaptor.service import AdaptorService
from peerpods.config.settings import GuestSettings
from peerpods.kube.client import KubeSettings
from peerpods.kube.objects import resources as r
from tests.adaptor.test_service import Idle, Machine
from tests.adaptor.world import FakeNetwork
from tests.kube.double import Double

NODE = "node-1"


class DoubleMachine(Machine):
    """A node of the cluster in memory."""

    def __init__(self, double: Double, folder: Path) -> None:
        self.double = double
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(double.kubeconfig_dict()))
        double.seed(r.NODES, {"metadata": {"name": NODE}, "status": {"capacity": {"cpu": "4"}}})
        spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}
        self.pod = double.seed(r.PODS, {"metadata": {"name": "web", "namespace": "lab"}, "spec": spec})
        super().__init__()

    def make(self, guest: GuestSettings | None = None, **changes: Any) -> AdaptorService:
        settings = attrs.evolve(self.settings, node=NODE, **changes)

        async def cluster(place, limit):
            return await open_cluster(
                reactor, settings, KubeSettings(kubeconfig=str(self.kubeconfig)), place, "memory", limit
            )

        network = FakeNetwork(self.node, Idle())
        guest = guest or GuestSettings()
        return AdaptorService(settings, guest, self.provider, reactor, network=network, open_cluster=cluster)

    def phases(self) -> list[str]:
        return [one.get("status", {}).get("phase", "") for one in self.double.store.list(r.PEER_PODS, "lab")]

    def reasons(self) -> set[str]:
        return {one["reason"] for one in self.double.store.list(r.EVENTS, "lab")}


async def on_double(double: Double, folder: Path, test) -> None:
    machine = DoubleMachine(double, folder)
    await machine.up()
    try:
        await test(machine)
    finally:
        await machine.down()


async def start(machine: DoubleMachine) -> None:
    await machine.create(**{NAME: "web", NAMESPACE: "lab"})
    await machine.start()


@pytest_twisted.ensureDeferred
async def test_a_life(double, tmp_path):
    async def play(machine: DoubleMachine) -> None:
        await start(machine)
        await machine.until(lambda: machine.phases() == ["Running"])
        await machine.until(lambda: machine.reasons() == {"PeerPodLaunching", "PeerPodReady"})
        await machine.stop()
        await machine.until(lambda: machine.phases() == [])
        assert not [one for one in double.seen if one.path.startswith("/api/v1/secrets")]

    await on_double(double, tmp_path, play)


@pytest_twisted.ensureDeferred
async def test_an_api_server_that_is_away_from_before_the_start(double, tmp_path):
    async def play(machine: DoubleMachine) -> None:
        await start(machine)
        await machine.until(lambda: machine.phase() == "running")
        await double.start()
        await machine.until(lambda: machine.phases() == ["Running"], 40)
        await machine.until(lambda: "ownerReferences" in double.store.list(r.PEER_PODS, "lab")[0]["metadata"])
        (obj,) = double.store.list(r.PEER_PODS, "lab")
        assert obj["metadata"]["ownerReferences"][0]["uid"] == machine.pod["metadata"]["uid"]
        await machine.until(lambda: machine.reasons() == {"PeerPodLaunching", "PeerPodReady"}, 40)

    machine = DoubleMachine(double, tmp_path)
    await double.stop()
    await machine.up()
    try:
        await play(machine)
    finally:
        await machine.down()


@pytest_twisted.ensureDeferred
async def test_refused_writes_are_made_good(double, tmp_path):
    async def play(machine: DoubleMachine) -> None:
        path = r.PEER_PODS.path("lab")
        double.fail_next(2, 500, method="POST", path=path)
        double.fail_next(2, 409, method="PATCH", reason="Conflict")
        await start(machine)
        await machine.until(lambda: machine.phases() == ["Running"])
        double.fail_next(1, 0, method="DELETE")
        double.fail_next(1, 422, method="PATCH")
        await machine.stop()
        await machine.until(lambda: machine.phases() == [])

    await on_double(double, tmp_path, play)


@pytest_twisted.ensureDeferred
async def test_a_lost_watch_hides_no_deletion(double, tmp_path, monkeypatch):
    monkeypatch.setattr("peerpods.adaptor.kube.podwatch.GRACE", 0.5)

    async def play(machine: DoubleMachine) -> None:
        await start(machine)
        await machine.until(lambda: machine.phases() == ["Running"])
        double.expire()
        double.remove(r.PODS, "web", "lab", now=True)
        await machine.until(lambda: machine.phase() == "gone")
        await machine.until(lambda: machine.phases() == [])

    await on_double(double, tmp_path, play)


@pytest_twisted.ensureDeferred
async def test_it_stops_soon_with_the_api_server_hanging(double, tmp_path):
    machine = DoubleMachine(double, tmp_path)
    await machine.up()
    await start(machine)
    double.pause()
    begun = reactor.seconds()
    await machine.down()
    assert reactor.seconds() - begun < 8
    double.resume()
    await deferLater(reactor, 0)
