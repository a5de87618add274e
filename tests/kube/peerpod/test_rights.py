"""The controller with exactly the rights that the installation gives it, on the real server: none is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml

from peerpods.kube.client import ApiError, KubeSettings
from peerpods.kube.objects.resources import NODES, PEER_PODS, PODS
from tests.kube.cluster import RealCluster
from tests.kube.peerpod.stage import QUICK, Stage

RBAC = Path(__file__).parents[3] / "k8s/base/rbac/peerpod-ctrl.yaml"
KINDS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
}


@pytest.fixture
def account(cluster: RealCluster, namespace: str) -> Iterator[KubeSettings]:
    """The account peerpod-ctrl in the test's namespace, with the installation's rights under other names."""
    cluster_wide = []
    for obj in yaml.safe_load_all(RBAC.read_text()):
        kind, name = obj["kind"], obj["metadata"]["name"]
        if kind not in KINDS or (kind == "ServiceAccount" and name != "peerpod-ctrl"):
            continue
        if kind.startswith("Cluster"):
            name = obj["metadata"]["name"] = f"{name}-{namespace}"
            cluster_wide.append(f"{KINDS[kind]}/{name}")
        else:
            obj["metadata"]["namespace"] = namespace
        for subject in obj.get("subjects", ()):
            subject["namespace"] = namespace
        if kind == "ClusterRoleBinding":
            obj["roleRef"]["name"] = name
        cluster.must("POST", KINDS[kind].format(namespace), obj)
    body = {"metadata": {"name": "peerpod-ctrl"}}
    cluster.request("POST", KINDS["ServiceAccount"].format(namespace), body)
    token = cluster.service_account_token(namespace, "peerpod-ctrl")
    yield KubeSettings(kubeconfig=str(cluster.token_kubeconfig(token, f"peerpod-ctrl-{namespace}")))
    for path in cluster_wide:
        cluster.request("DELETE", path)


def refused(cluster: RealCluster, namespace: str) -> list[Any]:
    """What the API server refused to the account."""
    user = f"system:serviceaccount:{namespace}:peerpod-ctrl"
    events = cluster.audit(user)
    assert events
    return [(one["verb"], one["requestURI"]) for one in events if one["responseStatus"]["code"] in (401, 403)]


@pytest.mark.parametrize("place", ["real"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_nothing_is_refused(stage: Stage, cluster: RealCluster, account: KubeSettings) -> None:
    node = f"node-of-{stage.namespace}"
    await stage.kube.create(NODES, {"metadata": {"name": node}})
    lost = await stage.vm("9" * 64, node="no-such-node")
    quick = {**QUICK, "sweep": "delete", "sweep_every": 1.0, "release_after": 2.0}
    service = stage.controller(kubeconfig=account, leader_elect=True, **quick)
    await service.startService()
    await stage.until(lambda: service.leads)
    deleted = await stage.peer_pod("1" * 64, await stage.pod(), instance=await stage.vm("1" * 64))
    orphan = await stage.peer_pod("2" * 64, await stage.pod("b"), pod="b", instance=await stage.vm("2" * 64))
    on_node = await stage.peer_pod("3" * 64, "", pod="c", instance=await stage.vm("3" * 64, node=node), node=node)
    stuck = await stage.peer_pod("4" * 64, await stage.pod("d"), pod="d", cloudProvider="gcp")
    await stage.until(lambda: len(service.controller.index) == 4)
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)
    await stage.kube.delete(PODS, "b", stage.namespace, grace=0, propagation="Orphan")
    await stage.kube.delete(PODS, "d", stage.namespace, grace=0)
    await stage.kube.delete(NODES, node)
    for name in (deleted, orphan, on_node):
        await stage.until(lambda name=name: stage.gone(PEER_PODS, name))  # type: ignore[misc]
    await stage.until(lambda: lost not in stage.cloud.records)

    async def told() -> bool:
        return "UnknownProvider" in await stage.reasons()

    await stage.until(told)
    await stage.pause(3.0)  # long enough to ask whether something waits for the one that is stuck
    assert not stage.cloud.records and not await stage.gone(PEER_PODS, stuck)
    await service.stopService()
    assert refused(cluster, stage.namespace) == []
    assert {"VMDeleted", "UnknownProvider"} <= set(await stage.reasons())


@pytest.mark.parametrize("place", ["real"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_nothing_more_is_allowed(stage: Stage, cluster: RealCluster, account: KubeSettings) -> None:
    service = stage.controller(kubeconfig=account)
    await service.startService()
    for path in ("/api/v1/secrets", "/api/v1/pods", f"/api/v1/namespaces/{stage.namespace}/configmaps"):
        with pytest.raises(ApiError, match="forbidden"):
            await service.kube.request("GET", path)
    await service.stopService()
