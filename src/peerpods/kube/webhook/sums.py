"""What a pod asks for in all, by Kubernetes' own rule.

Init containers run one after another, so the largest counts and not their sum; those with restartPolicy Always
(native sidecars) run on, so they add to the containers and to each init container that starts after them. Source:
component-helpers resource/helpers.go, PodRequests and PodLimits.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import attrs

ZERO = Fraction(0)


@attrs.frozen
class Amount:
    """What one container asks for of one resource."""

    request: Fraction = ZERO
    limit: Fraction = ZERO

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.request + other.request, self.limit + other.limit)

    def max(self, other: Amount) -> Amount:
        """The larger of each."""
        return Amount(max(self.request, other.request), max(self.limit, other.limit))

    @property
    def size(self) -> Fraction:
        """What the VM must have: the limit where it is the larger (or all there is), else the request."""
        return max(self.request, self.limit)


NOTHING = Amount()


def total(init: Iterable[tuple[bool, Amount]], app: Iterable[Amount]) -> Amount:
    """The pod's amount of one resource.

    Args:
        init: init containers in order: whether it is a native sidecar, and its amount.
        app: the containers.
    """
    running, peak = NOTHING, NOTHING
    for sidecar, amount in init:
        if sidecar:
            running += amount
            peak = peak.max(running)
        else:
            peak = peak.max(running + amount)
    for amount in app:
        running += amount
    return peak.max(running)


def with_pod_level(sum_of_containers: Amount, request: Fraction | None, limit: Fraction | None) -> Amount:
    """Apply the pod's own `spec.resources`: its limit is the limit; its request holds all containers' requests."""
    return Amount(
        sum_of_containers.request if request is None else max(request, sum_of_containers.request),
        sum_of_containers.limit if limit is None else limit,
    )
