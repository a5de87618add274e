"""The work of a namespace, of a node, of an object, and the end of the process, by a clock."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from peerpods.kube.client import ApiError
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.peerpodconfig import ending
from peerpods.kube.peerpodconfig.advertising import Advertising, Wish, mistakes
from peerpods.kube.peerpodconfig.applier import Applier
from peerpods.kube.peerpodconfig.ending import Going
from peerpods.kube.peerpodconfig.facts import NodeFacts, PodFacts, node_facts
from peerpods.kube.peerpodconfig.granting import LINGER, Granting
from peerpods.kube.peerpodconfig.spec import parse_config
from tests.kube.peerpodconfig.fakes import FakeKube
from tests.kube.peerpodconfig.samples import stored

ROLE = names.PULL_SECRETS_ROLE


def done(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of something that waits for nothing."""
    found: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(found.append)
    assert found, "it waits"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


class Granted:
    """Granting with a clock; the informers are never late."""

    def __init__(self) -> None:
        self.clock, self.kube = Clock(), FakeKube()
        self.classes = frozenset({"kata-remote"})
        self.granting = Granting(
            self.clock,
            self.kube,  # type: ignore[arg-type]
            lambda: self.kube.store("Role"),
            lambda: self.kube.store("RoleBinding"),
            lambda: self.classes,
            "peerpods-system",
        )

    def pod(self, key: str, *secrets: str, cls: str = "kata-remote") -> str | None:
        return self.granting.pod_changed(key, PodFacts(cls, secrets) if secrets else None)

    def work(self) -> Any:
        return done(self.granting.work("apps"))

    def open(self) -> list[str]:
        role = self.kube.objects.get(("Role", "apps", ROLE))
        return role["rules"][0]["resourceNames"] if role else []


def test_a_right_comes_at_once_and_stays_for_a_moment() -> None:
    here = Granted()
    assert here.pod("apps/a", "one") == "apps"
    assert here.work() is None
    assert [call[:2] for call in here.kube.calls] == [("apply", "Role"), ("apply", "RoleBinding")]
    assert here.open() == ["one"]
    assert here.pod("apps/b", "two") == "apps"
    here.work()
    assert here.open() == ["one", "two"]
    assert here.pod("apps/a") == "apps"
    assert here.work() == LINGER
    assert here.open() == ["one", "two"]
    here.clock.advance(LINGER)
    assert here.work() is None
    assert here.open() == ["two"]
    here.pod("apps/b")
    here.work()
    here.clock.advance(LINGER)
    here.work()
    assert here.kube.objects == {}
    assert here.granting.namespaces() == []


def test_what_changes_nothing_asks_for_no_work() -> None:
    here = Granted()
    assert here.pod("apps/a", "one") == "apps"
    assert here.pod("apps/a", "one") is None
    assert here.pod("apps/unknown") is None
    here.work()
    calls = len(here.kube.calls)
    here.work()
    assert len(here.kube.calls) == calls


def test_swapping_a_secret_takes_effect_at_once() -> None:
    here = Granted()
    here.pod("apps/a", "one")
    here.work()
    here.pod("apps/a", "two")
    assert here.work() is None
    assert here.open() == ["two"]


def test_without_a_config_in_force_rights_go_at_once() -> None:
    here = Granted()
    here.pod("apps/a", "one")
    here.work()
    here.classes = frozenset()
    assert here.work() is None
    assert here.kube.objects == {}


def test_other_runtime_classes_give_no_right() -> None:
    here = Granted()
    here.pod("apps/a", "one", cls="kata-qemu")
    here.work()
    assert here.kube.objects == {}


def test_a_binding_to_another_role_is_made_anew() -> None:
    here = Granted()
    here.kube.put("RoleBinding", ROLE, "apps", roleRef={"name": "admin"})
    here.pod("apps/a", "one")
    here.work()
    assert [call[0] for call in here.kube.calls] == ["apply", "delete", "apply"]
    assert here.kube.objects["RoleBinding", "apps", ROLE]["roleRef"]["name"] == ROLE


@pytest.mark.parametrize(
    "error",
    [
        ApiError("no namespace", status=404),
        ApiError("no", status=403, details={"causes": [{"reason": "NamespaceTerminating"}]}),
    ],
)
def test_a_namespace_that_goes_is_no_fault(error: ApiError) -> None:
    here = Granted()
    here.pod("apps/a", "one")
    here.kube.refuse["apply"] = error
    assert here.work() is None


def test_a_missing_right_of_our_own_is_one() -> None:
    here = Granted()
    here.pod("apps/a", "one")
    here.kube.refuse["apply"] = ApiError("attempting to grant extra privileges", status=403)
    with pytest.raises(ApiError):
        here.work()


def node(name: str = "n", capacity: dict[str, str] | None = None, limit: str = "", **labels: str) -> NodeFacts:
    return NodeFacts(name, f"uid-{name}", {"node.kubernetes.io/worker": "", **labels}, limit, capacity or {})


def advertised(facts: NodeFacts, wish: Wish | None) -> Any:
    kube = FakeKube()
    done_ = Advertising(kube, lambda: {facts.name: facts}, lambda: wish)  # type: ignore[arg-type]
    done(_none(done_.work(facts.name)))
    return kube.patches


async def _none(work: Any) -> bool:
    assert await work is None
    return True


CONFIG = parse_config(stored(limit="12"))


def test_a_node_is_patched_only_when_it_is_wrong_and_only_itself() -> None:
    assert advertised(node(), Wish(CONFIG)) == [
        {"metadata": {"uid": "uid-n"}, "status": {"capacity": {"kata.peerpods.io/vm": "12"}}}
    ]
    assert advertised(node(capacity={"kata.peerpods.io/vm": "12"}), Wish(CONFIG)) == []
    assert advertised(node(capacity={"kata.peerpods.io/vm": "12"}), Wish(None))[0]["status"] == {
        "capacity": {"kata.peerpods.io/vm": None}
    }
    assert advertised(node(), Wish(None)) == []
    assert advertised(node(capacity={"kata.peerpods.io/vm": "3"}), None) == [], "undecided: left alone"


def test_a_resource_of_an_earlier_config_goes() -> None:
    patches = advertised(node(capacity={"example.com/vm": "3"}), Wish(None, frozenset({"example.com/vm"})))
    assert patches[0]["status"] == {"capacity": {"example.com/vm": None}}


def test_wrong_limits_are_told_of_by_name() -> None:
    config = parse_config(stored(limit="x"))
    assert mistakes([node("b", limit="y"), node("a")], config) == [
        "spec.limit is 'x', not a whole number from 0 to 100000",
        "node b: the node's annotation kata.peerpods.io/limit is 'y', not a whole number from 0 to 100000",
    ]


def test_a_node_that_went_meanwhile_is_no_fault() -> None:
    kube = FakeKube()
    kube.refuse["patch"] = ApiError("gone", status=404)
    one = node()
    advertising = Advertising(kube, lambda: {"n": one}, lambda: Wish(CONFIG))  # type: ignore[arg-type]
    done(_none(advertising.work("n")))
    done(_none(advertising.work("unknown")))
    kube.refuse["patch"] = ApiError("no", status=403)
    with pytest.raises(ApiError):
        done(_none(advertising.work("n")))


def test_of_a_node_little_is_kept() -> None:
    whole = {
        "metadata": {
            "name": "n",
            "uid": "u",
            "labels": {"a": "b"},
            "annotations": {names.LIMIT_ANNOTATION: "3", "x": "y"},
        },
        "status": {"capacity": {"cpu": "4", "a/b": 1}, "images": ["x"] * 50},
    }
    assert node_facts(whole) == NodeFacts("n", "u", {"a": "b"}, "3", {"a/b": "1"})
    assert node_facts({"metadata": {"name": "n"}}) == NodeFacts("n", "", {}, "", {})


BODY = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": {"x": 1}}


def test_an_apply_is_sent_once_though_the_watch_is_late() -> None:
    kube = FakeKube()
    applier = Applier(kube)  # type: ignore[arg-type]
    assert done(applier.ensure(r.SERVICES, BODY, None)) is True
    assert done(applier.ensure(r.SERVICES, BODY, None)) is False
    seen = kube.store("Service")["a/s"]
    assert done(applier.ensure(r.SERVICES, BODY, seen)) is False
    assert len(kube.calls) == 1
    changed = {**seen, "spec": {"x": 2}, "metadata": {**seen["metadata"], "resourceVersion": "99"}}
    assert done(applier.ensure(r.SERVICES, BODY, changed)) is True


def test_what_an_apply_cannot_change_is_tried_once() -> None:
    kube = FakeKube()
    applier = Applier(kube)  # type: ignore[arg-type]
    done(applier.ensure(r.SERVICES, BODY, None))
    stored_ = kube.objects["Service", "a", "s"]
    odd = {**stored_, "spec": {"x": "1"}}  # the server keeps it in another form
    assert done(applier.ensure(r.SERVICES, BODY, odd)) is False
    calls = len(kube.calls)
    assert done(applier.ensure(r.SERVICES, BODY, odd)) is False
    assert len(kube.calls) == calls


class Held:
    """What a controller shows to the end of its process."""

    def __init__(self, *objects: Any) -> None:
        self.objects = list(objects)
        self.released: list[str] = []
        self.let = 0
        self.undoing = False
        self.refuse: ApiError | None = None

    def held(self) -> list[Any]:
        return [obj for obj in self.objects if obj["metadata"]["name"] not in self.released]

    async def release(self, obj: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.released.append(obj["metadata"]["name"])

    def only_undo(self) -> None:
        self.undoing = True

    async def let_go(self) -> None:
        self.let += 1


def going(name: str, *, deleting: bool) -> Any:
    return {"metadata": {"name": name, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})}}


def finishing(held: Held, what: Going, bound: float = 240.0) -> tuple[Clock, Deferred[None]]:
    clock = Clock()

    def sleep(seconds: float) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        clock.callLater(seconds, waiting.callback, None)
        return waiting

    return clock, Deferred.fromCoroutine(ending.finish(clock, held, what, bound=bound, sleep=sleep))  # type: ignore[arg-type]


def test_a_deletion_under_way_is_waited_for_within_the_bound() -> None:
    held = Held(going("a", deleting=True))
    clock, end = finishing(held, Going("namespace x", configs_too=True))
    clock.pump([1.0] * 30)
    assert not end.called
    held.objects.clear()
    clock.advance(1.0)
    assert end.called
    assert held.released == []
    assert held.let == 1
    assert held.undoing, "else the finalizer would be put on again"


def test_after_the_bound_the_finalizer_is_stripped() -> None:
    held = Held(going("a", deleting=True))
    clock, end = finishing(held, Going("namespace x", configs_too=True), bound=20.0)
    clock.pump([1.0] * 19)
    assert held.released == []
    clock.pump([1.0] * 3)
    assert end.called
    assert held.released == ["a"]


def test_when_only_the_deployment_goes_a_later_deletion_must_not_hang() -> None:
    held = Held(going("a", deleting=False))
    clock, end = finishing(held, Going("Deployment peerpodconfig-ctrl"))
    clock.advance(1.0)
    assert end.called
    assert held.released == ["a"]


def test_a_config_that_the_namespace_has_not_reached_yet_is_waited_for() -> None:
    held = Held(going("a", deleting=False))
    clock, end = finishing(held, Going("namespace x", configs_too=True))
    clock.advance(1.0)
    assert not end.called
    held.objects[0] = going("a", deleting=True)
    held.objects.clear()
    clock.advance(1.0)
    assert end.called


def test_rights_that_are_gone_end_it_too() -> None:
    held = Held(going("a", deleting=True))
    held.refuse = ApiError("no", status=401)
    clock, end = finishing(held, Going("namespace x", configs_too=True), bound=2.0)
    clock.pump([1.0] * 4)
    assert end.called


@pytest.mark.parametrize(
    ("kind", "name", "namespace", "what", "too"),
    [
        ("Namespace", "ns", "", "namespace ns", True),
        ("CustomResourceDefinition", "peerpodconfigs.confidentialcontainers.org", "", "CustomResourceDefinition", True),
        ("Deployment", "peerpodconfig-ctrl", "ns", "Deployment peerpodconfig-ctrl", False),
    ],
)
@pytest.mark.parametrize("gone", [True, False])
def test_what_of_ours_is_going(kind: str, name: str, namespace: str, what: str, too: bool, gone: bool) -> None:
    kube = FakeKube()
    kube.put("Namespace", "ns")
    kube.put("CustomResourceDefinition", "peerpodconfigs.confidentialcontainers.org")
    kube.put("Deployment", "peerpodconfig-ctrl", "ns")
    assert done(ending.is_installed(kube, "ns")) is True  # type: ignore[arg-type]
    assert done(ending.going(kube, "ns", installed=True)) == Going("")  # type: ignore[arg-type]
    if gone:
        del kube.objects[kind, namespace, name]
    else:
        kube.objects[kind, namespace, name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    found = done(ending.going(kube, "ns", installed=True))  # type: ignore[arg-type]
    assert found.what.startswith(what)
    assert found.configs_too is too


def test_outside_of_a_cluster_a_missing_deployment_means_nothing() -> None:
    kube = FakeKube()
    kube.put("Namespace", "ns")
    kube.put("CustomResourceDefinition", "peerpodconfigs.confidentialcontainers.org")
    assert done(ending.is_installed(kube, "ns")) is False  # type: ignore[arg-type]
    assert done(ending.going(kube, "ns", installed=False)) == Going("")  # type: ignore[arg-type]
