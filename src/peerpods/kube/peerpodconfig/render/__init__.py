"""From a PeerPodConfig and facts about the cluster to the objects that set it up. Pure."""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    MUTATING_WEBHOOKS,
    NETWORK_POLICIES,
    RUNTIME_CLASSES,
    SERVICES,
    Resource,
)
from peerpods.kube.peerpodconfig.render.adaptor import adaptor
from peerpods.kube.peerpodconfig.render.certificates import CERTIFICATES, ISSUERS, certificates
from peerpods.kube.peerpodconfig.render.parts import Facts
from peerpods.kube.peerpodconfig.render.relay import relay
from peerpods.kube.peerpodconfig.render.runtimeclass import runtime_classes
from peerpods.kube.peerpodconfig.render.webhook import (
    deployment,
    disruption_budget,
    network_policy,
    registration,
    service,
)
from peerpods.kube.peerpodconfig.spec import Config

__all__ = ["Facts", "render", "resource_of"]

_BY_KIND = {
    one.kind: one
    for one in (
        DAEMON_SETS,
        DEPLOYMENTS,
        SERVICES,
        NETWORK_POLICIES,
        MUTATING_WEBHOOKS,
        RUNTIME_CLASSES,
        ISSUERS,
        CERTIFICATES,
    )
}


def render(config: Config, facts: Facts) -> list[dict[str, Any]]:
    """All objects, in the order in which they are applied.

    The relay before the adaptor, which needs it; the registration after what serves it; RuntimeClasses last, so that
    no pod of ours is let in before the webhook sees it.
    """
    found: list[dict[str, Any] | None] = [
        relay(config, facts),
        adaptor(config, facts),
        service(config),
        *certificates(config),
        network_policy(config),
        disruption_budget(config, facts),
        deployment(config, facts),
        registration(config, facts),
        *runtime_classes(config),
    ]
    return [one for one in found if one is not None]


def resource_of(obj: dict[str, Any], facts: Facts) -> Resource:
    """Where an object of `render` is kept."""
    if obj["kind"] == "PodDisruptionBudget":
        assert facts.pdbs is not None
        return facts.pdbs
    return _BY_KIND[obj["kind"]]
