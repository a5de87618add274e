"""The RuntimeClasses of peer pods. Pure."""

from __future__ import annotations

from typing import Any

from peerpods.kube.peerpodconfig.render.parts import cluster_metadata
from peerpods.kube.peerpodconfig.spec import Config


def runtime_classes(config: Config) -> list[dict[str, Any]]:
    """One a class, with what the pod costs on the worker node and where it may run."""
    made = []
    for one in config.runtime_classes:
        scheduling: dict[str, Any] = {"nodeSelector": dict(one.node_selector)}
        if one.tolerations:
            scheduling["tolerations"] = [dict(toleration) for toleration in one.tolerations]
        made.append(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": cluster_metadata(config, one.name, "runtime-class"),
                "handler": one.handler,
                "overhead": {"podFixed": dict(one.overhead)},
                "scheduling": scheduling,
            }
        )
    return made
