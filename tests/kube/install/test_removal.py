"""Taking everything out of a cluster: the order, the bound, and what is said about what is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml
from twisted.internet.threads import deferToThread

from peerpods.cli import removal
from peerpods.cli.removal import Outcome, Removal
from peerpods.errors import ConfigError
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from tests.kube.double import Double
from tests.kube.install import world
from tests.kube.install.world import NAMESPACE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "LOOK_EVERY", 0.02)


async def _remove(double: Double, folder: Path, controllers: bool = True, **choices: Any) -> tuple[Outcome, list[str]]:
    from twisted.internet import reactor

    said: list[str] = []
    async with world.connected(double, folder) as kube:
        played = world.Controllers(double, kube, reactor)
        if controllers:
            played.start()
        try:
            outcome = await Removal(reactor, kube, said.append, **{"timeout": 5.0, **choices}).run()
        finally:
            if controllers:
                played.stop()
    said.append("order: " + " ".join(played.order))
    return outcome, said


def _left(double: Double) -> set[str]:
    kinds = (
        r.PEER_PODS, r.PEER_POD_CONFIGS, r.MUTATING_WEBHOOKS, r.RUNTIME_CLASSES, r.ROLES, r.ROLE_BINDINGS, r.NAMESPACES,
        r.CLUSTER_ROLES, r.CLUSTER_ROLE_BINDINGS, r.PRIORITY_CLASSES, r.DEPLOYMENTS, r.SERVICE_ACCOUNTS,
    )  # fmt: skip
    found = {f"{kind.kind} {one['metadata']['name']}" for kind in kinds for one in _all(double, kind)}
    return found - {f"Namespace {name}" for name in ("default", "kube-system", "kube-public", "kube-node-lease")}


def _all(double: Double, kind: r.Resource) -> list[Any]:
    try:
        return double.store.list(kind)
    except KeyError:
        return []


KEPT = {"RuntimeClass gvisor", "Namespace shop"}


@pytest_twisted.ensureDeferred
async def test_all_goes_and_peer_pods_go_before_their_config(double: Double, tmp_path: Path) -> None:
    world.install(double)
    world.config(double)
    for name in ("a", "b"):
        world.peer_pod(double, name)
    outcome, said = await _remove(double, tmp_path)
    assert outcome.clean, outcome
    order = said[-1].split()[1:]
    assert order.index(names.CONFIG_NAME) > max(order.index("a"), order.index("b"))
    assert _left(double) == KEPT
    assert said[0] == "found 1 PeerPodConfig, 2 PeerPods"
    for name in ("w1", "w2"):
        status = double.store.get(r.NODES, name)["status"]
        assert names.EXTENDED_RESOURCE not in {**status["capacity"], **status.get("allocatable", {})}
        assert status["capacity"]["cpu"] == "8"


@pytest_twisted.ensureDeferred
async def test_nothing_installed_is_success_and_twice_is_too(double: Double, tmp_path: Path) -> None:
    for _ in range(2):
        outcome, said = await _remove(double, tmp_path)
        assert outcome.clean
        assert said[0] == "found 0 PeerPodConfigs, 0 PeerPods"


@pytest_twisted.ensureDeferred
async def test_without_force_nothing_that_has_a_vm_is_given_up_and_controllers_stay(
    double: Double, tmp_path: Path
) -> None:
    world.install(double)
    world.config(double)
    world.peer_pod(double, "a")
    outcome, said = await _remove(double, tmp_path, controllers=False, timeout=0.3)
    assert outcome.left == [f"PeerPodConfig {NAMESPACE}/peerpods", "PeerPod shop/a"]
    assert "--force" in outcome.remedy
    assert not outcome.vms
    assert double.store.get(r.PEER_PODS, "a", "shop")["metadata"]["finalizers"] == [names.FINALIZER]
    assert len(double.store.list(r.DEPLOYMENTS)) == 2
    assert [line for line in said if "not gone after 0 s" in line]


@pytest_twisted.ensureDeferred
async def test_force_names_each_vm_before_it_gives_it_up(double: Double, tmp_path: Path) -> None:
    world.install(double)
    world.config(double)
    world.peer_pod(double, "a")
    world.peer_pod(double, "b", instance="")
    outcome, said = await _remove(double, tmp_path, controllers=False, timeout=2.0, force=True)
    assert outcome.left == []
    assert [vm.instance for vm in outcome.vms] == ["i-1", ""]
    named = [line for line in said if line.startswith("a VM may be left")]
    assert "provider libvirt, instance i-1, tags peerpods-sandbox=sandbox-a, peerpods-cluster=c" in named[0]
    assert "no instance id yet, tags peerpods-sandbox=sandbox-b" in named[1]
    stripped = next(i for i, seen in enumerate(double.seen) if seen.method == "PATCH" and "/peerpods/" in seen.path)
    assert stripped > 0
    assert "delete them" in outcome.remedy
    assert _left(double) == KEPT


@pytest_twisted.ensureDeferred
async def test_force_does_not_wait_for_controllers_that_are_away(double: Double, tmp_path: Path) -> None:
    from twisted.internet import reactor

    world.install(double, available=0)
    world.config(double)
    began = reactor.seconds()  # type: ignore[attr-defined]
    outcome, said = await _remove(double, tmp_path, controllers=False, timeout=60.0, force=True)
    assert reactor.seconds() - began < 20  # type: ignore[attr-defined]
    assert not outcome.left
    assert "no controller runs to undo them: peerpodconfig-ctrl, peerpod-ctrl" in said


@pytest_twisted.ensureDeferred
async def test_configs_only_leaves_what_helm_installed(double: Double, tmp_path: Path) -> None:
    world.install(double, managed_by="Helm")
    world.config(double)
    world.peer_pod(double, "a")
    outcome, _ = await _remove(double, tmp_path, configs_only=True)
    assert outcome.clean
    assert not {"RuntimeClass kata-remote", "MutatingWebhookConfiguration peerpods-webhook"} & _left(double)
    assert {"Deployment peerpod-ctrl", "Namespace peerpods-system", "ClusterRole peerpods-peerpod-ctrl"} <= _left(
        double
    )


@pytest_twisted.ensureDeferred
async def test_what_helm_installed_is_left_to_helm(double: Double, tmp_path: Path) -> None:
    world.install(double, managed_by="Helm")
    world.config(double)
    with pytest.raises(ConfigError, match="helm uninstall pp --namespace there"):
        await _remove(double, tmp_path)
    assert "deletionTimestamp" not in double.store.get(r.PEER_POD_CONFIGS, "peerpods", NAMESPACE)["metadata"]


@pytest_twisted.ensureDeferred
async def test_a_namespace_that_is_not_ours_stays(double: Double, tmp_path: Path) -> None:
    world.install(double, ours=False)
    double.seed(r.CONFIG_MAPS, {"metadata": {"name": "theirs", "namespace": NAMESPACE}})
    outcome, _ = await _remove(double, tmp_path)
    assert outcome.clean, outcome
    assert double.store.get(r.CONFIG_MAPS, "theirs", NAMESPACE)
    assert not [one for one in _left(double) if one.startswith(("Deployment", "ServiceAccount", "Role"))]


@pytest_twisted.ensureDeferred
async def test_an_api_server_that_is_away_for_a_moment_is_waited_for(double: Double, tmp_path: Path) -> None:
    from twisted.internet import reactor

    world.install(double)
    world.config(double)
    async with world.connected(double, tmp_path) as kube:
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if text.startswith("waiting for PeerPodConfigs: 1"):
                double.fail_next(8, 503)
                double.remove(r.PEER_POD_CONFIGS, names.CONFIG_NAME, NAMESPACE, now=True)

        outcome = await Removal(reactor, kube, say, timeout=20.0).run()
    assert outcome.clean
    assert any("does not answer" in line for line in said), said


# -- the command


def _command(folder: Path, config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    file = folder / "config"
    file.write_text(yaml.safe_dump(config))
    return subprocess.run(
        [sys.executable, "-m", "peerpods.cli.main", "uninstall", f"--kubeconfig={file}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=folder,
    )


@pytest_twisted.ensureDeferred
async def test_the_command_says_what_it_did_and_ends_with_its_code(double: Double, tmp_path: Path) -> None:
    world.install(double, available=0)
    world.config(double)
    world.peer_pod(double, "a")
    access = double.kubeconfig_dict()
    done = await deferToThread(_command, tmp_path, access)
    assert (done.returncode, "say --yes" in done.stderr) == (2, True)
    done = await deferToThread(_command, tmp_path, access, "--yes", "--timeout=1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "left: PeerPod shop/a" in done.stdout
    assert "remedy: " in done.stdout
    done = await deferToThread(_command, tmp_path, access, "--yes", "--timeout=20", "--force", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["left"] == []
    assert answer["vms"][0]["instance"] == "i-1"
    assert answer["clean"] is False
    assert "may be left" in done.stderr
    done = await deferToThread(_command, tmp_path, access, "--yes")
    assert done.returncode == 0
    assert "nothing is left" in done.stdout


def test_nobody_answers(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {}}], "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    done = _command(tmp_path, config, "--yes", "--timeout=1")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    done = _command(tmp_path, {}, "--yes")
    assert done.returncode == 2
    done = _command(tmp_path, config, "--yes", "--timeout=0")
    assert done.returncode == 2
