"""Sweeps with a cluster and a cloud in memory."""

from __future__ import annotations

from typing import Any

import pytest

from peerpods.aio import spawn
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.resources import NODES, PEER_PODS, PODS
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.kube.peerpod.sweeping import mode_of
from tests.kube.peerpod.fakes import World
from tests.kube.peerpod.making import SANDBOX, obj

LOST = "9" * 64


def a_world(**settings: Any) -> World:
    world = World(**settings)
    world.kube.put(NODES, {"metadata": {"name": "n1", "uid": "n"}})
    return world


def sweep(world: World, rounds: int = 1) -> None:
    for _ in range(rounds):
        ended: list[object] = []
        spawn(world.sweeper.round()).addBoth(ended.append)
        world.run(1)
        assert ended == [None]


def test_a_vm_that_nobody_knows_goes_in_the_second_round() -> None:
    world = a_world()
    vm = world.instance(LOST, node="gone")
    kept = {world.instance(SANDBOX), world.instance("8" * 64, node="n1"), world.instance("7" * 64, cluster="green")}
    sweep(world)
    assert vm in world.cloud.records
    sweep(world)
    assert set(world.cloud.records) == kept


@pytest.mark.parametrize(
    ("setting", "cluster", "mode"),
    [
        ("auto", "blue", "delete"),
        ("auto", "default", "report"),
        ("auto", "", "report"),
        ("delete", "default", "delete"),
        ("report", "blue", "report"),
        ("off", "blue", "off"),
    ],
)
def test_what_is_done_with_it(setting: str, cluster: str, mode: str) -> None:
    assert mode_of(PeerPodCtrlSettings(sweep=setting, cluster=cluster)) == mode
    world = a_world(sweep=setting, cluster=cluster)
    vm = world.instance(LOST, node="gone", cluster=cluster or "x")
    sweep(world, 3)
    assert (vm not in world.cloud.records) is (mode == "delete")
    assert bool(world.cloud.calls[1:]) is (mode != "off")


def test_a_peer_pod_or_node_that_our_cache_lacks_saves_it() -> None:
    world = a_world()
    one, two = world.instance(LOST, node="gone"), world.instance("8" * 64, node="new")
    world.kube.put(PEER_PODS, obj(sandbox=LOST, instance_id="", node="gone"))
    world.views.clear()
    world.kube.put(NODES, {"metadata": {"name": "new", "uid": "n2"}})
    sweep(world, 3)
    assert set(world.cloud.records) == {one, two}


def test_a_pod_whose_adaptor_calls_its_node_otherwise_keeps_its_vm() -> None:
    world = a_world()
    world.kube.put(PODS, {"metadata": {"name": "web", "namespace": "shop", "uid": "u"}})
    vm = world.instance(LOST, node="host.local")
    sweep(world, 3)
    assert vm in world.cloud.records
    world.kube.put(PEER_PODS, obj(sandbox=SANDBOX))
    sweep(world)
    assert vm not in world.cloud.records, "the pod of that name has another VM"


def test_without_an_answer_nothing_is_deleted() -> None:
    world = a_world()
    vm = world.instance(LOST, node="gone")
    sweep(world)
    world.kube.errors.append(("get nodes", ApiError("away")))
    sweep(world)
    world.kube.errors.append(("list peerpods", ApiError("away")))
    sweep(world)
    assert vm in world.cloud.records
    sweep(world)
    assert vm not in world.cloud.records


def test_rounds_are_bounded_and_failures_wait() -> None:
    world = a_world(sweep_limit=2)
    for n in range(5):
        world.instance(f"{n}" * 64, node="gone")
    sweep(world, 2)
    assert len(world.cloud.records) == 3
    world.faults.delete_errors = 1
    sweep(world)
    assert len(world.cloud.records) == 2
    world.faults.throttled = 1
    sweep(world)
    assert len(world.cloud.records) == 2
    sweep(world)
    assert not world.cloud.records


def test_a_new_leader_counts_anew() -> None:
    world = a_world()
    vm = world.instance(LOST, node="gone")
    sweep(world)
    world.sweeper.forget()
    sweep(world)
    assert vm in world.cloud.records


def test_clouds_that_peer_pods_name_are_swept_too() -> None:
    world = a_world(provider="")
    assert world.sweeper.names() == []
    world.kube.put(PEER_PODS, obj(provider="memory"))
    world.kube.put(PEER_PODS, obj(provider="gcp", name="other", uid="pp-2"))
    assert world.sweeper.names() == ["memory"]
