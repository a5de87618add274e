"""The sweep's judgement: nobody's but ours, only after two looks, never on a node that exists."""

from __future__ import annotations

from typing import Any

import pytest

from peerpods.clouds.interface import TAG_CLUSTER, TAG_NAMESPACE, TAG_NODE, TAG_POD, TAG_SANDBOX
from peerpods.kube.peerpod.sweep import Cluster, is_lost, judge, may_delete
from peerpods.model import Instance, InstanceState


def vm(
    number: int = 1, *, token: str | None = None, state: InstanceState = InstanceState.RUNNING, **tags: str
) -> Instance:
    sandbox = f"s{number}"
    found = {
        TAG_CLUSTER: "blue",
        TAG_SANDBOX: sandbox,
        TAG_NODE: "gone",
        TAG_POD: "web",
        TAG_NAMESPACE: "shop",
        **{f"peerpods-{key}": value for key, value in tags.items()},
    }
    kept = tuple((key, value) for key, value in found.items() if value)
    return Instance(
        id=f"i-{number}", name="x", token=f"{sandbox}-1" if token is None else token, state=state, tags=kept
    )


def cluster(**changes: Any) -> Cluster:
    return Cluster(**{"name": "blue", "sandboxes": {"s9"}, "instances": {"i-8"}, "nodes": {"n1"}, **changes})


@pytest.mark.parametrize(
    ("name", "instance", "lost"),
    [
        ("nobody knows it", vm(), True),
        ("another cluster's", vm(cluster="green"), False),
        ("no cluster", vm(cluster=""), False),
        ("its node exists", vm(node="n1"), False),
        ("it names no node", vm(node=""), False),
        ("it names no sandbox", vm(sandbox=""), False),
        ("its sandbox has a PeerPod", vm(9), False),
        ("a PeerPod names its id", vm(8), False),
        ("a token that is another's", vm(token="s2-1"), False),
        ("a token that is none of ours", vm(token="s1-x"), False),
        ("no token", vm(token=""), False),
        ("going already", vm(state=InstanceState.DELETING), False),
        ("stopped is not gone", vm(state=InstanceState.STOPPED), True),
    ],
)
def test_which_instance_is_lost(name: str, instance: Instance, lost: bool) -> None:
    assert (is_lost(instance, cluster()) is not None) is lost, name


def test_a_cluster_without_a_name_has_no_lost_instances() -> None:
    assert is_lost(vm(cluster=""), cluster(name="")) is None


def test_only_what_is_lost_twice_in_a_row_is_ripe() -> None:
    first = judge([vm(1), vm(2)], cluster(), {}, 10)
    assert first.ripe == () and first.seen == {"i-1": 1, "i-2": 1}
    second = judge([vm(1)], cluster(), first.seen, 10)
    assert [one.instance.id for one in second.ripe] == ["i-1"] and second.seen == {"i-1": 2}
    known = judge([vm(1)], cluster(sandboxes={"s1"}), first.seen, 10)
    assert known.ripe == () and known.seen == {}
    assert judge([vm(2)], cluster(), second.seen, 10).ripe == ()


def test_a_round_is_bounded_and_the_longest_lost_come_first() -> None:
    seen = {"i-3": 4, "i-1": 1, "i-2": 1}
    assert [one.instance.id for one in judge([vm(1), vm(2), vm(3)], cluster(), seen, 2).ripe] == ["i-3", "i-1"]


@pytest.mark.parametrize(
    ("others", "node", "pod", "delete"),
    [
        ((), False, False, True),
        ((), True, False, False),
        ((), False, True, False),
        (("s1",), False, True, False),
        (("s5",), False, True, True),
        (("s5",), True, True, False),
    ],
)
def test_the_last_look(others: tuple[str, ...], node: bool, pod: bool, delete: bool) -> None:
    found = is_lost(vm(), cluster(pods_with={("shop", "web"): others}))
    assert found is not None
    assert may_delete(found, node_exists=node, pod_exists=pod) is delete
