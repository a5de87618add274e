"""Differences, choice, finalizer, grants, the plan of a removal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.objects.names import CONFIG_FINALIZER
from peerpods.kube.objects.peerpod import PeerPodView
from peerpods.kube.peerpodconfig import finalizer, grants
from peerpods.kube.peerpodconfig.choice import choose, conflict_words
from peerpods.kube.peerpodconfig.difference import fingerprint, first_difference, stamped
from peerpods.kube.peerpodconfig.facts import PodFacts
from peerpods.kube.peerpodconfig.removal import ORDER, Left, Stage, bounds, describe, left_behind, plan, progress, some
from peerpods.kube.peerpodconfig.render import render
from peerpods.kube.peerpodconfig.spec import parse_config
from tests.kube.peerpodconfig.samples import RICH, stored
from tests.kube.peerpodconfig.test_render import NEW, made, one


def test_an_object_covers_itself_with_what_others_add() -> None:
    for name in ("plain-1.32", "rich-1.32"):
        for obj in made(name):
            wanted = stamped(obj)
            live = copy.deepcopy(wanted)
            live["metadata"] |= {"uid": "u", "resourceVersion": "9", "generation": 2}
            live["status"] = {"x": 1}
            live.get("spec", {})["defaulted"] = True
            assert first_difference(live, wanted) is None
    assert first_difference(None, stamped(made("plain-1.32")[0])) == ""


@pytest.mark.parametrize(
    ("live", "wanted", "where"),
    [
        ({"a": 1}, {"a": 2}, ".a"),
        ({}, {"a": {"b": 1}}, ".a"),
        ({}, {"a": {}}, None),
        ({}, {"a": []}, None),
        ({}, {"a": ""}, None),
        ({}, {"a": False}, None),
        ({}, {"a": True}, ".a"),
        ({"a": [1, 2]}, {"a": [1]}, ".a"),
        ({"a": [1, 3]}, {"a": [1, 2]}, ".a[1]"),
        ({"a": "x"}, {"a": [1]}, ".a"),
        ({"a": [{"name": "x", "v": 1}, {"name": "y"}]}, {"a": [{"name": "y"}]}, None),
        ({"a": [{"name": "x", "v": 1}]}, {"a": [{"name": "x", "v": 2}]}, ".a[x].v"),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "y"}]}, ".a[y]"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, {"limits": {"cpu": "1000m", "memory": "1024Mi"}}, None),
        ({"limits": {"a.b/c": "1k"}}, {"limits": {"a.b/c": 1000}}, None),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1001m"}}, ".limits.cpu"),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "much"}}, ".limits.cpu"),
        ({"labels": {"cpu": "1"}}, {"labels": {"cpu": "1000m"}}, ".labels.cpu"),
        ({"a": "text"}, {"a": {"b": 1}}, ".a"),
    ],
)
def test_the_first_difference(live: Any, wanted: Any, where: str | None) -> None:
    assert first_difference(live, wanted) == where


def test_a_wish_that_only_lost_a_field_has_another_fingerprint() -> None:
    config = parse_config(stored())
    plain = one(render(config, NEW), "MutatingWebhookConfiguration")
    fewer = copy.deepcopy(plain)
    del fewer["webhooks"][0]["matchConditions"]
    assert first_difference(plain, fewer) is None
    assert (
        first_difference(stamped(plain), stamped(fewer)) == ".metadata.annotations.confidentialcontainers.org/applied"
    )
    assert fingerprint(plain) == fingerprint(copy.deepcopy(plain))


def config(
    name: str, created: str = "2026-01-01T00:00:00Z", *, held: bool = False, going: bool = False, ns: str = "a"
) -> Any:
    meta: dict[str, Any] = {"name": name, "namespace": ns, "creationTimestamp": created}
    if held:
        meta["finalizers"] = ["other/one", CONFIG_FINALIZER]
    if going:
        meta["deletionTimestamp"] = "2026-02-01T00:00:00Z"
    return {"metadata": meta}


@pytest.mark.parametrize(
    ("objects", "winner"),
    [
        ([], ""),
        ([config("x", ns="b")], ""),
        ([config("y"), config("x")], "a/x"),
        ([config("y", "2025-01-01T00:00:00Z"), config("x")], "a/y"),
        ([config("y", held=True), config("x", "2025-01-01T00:00:00Z")], "a/y"),
        ([config("y", held=True, going=True), config("x")], "a/y"),
        ([config("y", going=True), config("x")], "a/x"),
        ([config("y", going=True)], ""),
    ],
)
def test_which_one_is_in_force(objects: list[Any], winner: str) -> None:
    assert choose(objects, "a") == winner
    assert choose(reversed(objects), "a") == winner


def test_the_words_of_a_conflict() -> None:
    assert "kubectl -n a delete peerpodconfig x" in conflict_words("a/y", "a/x", "a")
    assert "kubectl -n a apply" in conflict_words("b/y", "a/x", "a")


def test_the_finalizer_is_added_and_removed_beside_others() -> None:
    bare = {"metadata": {"uid": "u", "resourceVersion": "5"}}
    assert finalizer.adding(bare)[1] == {"op": "add", "path": "/metadata/finalizers", "value": [CONFIG_FINALIZER]}
    other = {"metadata": {"uid": "u", "resourceVersion": "5", "finalizers": ["a", CONFIG_FINALIZER, "b"]}}
    assert finalizer.adding(other)[1]["path"] == "/metadata/finalizers/-"
    assert finalizer.removing(other)[1:] == [
        {"op": "test", "path": "/metadata/finalizers/1", "value": CONFIG_FINALIZER},
        {"op": "remove", "path": "/metadata/finalizers/1"},
    ]


def test_exactly_the_secrets_of_our_peer_pods_are_opened() -> None:
    classes = frozenset({"kata-remote"})
    pods = [
        PodFacts("kata-remote", ("b", "a")),
        PodFacts("kata-remote", ("a", "Bad_Name", "..")),
        PodFacts("kata-qemu", ("c",)),
    ]
    found = grants.secret_names(pods, classes)
    assert found == ("a", "b")
    role = grants.role("apps", found)
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get"]}
    ]
    assert grants.granted(role) == {"a", "b"}
    assert grants.granted(None) == frozenset()
    assert grants.secret_names(pods, frozenset()) == ()


ALL = {stage: ["x"] for stage in ORDER}


def test_a_removal_goes_step_by_step() -> None:
    left = dict(ALL)
    for stage in ORDER:
        found = plan(Left(items=left), 0.0, 240)
        assert (found.act, found.waiting, found.overdue) == ((stage,), stage, ())
        del left[stage]
    assert plan(Left(items=left), 0.0, 240).waiting is None


def test_each_bound_lets_the_next_step_begin_and_the_first_one_go_on() -> None:
    for index, stage in enumerate(ORDER):
        at = bounds(240)[stage]
        before = plan(Left(items=ALL), at - 0.1, 240)
        assert before.waiting is stage
        after = plan(Left(items=ALL), at, 240)
        assert after.waiting is (ORDER[index + 1] if index + 1 < len(ORDER) else None)
        assert after.overdue == ORDER[: index + 1]
        assert set(after.overdue) <= set(after.act)


def test_nothing_takes_five_minutes_by_default() -> None:
    assert max(bounds(240).values()) < 300
    assert sorted(bounds(0).values()) == list(bounds(0).values())


@given(st.sets(st.sampled_from(ORDER)), st.floats(0, 1000), st.floats(0, 1000), st.booleans())
def test_whatever_is_left_the_order_holds_and_the_end_comes(
    rest: set[Stage], waited: float, timeout: float, ending: bool
) -> None:
    found = plan(Left(items={stage: ["x"] for stage in rest}, namespace_ending=ending), waited, timeout)
    assert list(found.act) == [stage for stage in ORDER if stage in found.act]
    if found.waiting is not None:
        assert found.waiting in rest
        assert not [one for one in found.act if ORDER.index(one) > ORDER.index(found.waiting)]
    else:
        assert set(found.act) == rest
    if waited >= max(timeout, 20) + 30:
        assert found.waiting is None


def test_when_our_namespace_goes_nobody_waits_for_vms() -> None:
    found = plan(Left(items={Stage.PEER_PODS: ["a/b"], Stage.CHILDREN: ["c"]}, namespace_ending=True), 0.0, 240)
    assert found.waiting is None
    assert found.act == (Stage.PEER_PODS, Stage.CHILDREN)


def test_the_words_of_a_removal() -> None:
    left = Left(items={Stage.PEER_PODS: [f"a/p{i}" for i in range(12)]})
    words = progress(plan(left, 30.0, 240), left, 30.0, 240)
    assert words.startswith("waiting for PeerPods and their VMs: 12 left (a/p0,")
    assert words.endswith("and 2 more), at most 210 s more")
    assert some([]) == ""
    view = PeerPodView(namespace="a", name="p", uid="u", sandbox="s1", provider="aws", node="n1", last_error="denied")
    assert describe(view) == "a/p (a VM with tag peerpods-sandbox=s1 at aws, node n1, last error: denied)"
    text = left_behind([view] * 12, 240)
    assert "12 PeerPods are still there after 240 s" in text
    assert "and 2 more" in text
    assert "peerpods uninstall --force" in text


def test_every_field_of_a_rich_config_is_read() -> None:
    config = parse_config(stored(**RICH))
    assert config.resource_names == ("kata.peerpods.io/vm", "kata.peerpods.io/gpu-vm")
    assert config.runtime_classes[0].node_selector == {"pool": "peers", "katacontainers.io/kata-runtime": "true"}
    assert config.runtime_classes[1].node_selector == {"gpu": "yes"}
    assert config.webhook.self_managed is False
    assert config.deletion_timeout == 240
    old = parse_config({"metadata": {"name": "x"}, "spec": {"limit": "3", "instanceType": "t3.small"}})
    assert (old.secret, old.config_map, old.limit) == ("peer-pods-secret", "peer-pods-cm", "3")
    assert parse_config({"metadata": {}}).node_selector == {"node.kubernetes.io/worker": ""}
