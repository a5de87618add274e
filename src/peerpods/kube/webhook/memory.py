"""The pod's own memory of what was taken off it, in an annotation: a second call adds up instead of starting anew.

    {"containers": {"app": {"requests": {"cpu": "3"}}}, "pod": {...}, "set": {"io.kata…default_vcpus": "3"}}

`set` tells our annotations from the user's: what still has the value we gave it is ours to change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.kube.objects.names import ORIGINAL_RESOURCES_ANNOTATION

SECTIONS = ("requests", "limits")
Sections = dict[str, dict[str, Any]]
"""`requests` and `limits`: resource name to quantity as it stood in the pod. Both keys are always there."""


def sections_of(resources: Any) -> Sections:
    """The two maps of a `resources` object; whatever is not such a map counts as empty."""
    found = resources if isinstance(resources, dict) else {}
    return {key: dict(value) if isinstance(value := found.get(key), dict) else {} for key in SECTIONS}


@attrs.define
class Memory:
    """What the annotation says."""

    containers: dict[str, Sections] = attrs.Factory(dict)
    pod: Sections = attrs.Factory(lambda: sections_of(None))
    set: dict[str, str] = attrs.Factory(dict)

    def dump(self) -> str:
        """Text for the annotation: equal memories give equal texts."""

        def lean(sections: Sections) -> dict[str, Any]:
            return {key: value for key, value in sections.items() if value}

        document: dict[str, Any] = {"containers": {name: lean(value) for name, value in self.containers.items()}}
        if pod := lean(self.pod):
            document["pod"] = pod
        if self.set:
            document["set"] = self.set
        return json.dumps(document, sort_keys=True, separators=(",", ":"))


def load(annotations: Mapping[str, Any]) -> tuple[Memory, bool]:
    """The pod's memory, and whether the annotation could be read; a pod without one has an empty memory."""
    text = annotations.get(ORIGINAL_RESOURCES_ANNOTATION)
    if text is None:
        return Memory(), True
    try:
        document = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return Memory(), False
    if not isinstance(document, dict) or not isinstance(containers := document.get("containers", {}), dict):
        return Memory(), False
    written = document.get("set")
    return (
        Memory(
            containers={name: sections_of(value) for name, value in containers.items()},
            pod=sections_of(document.get("pod")),
            set={str(k): v for k, v in written.items() if isinstance(v, str)} if isinstance(written, dict) else {},
        ),
        True,
    )
