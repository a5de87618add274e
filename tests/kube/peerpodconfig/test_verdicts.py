"""Every condition, with its words and remedy."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from peerpods.kube.objects.conditions import find_condition
from peerpods.kube.peerpodconfig.credentials import Credentials, Verdict
from peerpods.kube.peerpodconfig.facts import NodeFacts, SetFacts, WebhookFacts, pod_facts, set_facts, webhook_facts
from peerpods.kube.peerpodconfig.spec import parse_config
from peerpods.kube.peerpodconfig.verdicts import Finding, Seen, conflict_status, deleting_status, findings, status_of
from tests.kube.peerpodconfig.samples import stored

CONFIG = parse_config(stored())
KATA = {"katacontainers.io/kata-runtime": "true"}


def node(name: str, labels: dict[str, str] = KATA) -> NodeFacts:
    return NodeFacts(name, f"uid-{name}", labels, "", {})


FINE = Seen(
    nodes=(node("n1"), node("n2")),
    all_nodes=3,
    credentials=Credentials(Verdict.FINE, "provider libvirt accepts the settings"),
    relay=SetFacts(2, 2, 2, True),
    adaptor=SetFacts(2, 2, 2, True),
    webhook=WebhookFacts(2, 2, True, True),
    classes=1,
)


def found(seen: Seen, kind: str, config: Any = CONFIG) -> Finding:
    (one,) = [each for each in findings(config, seen) if each.kind == kind]
    return one


def test_all_is_well() -> None:
    assert {one.kind: one.status for one in findings(CONFIG, FINE)} == dict.fromkeys(
        [
            "Applied", "NodesMatch", "KataShim", "Credentials", "Relays", "Adaptors", "Webhook", "RuntimeClasses",
            "Capacity", "Ready",
        ],
        True,
    )  # fmt: skip


CASES = [
    ({"nodes": (), "all_nodes": 3}, "NodesMatch", "NoNodeMatches", "kubectl label node NODE"),
    ({"nodes": (node("n1", {}), node("n2"))}, "KataShim", "ShimMissing", "1 of 2 matching nodes have no kata shim: n1"),
    ({"credentials": Credentials(Verdict.MISSING, "no provider")}, "Credentials", "Missing", "no provider"),
    ({"credentials": Credentials(Verdict.WRONG, "bad URI")}, "Credentials", "WrongSettings", "bad URI"),
    ({"credentials": Credentials(Verdict.REFUSED, "no image")}, "Credentials", "Refused", "no image"),
    ({"relay": None}, "Relays", "RelaysNotSeen", "peerpods-relay has no status yet"),
    ({"relay": SetFacts(2, 1, 2, True)}, "Relays", "RelaysNotReady", "1 of 2 ready; look at: kubectl -n"),
    ({"adaptor": SetFacts(2, 2, 2, False)}, "Adaptors", "AdaptorsNotSeen", "no status yet"),
    ({"adaptor": SetFacts(0, 0, 0, True)}, "Adaptors", "AdaptorsNotReady", "0 of 2 ready"),
    (
        {"adaptor": SetFacts(2, 0, 2, True), "troubles": {"adaptor": "CrashLoopBackOff: no pool (node n1)"}},
        "Adaptors", "AdaptorsNotReady", "one says: CrashLoopBackOff: no pool (node n1); look at",
    ),
    ({"webhook": WebhookFacts(2, 0, True, True)}, "Webhook", "WebhookNotAvailable", "are refused"),
    ({"webhook": WebhookFacts(2, 1, False, False)}, "Webhook", "NotRegistered", "not made yet"),
    ({"webhook": WebhookFacts(2, 1, True, False)}, "Webhook", "NoCABundle", "the webhook has not filled it in"),
    ({"classes": 0}, "RuntimeClasses", "NotMadeYet", "0 of 1 are there"),
    (
        {"classes": 0, "webhook": WebhookFacts(replicas=2, available=2)},
        "RuntimeClasses",
        "NotMadeYet",
        "0 of 1 are there: they are made once the webhook is registered",
    ),
    ({"limits": ("spec.limit is 'x'",)}, "Capacity", "InvalidLimit", "spec.limit is 'x'"),
    ({"unadvertised": ("n2",)}, "Capacity", "NotAdvertised", "n2"),
    ({"failures": {"Service a": "no right"}}, "Applied", "ApplyFailed", "Service a: no right"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "reason", "words"), CASES, ids=[case[2] + str(n) for n, case in enumerate(CASES)]
)
def test_each_thing_missing_is_said_with_its_remedy(change: dict[str, Any], kind: str, reason: str, words: str) -> None:
    seen = attrs.evolve(FINE, **change)
    one = found(seen, kind)
    assert one.status is False
    assert one.reason == reason
    assert words in one.message
    ready = found(seen, "Ready")
    assert ready.status is False
    first = next(each for each in findings(CONFIG, seen) if each.status is False)
    assert ready.reason == first.reason
    assert first.message in ready.message


@pytest.mark.parametrize("verdict", [Verdict.PENDING, Verdict.UNREACHABLE])
def test_what_is_not_known_hinders_nothing(verdict: Verdict) -> None:
    seen = attrs.evolve(FINE, credentials=Credentials(verdict, "no answer"))
    assert found(seen, "Credentials").status is None
    assert found(seen, "Ready").status is True


def test_relays_of_an_older_version_are_told_of_and_are_no_fault() -> None:
    one = found(attrs.evolve(FINE, relay=SetFacts(2, 2, 1, True), adaptor=SetFacts(2, 2, 1, True)), "Relays")
    assert one.status is True
    assert "1 still as before the last change: drain the node" in one.message
    assert found(FINE, "Relays").message == "2 of 2 ready"


def test_at_most_five_nodes_are_named() -> None:
    seen = attrs.evolve(FINE, nodes=tuple(node(f"n{i}", {}) for i in range(8)))
    message = found(seen, "KataShim").message
    assert "n0, n1, n2, n3, n4 and 3 more" in message


def test_ready_names_the_other_things_too() -> None:
    seen = attrs.evolve(FINE, nodes=(), adaptor=None, relay=None)
    assert found(seen, "Ready").message.endswith("(also: Relays, Adaptors)")


def test_a_foreign_class_is_told_of_but_is_no_fault() -> None:
    one = found(attrs.evolve(FINE, foreign=("kata-remote",)), "RuntimeClasses")
    assert (one.status, one.reason) == (True, "SomebodyElses")
    assert "kubectl delete runtimeclass kata-remote" in one.message


def test_who_should_fill_the_bundle_in() -> None:
    bare = attrs.evolve(FINE, webhook=WebhookFacts(2, 1, True, False))
    manager = parse_config(stored(webhook={"certManager": {}}))
    assert "describe certificate" in found(bare, "Webhook", manager).message
    by_hand = parse_config(stored(webhook={"selfManaged": False}))
    assert "put the CA" in found(bare, "Webhook", by_hand).message
    down = attrs.evolve(FINE, webhook=WebhookFacts())
    lax = parse_config(stored(webhook={"failurePolicy": "Ignore"}))
    assert "let in unchanged" in found(down, "Webhook", lax).message


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = status_of(CONFIG, FINE, {}, 1000.0)
    again = status_of(CONFIG, FINE, first, 2000.0)
    assert again == first
    worse = status_of(CONFIG, attrs.evolve(FINE, adaptor=None), first, 3000.0)
    times = {one["type"]: one["lastTransitionTime"] for one in worse["conditions"]}
    assert times["Adaptors"] == times["Ready"] == "1970-01-01T00:50:00Z"
    assert times["Relays"] == "1970-01-01T00:16:40Z"
    assert worse["setupCompleted"] is False
    assert worse["nodes"] == {"matching": 2, "advertising": 2, "ready": 0, "relays": 2}
    assert worse["observedGeneration"] == 3


def test_the_status_of_one_that_is_not_in_force_and_of_one_that_goes() -> None:
    other = conflict_status(CONFIG, "another is", status_of(CONFIG, FINE, {}, 1.0), 5.0)
    assert [one["type"] for one in other["conditions"]] == ["Conflict", "Ready"]
    going = deleting_status(CONFIG, "WaitingPeerPods", "2 left", 2, status_of(CONFIG, FINE, {}, 1.0), 5.0)
    assert going["peerPodsLeft"] == 2
    ready = find_condition(going["conditions"], "Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", "Deleting")
    assert find_condition(going["conditions"], "KataShim")


OWN = {
    "app.kubernetes.io/name": "peerpods",
    "app.kubernetes.io/component": "adaptor",
    "app.kubernetes.io/managed-by": "peerpodconfig-ctrl",
}


def pod(labels: dict[str, str], status: dict[str, Any], namespace: str = "peerpods-system", **spec: Any) -> Any:
    return pod_facts(
        {"metadata": {"namespace": namespace, "labels": labels}, "spec": spec, "status": status}, "peerpods-system"
    )


def test_why_our_own_pod_does_not_run() -> None:
    ended = {"terminated": {"reason": "Error", "message": "adaptor: libvirt has no\n pool 'x'"}}
    crash = {
        "ready": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": ended,
    }
    facts = pod(OWN, {"containerStatuses": [crash]}, nodeName="n1")
    assert facts.trouble == "CrashLoopBackOff: adaptor: libvirt has no pool 'x'"
    assert (facts.component, facts.node) == ("adaptor", "n1")
    pull = {"ready": False, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    assert pod(OWN, {"containerStatuses": [pull]}).trouble == "ImagePullBackOff: no such image"
    new = {"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}
    assert pod(OWN, {"containerStatuses": [new]}).trouble == ""
    assert pod(OWN, {"containerStatuses": [{"ready": True, "state": {"running": {}}}]}).trouble == ""
    lost = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
    assert pod(OWN, {"conditions": lost}).trouble == "not scheduled: 0/3 nodes are available"


def test_of_other_pods_only_peer_pods_are_kept() -> None:
    assert pod({}, {}, namespace="apps") is None
    peer = pod(
        {}, {}, namespace="apps", runtimeClassName="kata-remote", imagePullSecrets=[{"name": "b"}, {"name": "a"}, {}]
    )
    assert peer.secrets == ("a", "b")
    assert pod({}, {"phase": "Succeeded"}, namespace="apps", runtimeClassName="kata-remote") is None
    assert pod(OWN, {}, namespace="apps") is None, "labels alone make no pod ours"


def test_what_is_read_from_workloads() -> None:
    sets = set_facts({"metadata": {"generation": 4}, "status": {"observedGeneration": 3, "numberReady": 2}})
    assert sets == SetFacts(0, 2, 0, False)
    hooks = {"webhooks": [{"clientConfig": {"caBundle": "eA=="}}, {"clientConfig": {}}]}
    assert webhook_facts({"spec": {"replicas": 2}, "status": {"availableReplicas": 1}}, hooks) == WebhookFacts(
        2, 1, True, False
    )
    assert webhook_facts(None, None) == WebhookFacts()
