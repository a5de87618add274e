"""From what is seen to the conditions of a PeerPodConfig: what is missing, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.kube.objects import names
from peerpods.kube.objects.conditions import condition, set_condition
from peerpods.kube.peerpodconfig.credentials import Credentials, Verdict
from peerpods.kube.peerpodconfig.facts import NodeFacts, SetFacts, WebhookFacts
from peerpods.kube.peerpodconfig.spec import Config

NAMED = 5  # nodes that a message names
READY = "Ready"
CONFLICT = "Conflict"


@attrs.frozen(kw_only=True)
class Seen:
    """All that conditions are made from."""

    nodes: tuple[NodeFacts, ...] = ()
    """Those that the selector matches."""
    all_nodes: int = 0
    limits: tuple[str, ...] = ()
    """Words about limits that are no numbers."""
    unadvertised: tuple[str, ...] = ()
    """Matching nodes that do not advertise what they should."""
    credentials: Credentials
    failures: Mapping[str, str] = attrs.field(factory=dict)
    """Object to the API server's words, where it refused one."""
    relay: SetFacts | None = None
    adaptor: SetFacts | None = None
    webhook: WebhookFacts = attrs.field(factory=WebhookFacts)
    troubles: Mapping[str, str] = attrs.field(factory=dict)
    """Component to the words of one of its pods that does not run."""
    foreign: tuple[str, ...] = ()
    """RuntimeClasses of ours by name that somebody else made."""
    classes: int = 0
    """RuntimeClasses that are there."""


@attrs.frozen
class Finding:
    """One condition before it has a time. `status` None: unknown, which hinders nothing."""

    kind: str
    status: bool | None
    reason: str
    message: str


def findings(config: Config, seen: Seen) -> list[Finding]:
    """All conditions, the summary Ready last. The first that is False is the one Ready speaks of."""
    parts = [
        _applied(seen),
        _nodes(config, seen),
        _kata(seen),
        _credentials(seen),
        _daemons("Relays", "relay", seen.relay, seen, "peerpods-relay", config),
        _daemons("Adaptors", "adaptor", seen.adaptor, seen, "peerpods-adaptor", config),
        _webhook(config, seen),
        _classes(config, seen),
        _capacity(seen),
    ]
    return [*parts, _ready(parts)]


def _ready(parts: list[Finding]) -> Finding:
    wrong = [one for one in parts if one.status is False]
    if not wrong:
        return Finding(READY, True, "SetUp", "peer pods can run")
    first = wrong[0]
    rest = f" (also: {', '.join(one.kind for one in wrong[1:])})" if wrong[1:] else ""
    return Finding(READY, False, first.reason, f"{first.message}{rest}")


def _applied(seen: Seen) -> Finding:
    if not seen.failures:
        return Finding("Applied", True, "Applied", "all objects are as they should be")
    words = "; ".join(f"{name}: {said}" for name, said in sorted(seen.failures.items()))
    return Finding("Applied", False, "ApplyFailed", words)


def _nodes(config: Config, seen: Seen) -> Finding:
    if seen.nodes:
        return Finding("NodesMatch", True, "NodesMatch", f"{len(seen.nodes)} of {seen.all_nodes} nodes match")
    label = ",".join(f"{key}={value}" for key, value in sorted(config.node_selector.items()))
    words = " ".join(f"{key}={value}" for key, value in sorted(config.node_selector.items()))
    return Finding(
        "NodesMatch",
        False,
        "NoNodeMatches",
        f"none of {seen.all_nodes} nodes has {label}; label those that shall run peer pods: "
        f"kubectl label node NODE {words}",
    )


def _kata(seen: Seen) -> Finding:
    without = sorted(one.name for one in seen.nodes if not one.has_kata)
    if not without:
        known = "" if seen.nodes else " (there are none)"
        return Finding("KataShim", True, "Installed", f"kata is installed on all matching nodes{known}")
    few = f"{len(without)} of {len(seen.nodes)} matching nodes have no kata shim: {_some(without)}"
    return Finding(
        "KataShim",
        False,
        "ShimMissing",
        f"{few}; install it with kata-deploy, shim remote (it sets {names.KATA_NODE_LABEL}=true when it is done)",
    )


def _some(listed: list[str]) -> str:
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def _credentials(seen: Seen) -> Finding:
    verdict = seen.credentials.verdict
    status = {
        Verdict.FINE: True,
        Verdict.ON_NODES: True,
        Verdict.PENDING: None,
        Verdict.UNREACHABLE: None,
    }.get(verdict, False)
    return Finding("Credentials", status, verdict.value, seen.credentials.words)


def _daemons(kind: str, what: str, facts: SetFacts | None, seen: Seen, name: str, config: Config) -> Finding:
    if facts is None or not facts.observed:
        return Finding(kind, False, f"{kind}NotSeen", f"the DaemonSet {name} has no status yet")
    if facts.ready >= facts.desired and facts.desired >= len(seen.nodes):
        return Finding(kind, True, "Ready", f"{facts.ready} of {facts.desired} ready{_outdated(what, facts, config)}")
    trouble = seen.troubles.get(what, "")
    said = f"; one says: {trouble}" if trouble else ""
    look = f"; look at: kubectl -n {config.namespace} logs daemonset/{name}"
    wanted = max(facts.desired, len(seen.nodes))
    return Finding(kind, False, f"{kind}NotReady", f"{facts.ready} of {wanted} ready{said}{look}")


def _outdated(what: str, facts: SetFacts, config: Config) -> str:
    """A relay is only replaced by hand, because its end is the end of its node's pods."""
    behind = facts.desired - facts.updated
    if what != "relay" or behind <= 0:
        return ""
    return (
        f"; {behind} still as before the last change: drain the node, then kubectl -n {config.namespace} delete pod of "
        "its relay"
    )


def _webhook(config: Config, seen: Seen) -> Finding:
    facts = seen.webhook
    trouble = seen.troubles.get("webhook", "")
    said = f"; one says: {trouble}" if trouble else ""
    look = f"kubectl -n {config.namespace} logs deployment/{names.WEBHOOK}"
    if not facts.available:
        effect = (
            f"no replica is available, so pods of our runtime classes are refused{said}; look at: {look}"
            if config.webhook.failure_policy == "Fail"
            else f"no replica is available, so pods are let in unchanged{said}; look at: {look}"
        )
        return Finding("Webhook", False, "WebhookNotAvailable", effect)
    if not facts.registered:
        return Finding("Webhook", False, "NotRegistered", "the registration is not made yet")
    if not facts.trusted:
        how = (
            "cert-manager has not filled it in: kubectl -n {0} describe certificate {1}"
            if config.webhook.cert_manager is not None
            else "the webhook has not filled it in; look at: " + look
        ).format(config.namespace, names.WEBHOOK)
        if config.webhook.cert_manager is None and not config.webhook.self_managed:
            how = f"put the CA of Secret {names.WEBHOOK_CERT_SECRET} into it"
        return Finding("Webhook", False, "NoCABundle", f"the registration has no caBundle: {how}")
    return Finding("Webhook", True, "Available", f"{facts.available} of {facts.replicas} replicas available")


def _classes(config: Config, seen: Seen) -> Finding:
    wanted = len(config.runtime_classes)
    if seen.classes < wanted:
        waits = "" if seen.webhook.registered else ": they are made once the webhook is registered"
        return Finding("RuntimeClasses", False, "NotMadeYet", f"{seen.classes} of {wanted} are there{waits}")
    if seen.foreign:
        return Finding(
            "RuntimeClasses",
            True,
            "SomebodyElses",
            f"{', '.join(seen.foreign)} was made by somebody else and is left as it is; to have it managed here: "
            f"kubectl delete runtimeclass {' '.join(seen.foreign)}",
        )
    return Finding("RuntimeClasses", True, "Made", f"{wanted} made")


def _capacity(seen: Seen) -> Finding:
    if seen.limits:
        return Finding("Capacity", False, "InvalidLimit", "; ".join(seen.limits))
    if seen.unadvertised:
        which = _some(sorted(seen.unadvertised))
        few = f"{len(seen.unadvertised)} of {len(seen.nodes)} nodes do not advertise their limit yet: {which}"
        return Finding("Capacity", False, "NotAdvertised", few)
    return Finding("Capacity", True, "Advertised", f"all {len(seen.nodes)} matching nodes advertise their limit")


def status_of(config: Config, seen: Seen, before: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The status of a configuration in force."""
    found = findings(config, seen)
    return _status(
        config,
        found,
        before,
        now,
        setupCompleted=found[-1].status is True,
        nodes={
            "matching": len(seen.nodes),
            "advertising": len(seen.nodes) - len(seen.unadvertised),
            "ready": seen.adaptor.ready if seen.adaptor else 0,
            "relays": seen.relay.ready if seen.relay else 0,
        },
    )


def conflict_status(config: Config, words: str, before: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The status of one that is not in force."""
    found = [Finding(CONFLICT, True, CONFLICT, words), Finding(READY, False, CONFLICT, words)]
    return _status(config, found, before, now, setupCompleted=False)


def deleting_status(
    config: Config, reason: str, words: str, left: int, before: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """The status of one that is being deleted; other conditions stay as they were."""
    found = [Finding("Deleting", True, reason, words), Finding(READY, False, "Deleting", words)]
    made = _status(config, found, before, now, setupCompleted=False, peerPodsLeft=left)
    kept = [dict(one) for one in before.get("conditions") or () if one.get("type") not in ("Deleting", READY)]
    return {**made, "conditions": [*kept, *made["conditions"]]}


def _status(config: Config, found: list[Finding], before: Mapping[str, Any], now: float, **more: Any) -> dict[str, Any]:
    old = list(before.get("conditions") or ())
    made = []
    for one in found:
        new = condition(one.kind, one.status, one.reason, one.message, now, generation=config.generation)
        # set_condition keeps the transition time of an old one whose status is the same.
        (kept,) = set_condition([c for c in old if c.get("type") == one.kind], new)
        made.append(kept)
    return {"observedGeneration": config.generation, **more, "conditions": made}
