"""How many peer pods a node takes: which limit counts, and the patch that makes the node say so. Pure.

A node advertises the number as an extended resource in `status.capacity`; kubelet copies it to `allocatable` at its
next sync. kubelet itself sets it to 0 when it starts anew without a device plugin's checkpoint, so the number is
compared with every change of the node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from peerpods.kube.objects.names import EXTENDED_RESOURCE, LIMIT_ANNOTATION

DEFAULT_LIMIT = 10
LIMIT_MAX = 100_000
OWN_PREFIX = EXTENDED_RESOURCE.partition("/")[0] + "/"
"""Resources of this domain are ours whatever configuration made them."""


def parse_limit(text: str) -> int:
    """A limit as users write it: a whole number from 0.

    Raises:
        ValueError: for anything else; extended resources have no fractions.
    """
    if not re.fullmatch(r"[0-9]{1,6}", text.strip()) or int(text) > LIMIT_MAX:
        raise ValueError(text)
    return int(text)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node has every label of a selector. An empty selector matches every node."""
    return all(labels.get(key) == value for key, value in selector.items())


@attrs.frozen
class LimitRule:
    """Nodes with these labels take that many."""

    selector: Mapping[str, str]
    limit: str


@attrs.frozen
class Limit:
    """The limit of one node."""

    value: int
    mistake: str = ""
    """Words about a limit that is no number and so does not count; "" when all is well."""


def limit_of(
    labels: Mapping[str, str], annotations: Mapping[str, str], rules: Iterable[LimitRule], limit: str
) -> Limit:
    """The limit of a matching node: its annotation, the first rule that matches it, `spec.limit`, 10.

    A value that is no whole number is passed over, and told of.
    """
    candidates = [(f"the node's annotation {LIMIT_ANNOTATION}", annotations.get(LIMIT_ANNOTATION, ""))]
    for index, rule in enumerate(rules):
        if matches(rule.selector, labels):
            candidates.append((f"spec.nodeLimits[{index}].limit", rule.limit))
            break
    candidates.append(("spec.limit", limit))
    mistake = ""
    for where, text in candidates:
        if not text:
            continue
        try:
            return Limit(parse_limit(text), mistake)
        except ValueError:
            mistake = mistake or f"{where} is {text[:40]!r}, not a whole number from 0 to {LIMIT_MAX}"
    return Limit(DEFAULT_LIMIT, mistake)


def limit_mistakes(rules: Iterable[LimitRule], limit: str) -> list[str]:
    """Words about each limit of a configuration that is no number, whether or not a node uses it."""
    named = [(f"spec.nodeLimits[{index}].limit", rule.limit) for index, rule in enumerate(rules)]
    wrong = []
    for where, text in [("spec.limit", limit), *named]:
        try:
            parse_limit(text or "0")
        except ValueError:
            wrong.append(f"{where} is {text[:40]!r}, not a whole number from 0 to {LIMIT_MAX}")
    return wrong


def capacity_patch(
    capacity: Mapping[str, str], wanted: Mapping[str, int], removable: Iterable[str] = ()
) -> dict[str, Any] | None:
    """The merge patch for `nodes/status`, or None when the node says what it should.

    A merge patch and no JSON patch: it works when the node has no capacity map yet (a JSON patch is refused then),
    and removing what is not there is no error.

    Args:
        capacity: the node's `status.capacity` now.
        wanted: resource name to number.
        removable: names that are ours and must not stand where they are not wanted; those of our own domain always
            count.
    """
    ours = set(removable) | {name for name in capacity if name.startswith(OWN_PREFIX)}
    changes: dict[str, str | None] = {
        name: str(number) for name, number in wanted.items() if capacity.get(name) != str(number)
    }
    changes.update({name: None for name in sorted(ours) if name in capacity and name not in wanted})
    return {"status": {"capacity": changes}} if changes else None
