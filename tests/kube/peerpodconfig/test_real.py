"""The controller against a real API server, with the rights of its own account and no others."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml
from twisted.internet.threads import deferToThread

from peerpods.adaptor.kube.pullsecrets import PATIENCE
from peerpods.kube.client import ApiError
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.resources import Resource
from tests.kube.cluster import MERGE_PATCH, RealCluster
from tests.kube.peerpodconfig.harness import Scene, scene
from tests.kube.peerpodconfig.samples import RICH, config_object

RBAC = Path(__file__).parents[3] / "k8s/base/rbac/peerpodconfig-ctrl.yaml"
ACCOUNT = names.PEER_POD_CONFIG_CTRL
KINDS = {one.kind: one for one in (r.CLUSTER_ROLES, r.CLUSTER_ROLE_BINDINGS, r.ROLES, r.ROLE_BINDINGS)}


def _put(cluster: RealCluster, resource: Resource, body: dict[str, Any]) -> None:
    status, answer = cluster.request("POST", resource.path(body["metadata"].get("namespace")), body)
    assert status in (201, 409), answer


@pytest.fixture
def account(cluster: RealCluster, namespace: str, our_crds: None) -> Iterator[Path]:
    """A kubeconfig of the controller's own account, with the rights that are installed."""
    for name in (ACCOUNT, names.ADAPTOR, names.RELAY, names.WEBHOOK):
        _put(cluster, r.SERVICE_ACCOUNTS, {"metadata": {"name": name, "namespace": namespace}})
    bodies = list(yaml.safe_load_all(RBAC.read_text().replace("peerpods-system", namespace)))
    for body in bodies:
        _put(cluster, KINDS[body["kind"]], body)
    yield cluster.token_kubeconfig(cluster.service_account_token(namespace, ACCOUNT))
    for body in bodies:
        meta = body["metadata"]
        path = KINDS[body["kind"]].path(meta.get("namespace"), meta["name"])
        cluster.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE_PATCH)
        cluster.request("DELETE", path)


@pytest_twisted.async_yield_fixture
async def here(cluster: RealCluster, namespace: str, account: Path, tmp_path: Path) -> AsyncIterator[Scene]:
    """The controller's own client in `kube`; `admin` makes what people and kubelets make."""
    from twisted.internet import reactor

    node = f"node-{namespace}"
    await deferToThread(cluster.create_node, node, {"pool": namespace, names.KATA_NODE_LABEL: "true"})
    own = yaml.safe_load(account.read_text())
    admin = yaml.safe_load(cluster.kubeconfig().read_text())
    async with scene(reactor, tmp_path, admin, namespace) as by_admin:
        await _no_peer_pods(by_admin)
        await by_admin.config_map(CLOUD_PROVIDER="memory")
        folder = tmp_path / "own"
        folder.mkdir()
        async with scene(reactor, folder, own, namespace) as made:
            made.admin = by_admin  # type: ignore[attr-defined]
            made.node_name = node  # type: ignore[attr-defined]
            yield made
            await made.stop()
        await _clear(by_admin, namespace)
    await deferToThread(cluster.request, "DELETE", r.NODES.path(None, node))


async def _clear(admin: Scene, namespace: str) -> None:
    for name in await admin.names(r.PEER_POD_CONFIGS, namespace):
        await admin.edit(r.PEER_POD_CONFIGS, name, {"metadata": {"finalizers": None}}, namespace)
        await admin.kube.delete(r.PEER_POD_CONFIGS, name, namespace)
    for kind in (r.RUNTIME_CLASSES, r.MUTATING_WEBHOOKS):
        for name in await admin.names(kind):
            await admin.kube.delete(kind, name)
    await _no_peer_pods(admin)


async def _no_peer_pods(admin: Scene) -> None:
    """Let go of every PeerPod: one that another test left would hold the deletion of our PeerPodConfig."""
    for one in (await admin.kube.list(r.PEER_PODS))[0]:
        name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
        for step in (
            admin.edit(r.PEER_PODS, name, {"metadata": {"finalizers": None}}, namespace),
            admin.kube.delete(r.PEER_PODS, name, namespace),
        ):
            try:
                await step
            except ApiError as error:
                if not error.not_found:
                    raise


def spec_of(here: Any, **more: Any) -> dict[str, Any]:
    """On our node alone; a dead webhook hinders no other test."""
    return {
        "nodeSelector": {"pool": here.namespace},
        "webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 1, **more.pop("webhook", {})},
        **more,
    }


async def set_up(here: Any, **spec: Any) -> None:
    admin: Scene = here.admin
    await admin.create(r.PEER_POD_CONFIGS, config_object(namespace=here.namespace, **spec_of(here, **spec)))
    await here.start()
    await _play_kubelet(here, 2 + spec.get("webhook", {}).get("replicas", 2))
    await admin.until_reason("SetUp")


async def _play_kubelet(here: Any, pods_wanted: int) -> None:
    """The DaemonSet and Deployment controllers are real here; their pods are made ready by hand."""
    admin: Scene = here.admin
    done: set[str] = set()

    async def ready_pods() -> bool:
        pods, _ = await admin.kube.list(r.PODS, here.namespace)
        for pod in pods:
            name = pod["metadata"]["name"]
            if name in done:
                continue
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            condition = {"type": "Ready", "status": "True", "lastTransitionTime": now}
            await admin.status(r.PODS, name, {"phase": "Running", "conditions": [condition]}, here.namespace)
            done.add(name)
        return len(done) >= pods_wanted and bool(await admin.get(r.MUTATING_WEBHOOKS, names.WEBHOOK))

    await admin.until(ready_pods, "pods of the workloads")
    await admin.trust()


@pytest_twisted.ensureDeferred
async def test_sets_up_and_then_writes_nothing_more(here: Any, cluster: RealCluster) -> None:
    admin: Scene = here.admin
    await set_up(here, limit="7")
    status = (await admin.config())["status"]
    assert status["setupCompleted"] is True
    assert status["nodes"] == {"matching": 1, "advertising": 1, "ready": 1, "relays": 1}
    node = await admin.get(r.NODES, here.node_name)
    assert node["status"]["capacity"][names.EXTENDED_RESOURCE] == "7"
    await here.pause(1.0)
    user = f"system:serviceaccount:{here.namespace}:{ACCOUNT}"
    await deferToThread(_settle, cluster, user)
    before = len(cluster.audit(user))
    versions = await _versions(admin)
    await here.stop()
    await here.start()
    await here.pause(2.0)
    events = await deferToThread(_settle, cluster, user)
    written = [
        f"{one['verb']} {one['requestURI']}" for one in events[before:] if one["verb"] not in ("get", "list", "watch")
    ]
    assert written == []
    assert await _versions(admin) == versions
    denied = [one["requestURI"] for one in events if one.get("responseStatus", {}).get("code") == 403]
    assert denied == [], "an installed right is missing"


def _settle(cluster: RealCluster, user: str) -> list[Any]:
    """The audit log once it has stood still for a moment."""
    count = -1
    while True:
        events = cluster.audit(user)
        if len(events) == count:
            return events
        count = len(events)
        time.sleep(1.0)


async def _versions(admin: Scene) -> dict[str, str]:
    found = {}
    for kind in (r.DAEMON_SETS, r.DEPLOYMENTS, r.SERVICES, r.NETWORK_POLICIES):
        for obj in (await admin.kube.list(kind, admin.namespace))[0]:
            found[f"{kind.kind}/{obj['metadata']['name']}"] = obj["metadata"]["resourceVersion"]
    for kind in (r.MUTATING_WEBHOOKS, r.RUNTIME_CLASSES):
        for obj in (await admin.kube.list(kind))[0]:
            found[f"{kind.kind}/{obj['metadata']['name']}"] = obj["metadata"]["resourceVersion"]
    assert len(found) >= 7
    return found


@pytest_twisted.ensureDeferred
async def test_a_rich_config_is_taken_whole_and_settles(here: Any) -> None:
    admin: Scene = here.admin
    rich = {key: value for key, value in RICH.items() if key not in ("webhook", "priorityClassName", "nodeSelector")}
    await set_up(here, **{**rich, "provider": "memory"}, webhook={"replicas": 1})
    condition = await admin.condition("Applied")
    assert condition["status"] == "True", condition
    generations = {
        name: (await admin.own(r.DAEMON_SETS, name))["metadata"]["generation"] for name in (names.ADAPTOR, names.RELAY)
    }
    assert generations == {names.ADAPTOR: 1, names.RELAY: 1}, "a new generation would roll the DaemonSet"


@pytest_twisted.ensureDeferred
async def test_drift_is_repaired(here: Any) -> None:
    admin: Scene = here.admin
    await set_up(here)
    await admin.edit(r.SERVICES, names.WEBHOOK, {"spec": {"selector": {"app": "other"}}}, here.namespace)

    async def mended() -> bool:
        live = await admin.own(r.SERVICES, names.WEBHOOK)
        return bool(live["spec"]["selector"].get("app.kubernetes.io/component") == "webhook")

    await here.until(mended)
    for kind, name, where in (
        (r.DAEMON_SETS, names.RELAY, here.namespace),
        (r.RUNTIME_CLASSES, "kata-remote", None),
        (r.MUTATING_WEBHOOKS, names.WEBHOOK, None),
    ):
        uid = (await admin.get(kind, name, where))["metadata"]["uid"]
        await admin.kube.delete(kind, name, where)

        async def anew(kind: Any = kind, name: str = name, where: Any = where, uid: str = uid) -> bool:
            live = await admin.get(kind, name, where)
            return live is not None and live["metadata"]["uid"] != uid

        await here.until(anew, name)


@pytest_twisted.ensureDeferred
async def test_capacity_after_a_kubelets_reset_and_without_a_capacity_map(here: Any, cluster: RealCluster) -> None:
    admin: Scene = here.admin
    await set_up(here, limit="9")
    for patch in ({names.EXTENDED_RESOURCE: "0"}, {names.EXTENDED_RESOURCE: None}, None):
        await admin.status(r.NODES, here.node_name, {"capacity": patch})

        async def right() -> bool:
            node = await admin.get(r.NODES, here.node_name)
            return bool((node["status"].get("capacity") or {}).get(names.EXTENDED_RESOURCE) == "9")

        await here.until(right)


@pytest_twisted.ensureDeferred
async def test_the_right_on_a_pull_secret_comes_within_a_moment_and_is_exact(here: Any, cluster: RealCluster) -> None:
    admin: Scene = here.admin
    await set_up(here)
    apps = await deferToThread(cluster.create_namespace, f"{here.namespace}-apps")
    account = f"system:serviceaccount:{here.namespace}:{names.ADAPTOR}"

    async def may(name: str) -> bool:
        attributes = {"namespace": apps, "verb": "get", "resource": "secrets", "name": name}
        body = {"spec": {"user": account, "resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool((await admin.kube.request("POST", path, body=body))["status"]["allowed"])

    assert not await may("mirror")
    spec = {
        "runtimeClassName": "kata-remote",
        "containers": [{"name": "c", "image": "i"}],
        "imagePullSecrets": [{"name": "mirror"}],
    }
    took = []
    for number in range(5):
        secret = f"mirror-{number}"
        spec["imagePullSecrets"] = [{"name": secret}]
        began = here.reactor.seconds()
        await admin.create(r.PODS, {"metadata": {"name": f"web-{number}", "namespace": apps}, "spec": spec})
        await here.until(lambda secret=secret: may(secret), secret)
        took.append(here.reactor.seconds() - began)
    assert min(took) < PATIENCE, "the adaptor waits no longer for it"
    print(f"pod created to right granted, seconds: {[round(one, 3) for one in took]}")
    assert not await may("other")
    await admin.kube.delete(r.PODS, "web-0", apps, grace=0)

    async def narrower() -> bool:
        return not await may("mirror-0") and await may("mirror-1")

    await here.until(narrower)
    with pytest.raises(ApiError) as caught:
        await here.kube.list(r.SECRETS, apps)
    assert caught.value.forbidden, "the controller itself may get secrets, and not list them"
    await deferToThread(cluster.request, "DELETE", r.NAMESPACES.path(None, apps))


@pytest_twisted.ensureDeferred
async def test_deletion_leaves_nothing(here: Any, cluster: RealCluster) -> None:
    admin: Scene = here.admin
    await set_up(here)
    meta = {"name": "p", "namespace": here.namespace, "finalizers": [names.FINALIZER]}
    await admin.create(r.PEER_PODS, {"metadata": meta, "spec": {"cloudProvider": "memory", "instanceID": "i-1"}})
    await admin.kube.delete(r.PEER_POD_CONFIGS, "peerpods", here.namespace)

    async def waiting() -> bool:
        return bool((await admin.condition("Deleting")).get("reason") == "WaitingPeerPods")

    await here.until(waiting)
    assert await admin.own(r.DAEMON_SETS, names.ADAPTOR)
    await admin.edit(r.PEER_PODS, "p", {"metadata": {"finalizers": None}}, here.namespace)

    async def gone() -> bool:
        return await admin.config() is None

    await here.until(gone)
    for kind in (r.DAEMON_SETS, r.DEPLOYMENTS, r.SERVICES, r.NETWORK_POLICIES):
        assert await admin.names(kind, here.namespace) == [], kind
    assert await admin.names(r.RUNTIME_CLASSES) == []
    assert await admin.names(r.MUTATING_WEBHOOKS) == []
    node = await admin.get(r.NODES, here.node_name)
    assert names.EXTENDED_RESOURCE not in node["status"]["capacity"]


@pytest_twisted.ensureDeferred
async def test_the_namespace_goes_first(here: Any, cluster: RealCluster) -> None:
    admin: Scene = here.admin
    await set_up(here)
    apps = await deferToThread(cluster.create_namespace, f"{here.namespace}-vms")
    meta = {"name": "p", "namespace": apps, "finalizers": [names.FINALIZER]}
    await admin.create(r.PEER_PODS, {"metadata": meta, "spec": {"cloudProvider": "memory", "instanceID": "i-1"}})
    began = here.reactor.seconds()
    await admin.kube.delete(r.NAMESPACES, here.namespace)

    async def gone() -> bool:
        return await admin.get(r.NAMESPACES, here.namespace) is None

    await here.until(gone, "the namespace", timeout=60)
    print(f"namespace gone after {here.reactor.seconds() - began:.1f} s")
    assert await admin.names(r.RUNTIME_CLASSES) == []
    assert await admin.names(r.MUTATING_WEBHOOKS) == []
    node = await admin.get(r.NODES, here.node_name)
    assert names.EXTENDED_RESOURCE not in node["status"]["capacity"]
    left = await admin.get(r.PEER_PODS, "p", apps)
    assert left["metadata"]["deletionTimestamp"], "it was asked to go; peerpod-ctrl sees to its VM"
    await admin.edit(r.PEER_PODS, "p", {"metadata": {"finalizers": None}}, apps)
    await deferToThread(cluster.request, "DELETE", r.NAMESPACES.path(None, apps))


@pytest_twisted.ensureDeferred
async def test_a_config_as_the_existing_system_knows_it_is_valid(here: Any) -> None:
    admin: Scene = here.admin
    old = {"metadata": {"name": "old", "namespace": here.namespace}, "spec": {"limit": "5", "instanceType": "t3.small"}}
    made = await admin.create(r.PEER_POD_CONFIGS, old)
    assert made["spec"]["cloudSecretName"] == "peer-pods-secret"
    assert made["spec"]["configMapName"] == "peer-pods-cm"
    assert made["spec"]["webhook"]["replicas"] == 2
    for wrong in (
        {"limit": 5},
        {"nodeSelector": {"matchLabels": {"a": "b"}}},
        {"runtimeClasses": [{"name": "Bad_Name"}]},
    ):
        body = json.loads(json.dumps(config_object("wrong", here.namespace, **wrong)))
        with pytest.raises(ApiError) as caught:
            await admin.create(r.PEER_POD_CONFIGS, body)
        assert caught.value.invalid
    await admin.kube.delete(r.PEER_POD_CONFIGS, "old", here.namespace)


def test_kubectl_shows_the_columns(kubectl: Any, cluster: RealCluster, namespace: str, our_crds: None) -> None:
    _put(cluster, r.PEER_POD_CONFIGS, config_object(namespace=namespace))
    shown = kubectl("-n", namespace, "get", "peerpodconfigs").stdout.splitlines()
    assert shown[0].split() == ["NAME", "READY", "NODES", "ADAPTORS", "REASON", "AGE"]
    cluster.request("DELETE", r.PEER_POD_CONFIGS.path(namespace, "peerpods"))
