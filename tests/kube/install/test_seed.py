"""The PeerPodConfig that comes with the installation, and the rights that outlive a deletion in the wrong order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import yaml

from peerpods.kube.client import hold, keep, release
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.peerpodconfig.seed import APPLIED, CONFIG_MAP, EVERY, KEY, SOON, Seed, body_of, digest_of
from tests.kube.double import Double
from tests.kube.install import world
from tests.kube.install.world import NAMESPACE

TEXT = (
    "apiVersion: confidentialcontainers.org/v1alpha1\nkind: PeerPodConfig\n"
    "metadata: {name: peerpods}\nspec: {limit: '3'}\n"
)


def _text(double: Double, text: str) -> None:
    double.change(r.CONFIG_MAPS, CONFIG_MAP, NAMESPACE, lambda one: one["data"].update({KEY: text}))


@pytest.fixture
def seeded(double: Double) -> Double:
    double.seed(r.CONFIG_MAPS, {"metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE}, "data": {KEY: TEXT}})
    return double


def _limit(double: Double) -> Any:
    return double.store.get(r.PEER_POD_CONFIGS, names.CONFIG_NAME, NAMESPACE)["spec"].get("limit")


@pytest_twisted.ensureDeferred
async def test_each_text_is_applied_once_so_that_people_have_the_last_word(seeded: Double, tmp_path: Path) -> None:
    from twisted.internet import reactor

    async with world.connected(seeded, tmp_path) as kube:
        seed = Seed(reactor, kube, NAMESPACE)
        assert await seed.work("") == EVERY
        assert _limit(seeded) == "3"
        notes = seeded.store.get(r.CONFIG_MAPS, CONFIG_MAP, NAMESPACE)["metadata"]["annotations"]
        assert notes[APPLIED] == digest_of(TEXT)
        seeded.change(r.PEER_POD_CONFIGS, names.CONFIG_NAME, NAMESPACE, lambda one: one["spec"].update(limit="7"))
        await seed.work("")
        assert _limit(seeded) == "7"
        seeded.remove(r.PEER_POD_CONFIGS, names.CONFIG_NAME, NAMESPACE, now=True)
        await seed.work("")
        assert seeded.store.list(r.PEER_POD_CONFIGS) == []
        _text(seeded, TEXT.replace("'3'", "'4'"))
        await seed.work("")
        assert _limit(seeded) == "4"


@pytest_twisted.ensureDeferred
async def test_one_that_is_still_going_is_waited_for(seeded: Double, tmp_path: Path) -> None:
    from twisted.internet import reactor

    world.config(seeded)
    async with world.connected(seeded, tmp_path) as kube:
        seed = Seed(reactor, kube, NAMESPACE)
        await kube.delete(r.PEER_POD_CONFIGS, names.CONFIG_NAME, NAMESPACE)
        assert await seed.work("") == SOON
        assert _limit(seeded) is None
        seeded.remove(r.PEER_POD_CONFIGS, names.CONFIG_NAME, NAMESPACE, now=True)
        assert await seed.work("") == EVERY
        assert _limit(seeded) == "3"


@pytest_twisted.ensureDeferred
async def test_without_the_configmap_and_with_nonsense_in_it_nothing_is_done(double: Double, tmp_path: Path) -> None:
    from twisted.internet import reactor

    async with world.connected(double, tmp_path) as kube:
        seed = Seed(reactor, kube, NAMESPACE)
        assert await seed.work("") == EVERY
        double.seed(r.CONFIG_MAPS, {"metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE}, "data": {KEY: "{"}})
        assert await seed.work("") == EVERY
        assert double.store.list(r.PEER_POD_CONFIGS) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not YAML"),
        ("[]", "no PeerPodConfig"),
        ("kind: Pod", "no PeerPodConfig"),
        ("kind: PeerPodConfig\napiVersion: v1", "apiVersion"),
        (TEXT.replace("name: peerpods", "name: peerpods, namespace: other"), "namespace is other"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, words: str) -> None:
    found = body_of(text, NAMESPACE)
    assert isinstance(found, str)
    assert words in found


def test_the_installed_text_is_taken() -> None:
    file = Path(__file__).parents[3] / "k8s/base/peerpodconfig.yaml"
    installed = yaml.safe_load(file.read_text())
    assert installed["metadata"]["name"] == CONFIG_MAP
    body = body_of(installed["data"][KEY], NAMESPACE)
    assert isinstance(body, dict)
    assert body["metadata"]["name"] == names.CONFIG_NAME


def _held(double: Double) -> set[str]:
    return {
        one["metadata"]["name"]
        for one in double.store.list(r.SERVICE_ACCOUNTS)
        if names.CONFIG_FINALIZER in one["metadata"].get("finalizers", [])
    }


@pytest_twisted.ensureDeferred
async def test_an_account_is_held_and_let_go_and_others_finalizers_stay(double: Double, tmp_path: Path) -> None:
    world.install(double)
    account, other = names.PEER_POD_CTRL, "example.com/other"
    double.change(r.SERVICE_ACCOUNTS, account, NAMESPACE, lambda one: one["metadata"].update(finalizers=[other]))
    async with world.connected(double, tmp_path) as kube:
        for _ in range(2):
            await hold(kube, account, NAMESPACE)
            assert _held(double) == {account}
        for _ in range(2):
            await release(kube, account, NAMESPACE)
            assert _held(double) == set()
        assert double.store.get(r.SERVICE_ACCOUNTS, account, NAMESPACE)["metadata"]["finalizers"] == [other]
        await hold(kube, "nobody", NAMESPACE)


@pytest_twisted.ensureDeferred
async def test_a_copy_of_the_rights_ends_with_the_namespace(double: Double, tmp_path: Path) -> None:
    world.install(double)
    role, rules = f"peerpods-{names.PEER_POD_CTRL}", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    double.change(r.CLUSTER_ROLES, role, "", lambda one: one.update(rules=rules))
    async with world.connected(double, tmp_path) as kube:
        await keep(kube, "nobody", NAMESPACE)
        for _ in range(2):
            await keep(kube, names.PEER_POD_CTRL, NAMESPACE)
        copy = double.store.get(r.CLUSTER_ROLES, f"{role}-undo")
        assert copy["rules"] == rules
        uid = double.store.get(r.NAMESPACES, NAMESPACE)["metadata"]["uid"]
        for kind in (r.CLUSTER_ROLES, r.CLUSTER_ROLE_BINDINGS):
            (owner,) = double.store.get(kind, f"{role}-undo")["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["uid"]) == ("Namespace", uid)
