"""The controller with a cluster and a cloud in memory: each way in which a PeerPod can be left, and each crash."""

from __future__ import annotations

from typing import Any

import pytest

from peerpods.errors import CloudError, CloudFailure
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.peerpod import DELETED, owner_of
from peerpods.kube.objects.resources import CRDS, NAMESPACES, NODES, PEER_PODS, PODS
from tests.kube.peerpod.fakes import Axe, World
from tests.kube.peerpod.making import NOW, SANDBOX, obj

CRD = {"metadata": {"name": "peerpods.confidentialcontainers.org", "uid": "crd"}}
OTHER = "f" * 64


def a_pod(name: str = "web", uid: str = "u-1", node: str = "n1", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "uid": uid, **metadata}, "spec": {"nodeName": node}}


def a_world(**settings: Any) -> World:
    world = World(**settings)
    world.kube.put(NAMESPACES, {"metadata": {"name": "shop", "uid": "ns"}})
    world.kube.put(CRDS, CRD)
    world.kube.put(NODES, {"metadata": {"name": "n1", "uid": "n"}})
    return world


def test_the_pod_is_gone_and_no_adaptor_acts() -> None:
    world = a_world()
    vm = world.instance(SANDBOX)
    key = world.add(obj(instance_id=vm, deleting=0))
    world.run(29)
    assert vm in world.cloud.records, "the adaptor has its grace"
    world.run(3)
    assert not world.cloud.records and world.peer_pod(key) is None
    assert world.told.reasons == ["VMDeleted"]


def test_no_grace_where_no_adaptor_can_live() -> None:
    for nodes in ({"n1": False}, {}):
        world = a_world()
        world.nodes.clear()
        world.nodes.update(nodes)
        key = world.add(obj(instance_id=world.instance(SANDBOX), deleting=0))
        world.run(2)
        assert not world.cloud.records and world.peer_pod(key) is None


def test_by_tag_when_nobody_wrote_the_id_down_and_the_create_was_in_flight() -> None:
    world = a_world()
    world.nodes.clear()
    key = world.add(obj(instance_id="", deleting=0))
    world.run(1)
    world.instance(SANDBOX, token=f"{SANDBOX}-1")
    world.run(5)
    assert not world.cloud.records and world.peer_pod(key) is not None, "a third look is due"
    late = world.instance(SANDBOX, token=f"{SANDBOX}-2")
    world.run(15)
    assert late not in world.cloud.records and world.peer_pod(key) is None


def test_every_instance_of_the_sandbox_goes_not_only_the_named() -> None:
    world = a_world()
    world.nodes.clear()
    vm = world.instance(SANDBOX)
    world.instance(SANDBOX, token=f"{SANDBOX}-2")
    stranger = world.instance(OTHER)
    green = world.instance(SANDBOX, token="green-1", cluster="green")
    world.add(obj(instance_id=vm, deleting=0))
    world.run(2)
    assert set(world.cloud.records) == {stranger, green}


def test_not_found_is_done() -> None:
    world = a_world()
    key = world.add(obj(instance_id="i-long-gone", deleting=40))
    world.run(1)
    assert world.peer_pod(key) is None and world.told.reasons == ["VMDeleted"]


@pytest.mark.parametrize(
    "lie",
    [
        {},
        {"sandbox": ""},
        {"sandbox": OTHER, "namespace": "theirs"},
        {"sandbox": OTHER, "cluster": "green"},
    ],
)
def test_an_instance_of_another_is_left_alone_whatever_the_object_says(lie: dict[str, str]) -> None:
    world = a_world()
    victim = world.instance(OTHER)
    key = world.add(obj(instance_id=victim, deleting=40, **lie))
    world.run(1)
    assert victim in world.cloud.records and world.peer_pod(key) is None
    assert world.told.reasons == ["VMMayBeLeft"]


def test_failures_are_told_in_the_clouds_words_and_tried_again() -> None:
    world = a_world()
    vm = world.instance(SANDBOX)
    world.faults.delete_errors = 3
    key = world.add(obj(instance_id=vm, deleting=40))
    world.run(1)
    view = world.peer_pod(key)
    assert view is not None and view.phase == "Deleting"
    condition = view.condition(DELETED)
    assert condition is not None and condition["status"] == "False" and condition["reason"] == "CloudError"
    assert "internal error" in view.last_error and "internal error" in condition["message"]
    world.run(10)
    assert not world.cloud.records and world.peer_pod(key) is None
    assert world.told.reasons == ["VMDeletionFailed", "VMDeleted"]


def test_refused_credentials_are_tried_anew_with_a_new_provider() -> None:
    world = a_world()
    vm = world.instance(SANDBOX)
    world.refusals += [CloudError("AuthFailure", kind=CloudFailure.DENIED, remedy="renew the keys")] * 6
    key = world.add(obj(instance_id=vm, deleting=40))
    world.run(1)
    view = world.peer_pod(key)
    assert view is not None and (view.condition(DELETED) or {})["reason"] == "ProviderUnusable"
    assert "renew the keys" in view.last_error
    world.run(120)
    assert world.peer_pod(key) is None and world.made >= 2


def test_an_object_without_owner_stops_nobody_and_is_deleted_when_its_pod_is_gone() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod("other", "u-2"))
    bare = obj(sandbox="", pod_uid="", instance_id=world.instance(""), provider="memory")
    bare["spec"] = {"cloudProvider": "memory", "instanceID": bare["spec"]["instanceID"]}
    del bare["metadata"]["labels"]
    bare["metadata"]["name"] = "web-resource-x7k2p"
    key = world.add(bare)
    healthy = world.add(obj(pod="other", pod_uid="u-2", uid="pp-2", sandbox=OTHER, phase="Running"))
    world.run(20)
    assert world.peer_pod(key) is not None
    world.run(20)
    assert world.peer_pod(key) is None and world.peer_pod(healthy) is not None


def test_a_deletion_with_propagation_orphan() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod())
    vm = world.instance(SANDBOX)
    key = world.add(obj(instance_id=vm, phase="Running"))
    world.run(5)
    found = world.kube.objects[PEER_PODS.plural, key]
    del found["metadata"]["ownerReferences"]
    world.kube.drop(PODS, "web", "shop")
    world.kube.put(PEER_PODS, found)
    world.run(100)
    assert world.peer_pod(key) is None and vm not in world.cloud.records


def test_the_garbage_collector_does_nothing() -> None:
    world = a_world(recheck=60.0)
    key = world.add(obj(instance_id=world.instance(SANDBOX), phase="Running"))
    world.run(60 + 30 + 30 + 5)
    assert world.peer_pod(key) is None and not world.cloud.records


def test_a_pod_of_the_same_name_is_another_pod() -> None:
    world = a_world(recheck=60.0)
    world.kube.put(PODS, a_pod(uid="u-new"))
    key = world.add(obj(instance_id=world.instance(SANDBOX), phase="Running"))
    world.run(125)
    assert world.peer_pod(key) is None


def test_a_running_pod_is_left_alone_and_seldom_asked_for() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod())
    key = world.add(obj(instance_id=world.instance(SANDBOX), phase="Running"))
    world.run(1300, step=10)
    assert world.peer_pod(key) is not None and world.cloud.records
    assert world.axe.calls.count("get pods") in (2, 3) and not world.told.events


def test_a_gone_node() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod())
    key = world.add(obj(instance_id=world.instance(SANDBOX), phase="Running"))
    world.run(1)
    del world.nodes["n1"]
    world.kube.drop(NODES, "n1")
    world.controller.node_changed("n1", None)
    world.run(55)
    assert world.peer_pod(key) is not None
    world.run(10)
    assert world.peer_pod(key) is None and not world.cloud.records


def test_a_node_that_the_cache_lacks_but_the_server_has() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod())
    key = world.add(obj(instance_id=world.instance(SANDBOX), phase="Running"))
    del world.nodes["n1"]
    world.controller.node_changed("n1", None)
    world.run(300)
    assert world.peer_pod(key) is not None and world.cloud.records


def test_an_adaptor_that_calls_its_node_otherwise() -> None:
    world = a_world(recheck=60.0)
    world.kube.put(PODS, a_pod())
    key = world.add(obj(instance_id=world.instance(SANDBOX), node="host.local", phase="Running"))
    world.run(300)
    assert world.peer_pod(key) is not None and world.cloud.records


def test_same_second_objects_of_one_pod() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod())
    old, new = world.instance("a" * 64), world.instance("b" * 64)
    left = world.add(obj(sandbox="a" * 64, uid="pp-a", instance_id=old, phase="Failed"))
    stays = world.add(obj(sandbox="b" * 64, uid="pp-b", instance_id=new, phase="Booting"))
    world.run(60)
    assert set(world.cloud.records) == {old, new}, "the newer does not run yet"
    found = world.kube.objects[PEER_PODS.plural, stays]
    world.kube.put(PEER_PODS, {**found, "status": {**found["status"], "phase": "Running"}})
    world.run(35)
    assert set(world.cloud.records) == {new}
    assert world.peer_pod(left) is None and world.peer_pod(stays) is not None


@pytest.mark.parametrize("provider", ["gcp", ""])
def test_an_unknown_provider_harms_nobody_else(provider: str) -> None:
    world = a_world(provider="")
    lost = world.add(obj(provider=provider, deleting=40))
    fine = world.add(obj(sandbox=OTHER, pod="b", uid="pp-2", instance_id=world.instance(OTHER), deleting=40))
    world.run(600, step=5)
    view = world.peer_pod(lost)
    assert view is not None and view.held and world.peer_pod(fine) is None
    assert (view.condition(DELETED) or {})["reason"] == "UnknownProvider" and view.last_error
    assert world.told.reasons.count("UnknownProvider") == 1
    assert world.axe.calls.count("patch peerpods/status") < 6, "it is not looked at in a hurry"


def test_a_terminating_namespace_is_let_go_after_the_bound() -> None:
    world = a_world()
    world.faults.delete_errors = 10**6
    vm = world.instance(SANDBOX)
    key = world.add(obj(instance_id=vm, deleting=0))
    world.kube.put(NAMESPACES, {"metadata": {"name": "shop", "uid": "ns", "deletionTimestamp": "x"}})
    world.run(260)
    assert world.peer_pod(key) is not None
    world.run(30)
    assert world.peer_pod(key) is None, "within five minutes"
    (note,) = [note for kind, reason, note in world.told.events if reason == "VMMayBeLeft"]
    assert vm in note and SANDBOX in note and "internal error" in note


def test_a_failing_deletion_where_nothing_waits_is_never_given_up() -> None:
    world = a_world()
    world.faults.delete_errors = 20
    key = world.add(obj(instance_id=world.instance(SANDBOX), deleting=0))
    world.run(900, step=5)
    assert world.peer_pod(key) is not None and "VMMayBeLeft" not in world.told.reasons
    world.faults.delete_errors = 0
    world.run(310, step=5)
    assert world.peer_pod(key) is None


def test_the_crd_goes_and_the_provider_is_unknown() -> None:
    world = a_world()
    key = world.add(obj(provider="gcp", deleting=0))
    world.kube.put(CRDS, {"metadata": {**CRD["metadata"], "deletionTimestamp": "x"}})
    world.run(290)
    assert world.peer_pod(key) is None and "VMMayBeLeft" in world.told.reasons


def test_a_hanging_cloud_call_is_cut_off() -> None:
    world = a_world()
    vm = world.instance(SANDBOX)
    world.axe.at = 10**6
    key = world.add(obj(instance_id=vm, deleting=40))
    world.faults.delete_polls = 10**6
    world.run(119)
    assert world.peer_pod(key) is not None
    world.run(5)
    view = world.peer_pod(key)
    assert view is not None and "120 s" in view.last_error
    world.faults.delete_polls = 0
    world.run(10)
    assert world.peer_pod(key) is None


def test_the_adaptor_lets_go_first() -> None:
    world = a_world()
    key = world.add(obj(instance_id=world.instance(SANDBOX), deleting=0))
    world.run(5)
    found = world.kube.objects[PEER_PODS.plural, key]
    world.kube.put(PEER_PODS, {**found, "metadata": {**found["metadata"], "finalizers": []}})
    world.run(60)
    assert "cloud delete" not in world.axe.calls and not world.told.events


def test_others_finalizers_stay() -> None:
    world = a_world()
    key = world.add(obj(deleting=40, finalizers=["first", "peer.pod/finalizer", "last"]))
    world.run(2)
    view = world.peer_pod(key)
    assert view is not None and view.finalizers == ("first", "last")
    assert view.cleaned and view.phase == "Released"


@pytest.mark.parametrize("status", [409, 422, 404])
def test_another_writer_between_our_look_and_our_release(status: int) -> None:
    world = a_world()
    key = world.add(obj(deleting=40))
    reason, details = "Conflict" if status == 409 else "", {"name": "web"} if status == 404 else {}
    world.kube.errors.append(("patch", ApiError("x", status=status, reason=reason, details=details)))
    world.run(5)
    if status == 404:
        assert world.peer_pod(key) is not None, "told that it is gone; the watch will say so"
    else:
        assert world.peer_pod(key) is None


def test_a_server_that_does_not_know_the_kind_for_a_moment_is_asked_again() -> None:
    """One that has just started says 404 for every PeerPod: none is let go by that, and none hangs."""
    world = a_world()
    key = world.add(obj(deleting=40))
    world.kube.errors.append(("patch", ApiError("404 page not found", status=404)))
    world.kube.errors.append(("patch", ApiError("404 page not found", status=404)))
    world.run(60)
    assert world.peer_pod(key) is None


def test_finalizers_move_under_our_hands() -> None:
    world = a_world()
    key = world.add(obj(deleting=40))

    def another() -> None:
        found = world.kube.objects[PEER_PODS.plural, key]
        moved = {**found["metadata"], "finalizers": ["theirs", *found["metadata"]["finalizers"]]}
        world.kube.put(PEER_PODS, {**found, "metadata": moved})

    world.run(0)
    world.kube.moved = another
    world.run(3)
    view = world.peer_pod(key)
    assert view is not None and view.finalizers == ("theirs",)


def test_the_api_server_is_away_while_the_vm_goes() -> None:
    world = a_world()
    vm = world.instance(SANDBOX)
    world.kube.errors += [("patch", ApiError("away")) for _ in range(4)]
    key = world.add(obj(instance_id=vm, deleting=40))
    world.run(1)
    assert vm not in world.cloud.records, "the VM's deletion waits for no status"
    world.run(10)
    assert world.peer_pod(key) is None


def test_foreground_deletion_gives_the_pod_its_time() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod(deletionTimestamp="2023-11-14T22:14:20Z", finalizers=["foregroundDeletion"]))
    vm = world.instance(SANDBOX)
    key = world.add(obj(instance_id=vm, deleting=0, phase="Running"))
    world.run(85)
    assert vm in world.cloud.records
    world.run(70)
    assert vm not in world.cloud.records and world.peer_pod(key) is None


def _left_over(world: World) -> None:
    """A pod with an older sandbox, deleted with Orphan, on a gone node: every kind of write is needed."""
    world.nodes.clear()
    world.kube.drop(NODES, "n1")
    made = obj(instance_id="", age=400)
    del made["metadata"]["ownerReferences"]
    world.instance(SANDBOX)
    world.instance(SANDBOX, token=f"{SANDBOX}-2")
    world.add(made)


def _calls() -> list[str]:
    world = a_world()
    _left_over(world)
    world.run(120)
    assert not world.cloud.records and not world.views
    return world.axe.calls


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, len(_calls()) + 1))
def test_killed_around_any_call_it_ends_clean(at: int, after: bool) -> None:
    world = a_world()
    world.restart(Axe(at, after=after))
    _left_over(world)
    world.run(120)
    assert world.axe.fallen
    world.restart()
    world.run(120)
    assert not world.cloud.records and not world.views
    assert world.told.reasons.count("VMMayBeLeft") == 0


def test_killed_again_and_again() -> None:
    world = a_world()
    _left_over(world)
    for at in range(1, 40):
        world.restart(Axe(1 + at % 7, after=bool(at % 2)))
        world.run(35)
    world.restart()
    world.run(120)
    assert not world.cloud.records and not world.views


def test_a_thousand_objects_cost_no_lists_and_no_looks_at_each_other() -> None:
    world = a_world()
    for n in range(1000):
        sandbox = f"{n:064x}"
        world.add(obj(sandbox=sandbox, pod=f"p{n}", pod_uid=f"u{n}", uid=f"pp{n}", phase="Running", name=f"x{n}"))
    world.run(5)
    assert not [call for call in world.axe.calls if call.startswith("list")]
    seen: list[str] = []
    add = world.queue.add
    world.queue.add = lambda key, delay=0.0: (seen.append(key), add(key, delay))[1]  # type: ignore[method-assign]
    found = world.kube.objects[PEER_PODS.plural, "shop/x7"]
    world.kube.put(PEER_PODS, {**found, "status": {**found["status"], "phase": "Failed"}})
    assert set(seen) == {"shop/x7"} and len(world.controller.index) == 1000


def test_owner_patched_in_later() -> None:
    world = a_world()
    world.kube.put(PODS, a_pod())
    key = world.add(obj(pod_uid="", instance_id=world.instance(SANDBOX)))
    world.run(31)
    found = world.kube.objects[PEER_PODS.plural, key]
    found["metadata"]["ownerReferences"] = [owner_of("web", "u-1")]
    world.kube.put(PEER_PODS, found)
    world.run(100)
    assert world.peer_pod(key) is not None
    assert NOW < world.clock.seconds()
