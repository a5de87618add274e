"""The service, with garbage collection and namespaces' end as the API server does them; real with `-m kube`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml

from peerpods.kube.client import ApiError, PatchKind
from peerpods.kube.objects.peerpod import parse
from peerpods.kube.objects.resources import CRDS, DEPLOYMENTS, LEASES, NAMESPACES, PEER_PODS, PODS
from peerpods.kube.peerpod import deletion
from peerpods.kube.peerpod.asking import get_or_none
from peerpods.kube.peerpod.service import READY
from peerpods.obs import ready
from tests.kube.double import Double
from tests.kube.peerpod.stage import Stage

ONE, TWO = "1" * 64, "2" * 64
in_reactor = pytest_twisted.ensureDeferred


@in_reactor
async def test_pod_deleted_garbage_collected_vm_deleted(stage: Stage) -> None:
    vm, other = await stage.vm(ONE), await stage.vm(TWO, pod="other")
    gone = await stage.peer_pod(ONE, await stage.pod(), instance=vm)
    kept = await stage.peer_pod(TWO, await stage.pod("other"), pod="other", instance=other, node="stage-node")
    service = stage.controller()
    await service.startService()
    await stage.until(lambda: ready.is_ready([READY]))
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: stage.gone(PEER_PODS, gone))
    assert set(stage.cloud.records) == {other} and not await stage.gone(PEER_PODS, kept)
    await service.stopService()
    assert await stage.reasons() == ["VMDeleted"] and not ready.is_ready([READY])


@in_reactor
async def test_found_by_tag(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "LOOK_DELAYS", (0.2, 0.5))
    await stage.vm(ONE)
    await stage.vm(ONE, attempt=2)
    name = await stage.peer_pod(ONE, await stage.pod())
    await stage.controller().startService()
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert not stage.cloud.records


@in_reactor
async def test_propagation_orphan(stage: Stage) -> None:
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    await stage.controller().startService()
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0, propagation="Orphan")
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert not stage.cloud.records


@in_reactor
async def test_propagation_foreground(stage: Stage) -> None:
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    await stage.settled()  # the garbage collector must have seen the object, or it waits for none
    await stage.controller().startService()
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0, propagation="Foreground")
    await stage.until(lambda: stage.gone(PODS, "web"))
    assert await stage.gone(PEER_PODS, name) and not stage.cloud.records


@in_reactor
async def test_a_live_node_keeps_its_own_for_the_grace(stage: Stage) -> None:
    vm = await stage.vm(ONE, node="stage-node")
    name = await stage.peer_pod(ONE, await stage.pod(), instance=vm, node="stage-node")
    await stage.controller(adaptor_grace=6.0).startService()
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.pause(1.5)
    assert vm in stage.cloud.records
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert not stage.cloud.records


@in_reactor
async def test_older_peer_pods_go_when_the_newer_runs(stage: Stage) -> None:
    uid = await stage.pod()
    old, new = await stage.vm(ONE), await stage.vm(TWO)
    older = await stage.peer_pod(ONE, uid, instance=old, node="stage-node")
    newer = await stage.peer_pod(TWO, uid, instance=new, node="stage-node")
    await stage.phase(older, "Failed")
    await stage.controller().startService()
    await stage.pause(1.0)
    assert set(stage.cloud.records) == {old, new}
    await stage.phase(newer, "Running")
    await stage.until(lambda: stage.gone(PEER_PODS, older))
    assert set(stage.cloud.records) == {new} and not await stage.gone(PEER_PODS, newer)


@in_reactor
async def test_failures_reach_status_and_events(stage: Stage) -> None:
    stage.faults.delete_errors = 2
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    lost = await stage.peer_pod(TWO, await stage.pod("lost"), pod="lost", cloudProvider="gcp")
    service = stage.controller()
    await service.startService()
    for pod in ("web", "lost"):
        await stage.kube.delete(PODS, pod, stage.namespace, grace=0)
    await stage.until(lambda: stage.gone(PEER_PODS, name))

    async def told() -> bool:
        found = await stage.find(PEER_PODS, lost)
        return found is not None and "gcp" in parse(found).last_error

    await stage.until(told)
    found = await stage.find(PEER_PODS, lost)
    assert found is not None
    (condition,) = found["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Deleted", "False", "UnknownProvider")
    assert found["status"]["phase"] == "Deleting"
    await service.stopService()
    assert await stage.reasons() == ["UnknownProvider", "VMDeleted", "VMDeletionFailed"]


@in_reactor
async def test_namespace_deletion_completes(stage: Stage) -> None:
    await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    await stage.peer_pod(TWO, "", pod="bare", instance=await stage.vm(TWO, pod="bare"))
    await stage.controller(namespace="default").startService()
    await stage.kube.delete(NAMESPACES, stage.namespace)
    if (pod := await stage.find(PODS, "web")) is not None and "deletionTimestamp" in pod["metadata"]:
        await stage.kube.delete(PODS, "web", stage.namespace, grace=0)

    async def gone() -> bool:
        try:
            await stage.kube.get(NAMESPACES, stage.namespace)
        except ApiError as error:
            return error.not_found
        return False

    await stage.until(gone)
    assert not stage.cloud.records


@in_reactor
async def test_a_namespace_whose_vms_cannot_be_deleted_goes_after_the_bound(stage: Stage) -> None:
    stage.faults.delete_errors = 10**6
    vm = await stage.vm(ONE)
    name = await stage.peer_pod(ONE, "", instance=vm)
    await stage.controller(namespace="default", release_after=8.0).startService()
    await stage.kube.delete(NAMESPACES, stage.namespace)
    await stage.pause(2)
    assert not await stage.gone(PEER_PODS, name)
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert vm in stage.cloud.records


@in_reactor
async def test_two_replicas_one_acts_and_the_other_takes_over(stage: Stage) -> None:
    one, two = stage.controller(leader_elect=True), stage.controller(leader_elect=True)
    await one.startService()
    await stage.until(lambda: one.leads)
    await two.startService()
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert one.leads and not two.leads
    name = await stage.peer_pod(TWO, await stage.pod("b"), pod="b", instance=await stage.vm(TWO))
    stage.faults.delete_errors = 10**6
    await stage.kube.delete(PODS, "b", stage.namespace, grace=0)
    await stage.pause(1.5)
    await one.stopService()
    stage.faults.delete_errors = 0
    await stage.until(lambda: two.leads)
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert not stage.cloud.records and (await stage.leader()).startswith(two.settings.identity)


@in_reactor
async def test_wrong_order_our_own_namespace_goes_first(stage: Stage) -> None:
    """The controller ends only when no PeerPod waits for it, though the lease goes with the namespace."""
    service = stage.controller(leader_elect=True, final_timeout=30.0)
    await service.startService()
    await stage.until(lambda: service.leads)
    name = await stage.peer_pod(ONE, "", instance=await stage.vm(ONE))
    await stage.until(lambda: len(service.controller.index) == 1)
    await stage.kube.delete(NAMESPACES, stage.namespace)
    await service.stopService()
    assert not stage.cloud.records and await stage.gone(PEER_PODS, name)


@in_reactor
async def test_an_ordinary_stop_finishes_nothing(stage: Stage) -> None:
    service = stage.controller(adaptor_grace=60.0)
    await service.startService()
    name = await stage.peer_pod(
        ONE, await stage.pod(), instance=await stage.vm(ONE, node="stage-node"), node="stage-node"
    )
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.pause(1.0)
    await service.stopService()
    assert stage.cloud.records and not await stage.gone(PEER_PODS, name)


@in_reactor
async def test_sweep_at_the_start_and_again(stage: Stage) -> None:
    lost, kept = await stage.vm(ONE, node="no-such-node"), await stage.vm(TWO, node="stage-node")
    service = stage.controller(sweep="delete", sweep_every=0.5)
    await service.startService()
    await stage.until(lambda: lost not in stage.cloud.records)
    await stage.pause(1.2)
    assert set(stage.cloud.records) == {kept}


@in_reactor
async def test_existing_objects_are_taken_as_they_are(stage: Stage) -> None:
    vm = await stage.vm("")
    uid = await stage.pod()
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": True}
    old = {
        "metadata": {
            "name": "web-resource-x7k2p",
            "namespace": stage.namespace,
            "finalizers": ["peer.pod/finalizer"],
            "ownerReferences": [{**owner, "blockOwnerDeletion": True}],
        },
        "spec": {"cloudProvider": "memory", "instanceID": vm},
    }
    await stage.kube.create(PEER_PODS, old)
    await stage.kube.patch(
        PEER_PODS,
        "web-resource-x7k2p",
        {"status": {"cleand": False}},
        stage.namespace,
        kind=PatchKind.MERGE,
        subresource="status",
    )
    await stage.controller().startService()
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: stage.gone(PEER_PODS, "web-resource-x7k2p"))
    assert not stage.cloud.records


@pytest.mark.parametrize("place", ["double"], indirect=True)
@in_reactor
async def test_the_api_server_is_away_for_a_while(stage: Stage, double: Double) -> None:
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    late = await stage.peer_pod(TWO, await stage.pod("late"), pod="late", instance=await stage.vm(TWO))
    stage.faults.delete_polls = 60
    await stage.controller().startService()
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: stage.faults.delete_polls < 60)
    await double.stop()
    double.remove(PODS, "late", stage.namespace, now=True)
    await stage.until(lambda: len(stage.cloud.records) == 1)
    await stage.pause(1.0)
    await double.start()
    double.collect()
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    await stage.until(lambda: stage.gone(PEER_PODS, late))
    assert not stage.cloud.records


@pytest.mark.parametrize("place", ["double"], indirect=True)
@in_reactor
async def test_the_crd_goes_first(stage: Stage, double: Double) -> None:
    service = stage.controller(final_timeout=30.0)
    await service.startService()
    await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE), node="stage-node")
    await stage.until(lambda: len(service.controller.index) == 1)
    await stage.kube.delete(CRDS, "peerpods.confidentialcontainers.org")
    await service.stopService()
    assert not stage.cloud.records
    await stage.until(lambda: double.store.get(CRDS, "peerpods.confidentialcontainers.org") is None)
    double.register(yaml.safe_load((Path(__file__).parents[3] / "k8s/base/crds/peerpods.yaml").read_text()))


@pytest.mark.parametrize("place", ["double"], indirect=True)
@in_reactor
async def test_only_our_deployment_goes(stage: Stage, double: Double) -> None:
    own = {"metadata": {"name": "peerpod-ctrl", "namespace": stage.namespace}}
    double.seed(DEPLOYMENTS, own)
    service = stage.controller(final_timeout=30.0, adaptor_grace=1.5)
    await service.startService()
    await stage.until(lambda: ready.is_ready([READY]))
    vm = await stage.vm(TWO, node="stage-node")
    kept = await stage.peer_pod(TWO, await stage.pod("b"), pod="b", instance=vm, node="stage-node")
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE), node="stage-node")
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: bool(service.controller.held_and_dying()))
    double.remove(DEPLOYMENTS, "peerpod-ctrl", stage.namespace, now=True)
    await service.stopService()
    assert set(stage.cloud.records) == {vm}
    assert await stage.gone(PEER_PODS, name) and not await stage.gone(PEER_PODS, kept)


@pytest.mark.parametrize("place", ["double"], indirect=True)
@in_reactor
async def test_our_deployment_is_asked_for_until_it_is_known(
    stage: Stage, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its deletion before ours would not be noticed at our end."""
    asked: list[Any] = []

    async def away_at_first(*what: Any) -> Any:
        asked.append(what)
        if len(asked) == 1:
            raise ApiError("the API server is away", status=503)
        return await get_or_none(*what)

    monkeypatch.setattr("peerpods.kube.peerpod.service.get_or_none", away_at_first)
    double.seed(DEPLOYMENTS, {"metadata": {"name": "peerpod-ctrl", "namespace": stage.namespace}})
    service = stage.controller()
    await service.startService()
    await stage.until(lambda: service._had_deployment is True)
    await service.stopService()


@pytest.mark.parametrize("place", ["double"], indirect=True)
@in_reactor
async def test_the_lease_is_lost_and_won_again(stage: Stage, double: Double) -> None:
    service = stage.controller(leader_elect=True)
    await service.startService()
    await stage.until(lambda: service.leads)
    stage.faults.delete_polls = 10**6
    name = await stage.peer_pod(ONE, await stage.pod(), instance=await stage.vm(ONE))
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.until(lambda: stage.faults.delete_polls < 10**6)

    def take(lease: dict[str, Any]) -> None:
        lease["spec"]["holderIdentity"] = "a stranger"

    double.change(LEASES, "peerpod-ctrl", stage.namespace, take)
    await stage.until(lambda: not service.leads)
    left = stage.faults.delete_polls
    await stage.pause(0.5)
    assert stage.faults.delete_polls == left, "what was under way is cut off"
    stage.faults.delete_polls = 0

    def give(lease: dict[str, Any]) -> None:
        lease["spec"]["holderIdentity"] = ""

    double.change(LEASES, "peerpod-ctrl", stage.namespace, give)
    await stage.until(lambda: service.leads)
    await stage.until(lambda: stage.gone(PEER_PODS, name))
    assert not stage.cloud.records
