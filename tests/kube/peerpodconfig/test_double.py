"""The controller against the in-memory API server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_twisted

from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from tests.kube.double import Double
from tests.kube.peerpodconfig.harness import WRITES, Scene, scene
from tests.kube.peerpodconfig.samples import NAMESPACE, config_object


@pytest_twisted.async_yield_fixture
async def here(double: Double, tmp_path: Path) -> AsyncIterator[Scene]:
    """A namespace, the cloud's settings and a node; no controller yet."""
    from twisted.internet import reactor

    double.seed(r.NAMESPACES, {"metadata": {"name": NAMESPACE}})
    async with scene(reactor, tmp_path, double.kubeconfig_dict()) as made:
        await made.config_map(CLOUD_PROVIDER="memory")
        await made.node("n1")
        yield made


def writes(double: Double, since: int) -> list[str]:
    """Requests since then that were not reads; those of our own tests carry other paths."""
    return [f"{one.method} {one.path}" for one in list(double.seen)[since:] if one.method in WRITES]


async def set_up(here: Scene, **spec: Any) -> None:
    await here.create(r.PEER_POD_CONFIGS, config_object(**spec))
    await here.start()
    await here.workloads_ready()
    await here.until_reason("SetUp")


@pytest_twisted.ensureDeferred
async def test_sets_a_cluster_up(here: Scene, double: Double) -> None:
    await set_up(here, limit="7")
    status = (await here.config())["status"]
    assert status["setupCompleted"] is True
    assert status["nodes"] == {"matching": 1, "advertising": 1, "ready": 1, "relays": 1}
    assert await here.names(r.DAEMON_SETS, NAMESPACE) == ["peerpods-adaptor", "peerpods-relay"]
    assert await here.names(r.RUNTIME_CLASSES) == ["kata-remote"]
    node = await here.get(r.NODES, "n1")
    assert node["status"]["capacity"] == {"kata.peerpods.io/vm": "7"}
    assert [one.reason for one in here.events.told][-1] == "SetUp"
    assert names.CONFIG_FINALIZER in (await here.config())["metadata"]["finalizers"]


@pytest_twisted.ensureDeferred
async def test_a_second_look_and_a_new_process_write_nothing(here: Scene, double: Double) -> None:
    await set_up(here)
    await here.pause(0.6)
    before = {
        (kind.plural, name): version
        for kind, name, version in [
            (one, obj["metadata"]["name"], obj["metadata"]["resourceVersion"])
            for one in (r.DAEMON_SETS, r.DEPLOYMENTS, r.SERVICES, r.MUTATING_WEBHOOKS, r.RUNTIME_CLASSES, r.NODES)
            for obj in (await here.kube.list(one))[0]
        ]
    }
    since = len(double.seen)
    assert here.controller is not None
    here.controller._all_configs()
    await here.pause(0.5)
    await here.stop()
    await here.start()
    await here.pause(0.8)
    assert writes(double, since) == []
    for (plural, name), version in before.items():
        kind = next(one for one in vars(r).values() if isinstance(one, r.Resource) and one.plural == plural)
        live = await here.get(kind, name, NAMESPACE)
        assert live["metadata"]["resourceVersion"] == version
    assert before


@pytest_twisted.ensureDeferred
async def test_drift_is_repaired(here: Scene) -> None:
    await set_up(here)
    spec = {"spec": {"template": {"spec": {"priorityClassName": "low"}}}}
    await here.edit(r.DAEMON_SETS, names.ADAPTOR, spec, NAMESPACE)

    async def priority() -> bool:
        live = await here.own(r.DAEMON_SETS, names.ADAPTOR)
        return bool(live["spec"]["template"]["spec"]["priorityClassName"] == "system-node-critical")

    await here.until(priority)
    for kind, name in ((r.SERVICES, names.WEBHOOK), (r.DAEMON_SETS, names.RELAY)):
        await here.kube.delete(kind, name, NAMESPACE)
        await here.until(lambda kind=kind, name=name: here.own(kind, name), name)
    await here.kube.delete(r.RUNTIME_CLASSES, "kata-remote")
    await here.until(lambda: here.get(r.RUNTIME_CLASSES, "kata-remote"), "class")


@pytest_twisted.ensureDeferred
async def test_the_webhooks_ca_survives_our_applies(here: Scene) -> None:
    await set_up(here)
    await here.edit(r.PEER_POD_CONFIGS, "peerpods", {"spec": {"webhook": {"timeoutSeconds": 3}}}, NAMESPACE)

    async def changed() -> Any:
        live = await here.get(r.MUTATING_WEBHOOKS, names.WEBHOOK)
        return live if live["webhooks"][0]["timeoutSeconds"] == 3 else None

    live = await here.until(changed)
    assert live["webhooks"][0]["clientConfig"]["caBundle"]


@pytest_twisted.ensureDeferred
async def test_capacity_is_put_right_after_a_kubelets_reset(here: Scene) -> None:
    await set_up(here, limit="9")
    await here.status(r.NODES, "n1", {"capacity": {names.EXTENDED_RESOURCE: "0", "cpu": "4"}})
    began = here.reactor.seconds()

    async def right() -> bool:
        node = await here.get(r.NODES, "n1")
        return bool(node["status"]["capacity"] == {names.EXTENDED_RESOURCE: "9", "cpu": "4"})

    await here.until(right)
    assert here.reactor.seconds() - began < 1.0


@pytest_twisted.ensureDeferred
async def test_capacity_follows_labels_and_annotation(here: Scene) -> None:
    await set_up(here, nodeLimits=[{"nodeSelector": {"size": "big"}, "limit": "50"}])

    async def says(number: str | None) -> None:
        async def probe() -> bool:
            node = await here.get(r.NODES, "n1")
            return bool(((node.get("status") or {}).get("capacity") or {}).get(names.EXTENDED_RESOURCE) == number)

        await here.until(probe, f"capacity {number}")

    await says("10")
    await here.edit(r.NODES, "n1", {"metadata": {"labels": {"size": "big"}}})
    await says("50")
    await here.edit(r.NODES, "n1", {"metadata": {"annotations": {names.LIMIT_ANNOTATION: "3"}}})
    await says("3")
    await here.edit(r.NODES, "n1", {"metadata": {"labels": {"node.kubernetes.io/worker": None}}})
    await says(None)
    ready = await here.until_reason("NoNodeMatches")
    assert "kubectl label node NODE node.kubernetes.io/worker=" in ready["message"]


@pytest_twisted.ensureDeferred
async def test_a_changed_config_map_or_secret_rolls_the_adaptors_alone(here: Scene) -> None:
    await set_up(here)

    async def checksum(name: str) -> str:
        live = await here.own(r.DAEMON_SETS, name)
        meta = live["spec"]["template"]["metadata"]
        return str((meta.get("annotations") or {}).get("confidentialcontainers.org/config-checksum", ""))

    first, relay = await checksum(names.ADAPTOR), (await here.own(r.DAEMON_SETS, names.RELAY))["metadata"]["generation"]
    assert len(first) == 32
    await here.edit(r.CONFIG_MAPS, names.CONFIG_MAP, {"data": {"VXLAN_PORT": "4790"}}, NAMESPACE)

    async def moved() -> bool:
        return await checksum(names.ADAPTOR) != first

    await here.until(moved)
    assert (await here.own(r.DAEMON_SETS, names.RELAY))["metadata"]["generation"] == relay


@pytest_twisted.ensureDeferred
async def test_a_new_secret_rolls_the_adaptors_at_the_next_look(here: Scene) -> None:
    await here.create(r.PEER_POD_CONFIGS, config_object())
    await here.start(resync=0.3)
    await here.until(lambda: here.own(r.DAEMON_SETS, names.ADAPTOR))
    first = (await here.own(r.DAEMON_SETS, names.ADAPTOR))["metadata"]["generation"]
    await here.secret(KEY="value")

    async def rolled() -> bool:
        return bool((await here.own(r.DAEMON_SETS, names.ADAPTOR))["metadata"]["generation"] == first + 1)

    await here.until(rolled)


@pytest_twisted.ensureDeferred
async def test_a_secret_that_may_not_be_read_rolls_nothing_and_is_told_of(here: Scene, double: Double) -> None:
    await set_up(here)
    generation = (await here.own(r.DAEMON_SETS, names.ADAPTOR))["metadata"]["generation"]
    double.knobs.authorizer = lambda asked: asked.resource != "secrets"
    assert here.controller is not None
    here.controller._all_configs()
    ready = await here.until_reason("Missing")
    assert "secrets" in ready["message"]
    assert (await here.own(r.DAEMON_SETS, names.ADAPTOR))["metadata"]["generation"] == generation
    double.knobs.authorizer = lambda _: True
    await here.until_reason("SetUp")


@pytest_twisted.ensureDeferred
async def test_the_kind_is_deleted_first(here: Scene) -> None:
    await set_up(here)
    crd = f"{r.PEER_POD_CONFIGS.plural}.{r.PEER_POD_CONFIGS.group}"
    await here.kube.delete(r.CRDS, crd)

    async def gone() -> bool:
        return await here.get(r.CRDS, crd) is None

    await here.until(gone)
    assert await here.names(r.RUNTIME_CLASSES) == []
    assert await here.names(r.DAEMON_SETS, NAMESPACE) == []
    assert not (await here.get(r.NODES, "n1"))["status"]["capacity"]


@pytest_twisted.ensureDeferred
async def test_the_api_server_may_go_away_and_come_back(here: Scene, double: Double) -> None:
    await set_up(here)
    await double.stop()
    double.change(r.NODES, "n1", "", lambda node: node["status"].update(capacity={names.EXTENDED_RESOURCE: "0"}))
    double.remove(r.SERVICES, names.WEBHOOK, NAMESPACE)
    await here.pause(0.5)
    double.expire()
    await double.start()
    await here.until(lambda: here.own(r.SERVICES, names.WEBHOOK))

    async def right() -> bool:
        return bool((await here.get(r.NODES, "n1"))["status"]["capacity"][names.EXTENDED_RESOURCE] == "10")

    await here.until(right)


@pytest_twisted.ensureDeferred
async def test_a_second_config_is_told_and_does_nothing(here: Scene) -> None:
    await set_up(here)
    await here.create(r.PEER_POD_CONFIGS, config_object("second", limit="99"))
    ready = await here.until_reason("Conflict", "second")
    assert "peerpods-system/peerpods is in force" in ready["message"]
    second = await here.config("second")
    assert "finalizers" not in second["metadata"]
    node = await here.get(r.NODES, "n1")
    assert node["status"]["capacity"][names.EXTENDED_RESOURCE] == "10"
    await here.kube.delete(r.PEER_POD_CONFIGS, "second", NAMESPACE)

    async def gone() -> bool:
        return await here.config("second") is None

    await here.until(gone)


@pytest_twisted.ensureDeferred
async def test_a_config_elsewhere_is_told_where_to_be(here: Scene, double: Double) -> None:
    double.seed(r.NAMESPACES, {"metadata": {"name": "elsewhere"}})
    await here.start()
    await here.create(r.PEER_POD_CONFIGS, config_object(namespace="elsewhere"))

    async def told() -> Any:
        obj = await here.get(r.PEER_POD_CONFIGS, "peerpods", "elsewhere")
        return (obj.get("status") or {}).get("conditions")

    conditions = await here.until(told)
    assert "kubectl -n peerpods-system apply" in conditions[0]["message"]


@pytest_twisted.ensureDeferred
async def test_the_next_config_takes_over_when_the_first_is_gone(here: Scene) -> None:
    await set_up(here)
    await here.create(r.PEER_POD_CONFIGS, config_object("second", limit="21"))
    await here.until_reason("Conflict", "second")
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)

    async def taken() -> bool:
        node = await here.get(r.NODES, "n1")
        return bool((node["status"]["capacity"] or {}).get(names.EXTENDED_RESOURCE) == "21")

    await here.until(taken)


@pytest_twisted.ensureDeferred
async def test_pull_secret_rights_come_at_once_and_go_later(here: Scene, double: Double) -> None:
    await set_up(here, webhook={"failurePolicy": "Ignore"})
    double.seed(r.NAMESPACES, {"metadata": {"name": "apps"}})
    pod = {
        "metadata": {"name": "web", "namespace": "apps"},
        "spec": {
            "runtimeClassName": "kata-remote",
            "containers": [{"name": "c", "image": "i"}],
            "imagePullSecrets": [{"name": "mirror"}, {"name": "other"}],
        },
    }
    began = here.reactor.seconds()
    await here.create(r.PODS, pod)
    binding = await here.until(lambda: here.get(r.ROLE_BINDINGS, names.PULL_SECRETS_ROLE, "apps"))
    took = here.reactor.seconds() - began
    assert took < 0.5, took
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": names.ADAPTOR, "namespace": NAMESPACE}]
    role = await here.get(r.ROLES, names.PULL_SECRETS_ROLE, "apps")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mirror", "other"], "verbs": ["get"]}
    ]
    await here.edit(r.ROLES, names.PULL_SECRETS_ROLE, {"rules": []}, "apps")

    async def mended() -> bool:
        return bool((await here.get(r.ROLES, names.PULL_SECRETS_ROLE, "apps"))["rules"])

    await here.until(mended)
    await here.kube.delete(r.PODS, "web", "apps", grace=0)

    async def gone() -> bool:
        left = [await here.get(kind, names.PULL_SECRETS_ROLE, "apps") for kind in (r.ROLES, r.ROLE_BINDINGS)]
        return left == [None, None]

    await here.until(gone)


@pytest_twisted.ensureDeferred
async def test_deletion_leaves_nothing_and_keeps_its_order(here: Scene, double: Double) -> None:
    await set_up(here)
    double.seed(r.NAMESPACES, {"metadata": {"name": "apps"}})
    peer_pod = {
        "metadata": {"name": "web-resource-1234", "namespace": "apps", "finalizers": [names.FINALIZER]},
        "spec": {"cloudProvider": "memory", "instanceID": "i-1"},
    }
    await here.create(r.PEER_PODS, peer_pod)
    since = len(double.seen)
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)
    ready = await here.until_reason("Deleting")
    await here.until(lambda: here.condition("Deleting"))

    async def waiting() -> bool:
        return bool((await here.condition("Deleting")).get("reason") == "WaitingPeerPods")

    await here.until(waiting)
    assert await here.own(r.DAEMON_SETS, names.ADAPTOR), "the adaptors stay until the VMs are gone"
    assert (await here.get(r.NODES, "n1"))["status"]["capacity"], "and the capacity"
    assert await here.get(r.RUNTIME_CLASSES, "kata-remote") is None
    assert (await here.config())["status"]["peerPodsLeft"] == 1
    assert "web-resource-1234" in (await here.condition("Ready"))["message"], ready
    await here.edit(r.PEER_PODS, "web-resource-1234", {"metadata": {"finalizers": None}}, "apps")

    async def gone() -> bool:
        return await here.config() is None

    await here.until(gone)
    for kind in (r.DAEMON_SETS, r.DEPLOYMENTS, r.SERVICES, r.NETWORK_POLICIES):
        assert await here.names(kind, NAMESPACE) == [], kind
    for kind in (r.RUNTIME_CLASSES, r.MUTATING_WEBHOOKS, r.ROLES, r.ROLE_BINDINGS):
        assert await here.names(kind) == [], kind
    assert not (await here.get(r.NODES, "n1"))["status"]["capacity"]
    deletes = [one.path.rsplit("/", 2)[-2] for one in list(double.seen)[since:] if one.method == "DELETE"]
    assert deletes[1:4] == ["mutatingwebhookconfigurations", "runtimeclasses", "peerpods"]
    assert deletes.index("daemonsets") > deletes.index("peerpods")


@pytest_twisted.ensureDeferred
async def test_a_deletion_goes_on_without_vms_that_do_not_go_and_names_them(here: Scene, double: Double) -> None:
    await set_up(here, deletionTimeoutSeconds=60)
    double.seed(r.NAMESPACES, {"metadata": {"name": "apps"}})
    peer_pod = {
        "metadata": {"name": "stuck", "namespace": "apps", "finalizers": [names.FINALIZER]},
        "spec": {"cloudProvider": "memory", "instanceID": "i-77"},
    }
    await here.create(r.PEER_PODS, peer_pod)
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)

    async def waiting() -> bool:
        return bool((await here.condition("Deleting")).get("reason") == "WaitingPeerPods")

    await here.until(waiting)
    await here.stop()  # a crash: the next process goes on
    here.offset = 61.0
    await here.start()

    async def gone() -> bool:
        return await here.config() is None

    await here.until(gone)
    (told,) = [one for one in here.events.told if one.reason == "VMMayBeLeft"]
    assert told.type == "Warning"
    assert "apps/stuck (VM i-77 at memory)" in told.note
    assert "peerpods uninstall --force" in told.note
    stuck = await here.get(r.PEER_PODS, "stuck", "apps")
    assert stuck["metadata"]["deletionTimestamp"], "it was asked to go, and keeps its finalizer for whoever comes"


@pytest_twisted.ensureDeferred
async def test_a_foreign_runtime_class_is_left_alone(here: Scene) -> None:
    foreign = {"metadata": {"name": "kata-remote"}, "handler": "kata-remote", "overhead": {"podFixed": {"cpu": "1"}}}
    await here.create(r.RUNTIME_CLASSES, foreign)
    await set_up(here)
    live = await here.get(r.RUNTIME_CLASSES, "kata-remote")
    assert live["overhead"] == {"podFixed": {"cpu": "1"}}
    assert (await here.condition("RuntimeClasses"))["reason"] == "SomebodyElses"
    await here.kube.delete(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)

    async def gone() -> bool:
        return await here.config() is None

    await here.until(gone)
    assert await here.get(r.RUNTIME_CLASSES, "kata-remote")


@pytest_twisted.ensureDeferred
async def test_what_is_asked_for_no_more_goes(here: Scene) -> None:
    await set_up(here, runtimeClasses=[{"name": "kata-remote"}, {"name": "other", "resourceName": "example.com/vm"}])
    assert await here.names(r.RUNTIME_CLASSES) == ["kata-remote", "other"]
    spec = {"runtimeClasses": [{"name": "kata-remote"}]}
    await here.edit(r.PEER_POD_CONFIGS, "peerpods", {"spec": spec}, NAMESPACE)

    async def pruned() -> bool:
        node = await here.get(r.NODES, "n1")
        return await here.names(r.RUNTIME_CLASSES) == ["kata-remote"] and (
            node["status"]["capacity"] == {names.EXTENDED_RESOURCE: "10"}
        )

    await here.until(pruned)


@pytest_twisted.ensureDeferred
async def test_secrets_are_in_no_condition_and_no_event(here: Scene) -> None:
    await here.secret(LIBVIRT_URI="quite secret words", LIBVIRT_POOL="a/b")
    await here.edit(r.CONFIG_MAPS, names.CONFIG_MAP, {"data": {"CLOUD_PROVIDER": "libvirt"}}, NAMESPACE)
    await here.create(r.PEER_POD_CONFIGS, config_object())
    await here.start()
    await here.workloads_ready()
    ready = await here.until_reason("WrongSettings")
    assert "LIBVIRT_URI" in ready["message"]
    everything = str(await here.config()) + str(here.events.told)
    assert "quite secret words" not in everything
    assert base64.b64encode(b"quite secret words").decode() not in everything
    assert "'a/b'" not in everything
