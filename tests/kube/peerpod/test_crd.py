"""The CRD as the API server applies it: existing objects stay valid, wrong ones are refused, people see columns."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.client import ApiError, PatchKind
from peerpods.kube.objects.conditions import condition
from peerpods.kube.objects.peerpod import new_peer_pod, release_patch, status_of
from peerpods.kube.objects.resources import PEER_PODS
from tests.kube.peerpod.stage import Stage

in_reactor = pytest_twisted.ensureDeferred


def ours(stage: Stage, **changes: Any) -> dict[str, Any]:
    facts = {
        "sandbox": "a" * 64,
        "pod": "p" * 253,
        "namespace": stage.namespace,
        "pod_uid": "",
        "provider": "memory",
        "instance_id": "",
        "node": "n" * 253,
        "cluster": "c",
        "token": "a" * 64 + "-1",
    }
    return new_peer_pod(**{**facts, **changes})


async def patch_status(stage: Stage, name: str, status: dict[str, Any]) -> dict[str, Any]:
    return await stage.kube.patch(
        PEER_PODS, name, {"status": status}, stage.namespace, kind=PatchKind.MERGE, subresource="status"
    )


@in_reactor
async def test_the_longest_names_and_a_whole_status(stage: Stage) -> None:
    made = await stage.kube.create(PEER_PODS, ours(stage))
    name = made["metadata"]["name"]
    assert len(name) == 253 and made["spec"]["nodeName"] == "n" * 253
    long = "x" * 40000
    status = status_of(
        phase="Running",
        instance_name="podvm",
        addresses=["10.0.0.1", "fd00::1"],
        last_error=long,
        pod_uid="u",
        started_at=1000.0,
        conditions=[condition("Ready", True, "Running", long, 1000, generation=1)],
        observed_generation=1,
    )
    written = await patch_status(stage, name, {**status, "cleand": True, "unknown": 1})
    assert written["status"]["phase"] == "Running" and "unknown" not in written["status"]
    assert written["status"]["startedAt"] == "1970-01-01T00:16:40Z" and written["status"]["cleand"] is True


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Resting"},
        {"addresses": "10.0.0.1"},
        {"conditions": [{"type": "Ready", "status": "True"}]},
        {"conditions": [{**condition("Ready", True, "R", "", 0), "status": "Maybe"}]},
        {"conditions": [{**condition("Ready", True, "R", "", 0), "reason": "two words"}]},
    ],
)
@in_reactor
async def test_wrong_statuses_are_refused(stage: Stage, status: dict[str, Any]) -> None:
    name = (await stage.kube.create(PEER_PODS, ours(stage)))["metadata"]["name"]
    with pytest.raises(ApiError) as caught:
        await patch_status(stage, name, status)
    assert caught.value.invalid


@pytest.mark.parametrize("spec", [None, {}, {"cloudProvider": "azure", "instanceID": "/subscriptions/" + "x" * 500}])
@in_reactor
async def test_objects_of_the_existing_system(stage: Stage, spec: dict[str, str] | None) -> None:
    body: dict[str, Any] = {"metadata": {"name": "web-resource-x7k2p", "namespace": stage.namespace}}
    if spec is not None:
        body["spec"] = spec
    made = await stage.kube.create(PEER_PODS, body)
    assert made.get("spec") == spec


@in_reactor
async def test_a_release_of_another_object_is_refused(stage: Stage) -> None:
    made = await stage.kube.create(PEER_PODS, ours(stage))
    name = made["metadata"]["name"]
    stale = release_patch({"metadata": {**made["metadata"], "uid": "another"}})
    with pytest.raises(ApiError) as caught:
        await stage.kube.patch(PEER_PODS, name, stale, stage.namespace, kind=PatchKind.JSON)
    assert caught.value.invalid
    await stage.kube.patch(PEER_PODS, name, release_patch(made), stage.namespace, kind=PatchKind.JSON)
    await stage.kube.delete(PEER_PODS, name, stage.namespace)
    with pytest.raises(ApiError) as caught:
        await stage.kube.patch(PEER_PODS, name, release_patch(made), stage.namespace, kind=PatchKind.JSON)
    assert caught.value.not_found


@pytest.mark.parametrize("place", ["real"], indirect=True)
@in_reactor
async def test_what_kubectl_shows(stage: Stage, kubectl: Any) -> None:
    name = (await stage.kube.create(PEER_PODS, ours(stage, pod="web", node="n1", instance_id="i-7")))["metadata"][
        "name"
    ]
    await patch_status(stage, name, {"phase": "Failed", "lastError": "no quota", "addresses": ["10.0.0.9"]})
    wide = kubectl("get", "peerpods", "-n", stage.namespace, "-o", "wide").stdout.splitlines()
    assert wide[0].split() == "NAME PHASE PROVIDER INSTANCE NODE AGE POD ADDRESS ERROR".split()
    row = wide[1].split()
    assert row[:5] == ["web-resource-aaaaaaaa", "Failed", "memory", "i-7", "n1"]
    assert row[6:] == ["web", "10.0.0.9", "no", "quota"]
    bare = {"metadata": {"name": "bare", "namespace": stage.namespace}}
    await stage.kube.create(PEER_PODS, bare)
    assert "bare" in kubectl("get", "peerpods", "-n", stage.namespace).stdout
