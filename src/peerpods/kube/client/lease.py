"""Who leads: the decisions about a Lease. Pure: leases and the time go in, leases to write come out.

All judgement of time is by our own monotonic clock: when we saw a lease change, not what times it holds. So clocks of
machines may differ as they like. A leader stops by itself `renew` seconds after the start of its last write that
succeeded; another may take over only `duration` seconds after it saw that write, which is later.
"""

from __future__ import annotations

from typing import Any

import attrs

from peerpods.kube.client.clock import micro_time

Json = dict[str, Any]


@attrs.frozen(kw_only=True)
class Terms:
    """How long is what, seconds. `renew` < `duration`."""

    duration: float = 15.0
    """Others wait so long after a lease's last change."""
    renew: float = 10.0
    """A leader that could not renew for so long steps down."""
    retry: float = 2.0
    """Between two looks or two renewals."""


class Election:
    """One candidate's view of one Lease."""

    def __init__(self, name: str, namespace: str, identity: str, terms: Terms) -> None:
        if not 0 < terms.retry < terms.renew < terms.duration:
            raise ValueError("retry, renew and duration must grow in this order")
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._terms = terms
        self._lease: Json | None = None
        self._seen_at = 0.0
        self._renewed: float | None = None

    @property
    def holder(self) -> str:
        """Who holds the lease as far as we know; "" for nobody."""
        return str(_spec(self._lease).get("holderIdentity") or "")

    def leads(self, now: float) -> bool:
        """Whether we lead at this moment. False from the deadline on, whatever else goes on."""
        return self._renewed is not None and now < self._renewed + self._terms.renew

    @property
    def deadline(self) -> float | None:
        """When we must stop unless a write succeeds before; None when we do not lead."""
        return None if self._renewed is None else self._renewed + self._terms.renew

    def seen(self, lease: Json | None, now: float) -> None:
        """What a read gave: the Lease, or None for 404. `now`: when the answer came."""
        if lease is None or self._lease is None or _mark(lease) != _mark(self._lease):
            self._seen_at = now
        self._lease = lease
        if self._renewed is not None and self.holder != self._identity:
            self._renewed = None

    def wish(self, now: float, wall: float) -> Json | None:
        """The Lease to write now, with its resourceVersion when it must exist and without when it must not; or None.

        Args:
            wall: seconds since 1970, for the times others read.
        """
        spec = _spec(self._lease)
        holder = self.holder
        mine = holder == self._identity
        if holder and not mine and now < self._seen_at + self._patience(spec):
            return None
        transitions = int(spec.get("leaseTransitions") or 0)
        stamp = micro_time(wall)
        fresh = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._terms.duration)),
            "renewTime": stamp,
            "acquireTime": (spec.get("acquireTime") or stamp) if mine else stamp,
            "leaseTransitions": transitions if mine or self._lease is None else transitions + 1,
        }
        return self._with(fresh)

    def wrote(self, lease: Json, began: float, now: float) -> None:
        """A write of `wish` succeeded; `began`: when it was sent."""
        self._lease = lease
        self._seen_at = now
        self._renewed = began

    def unsure(self) -> None:
        """A write met a conflict: what we know is old, read before the next one."""
        self._lease = None if self._lease is None else {**self._lease, "metadata": {}}

    @property
    def known(self) -> bool:
        """Whether what we hold is good enough to write over without reading first."""
        return self._lease is not None and bool((self._lease.get("metadata") or {}).get("resourceVersion"))

    def step_down(self) -> None:
        """We lead no more."""
        self._renewed = None

    def release(self, wall: float) -> Json | None:
        """The Lease that leaves the place to whoever comes first; None when it is not ours."""
        if self.holder != self._identity or not self.known:
            return None
        spec = _spec(self._lease)
        stamp = micro_time(wall)
        return self._with({**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": stamp})

    def _patience(self, spec: Json) -> float:
        return max(self._terms.duration, float(spec.get("leaseDurationSeconds") or 0))

    def _with(self, spec: Json) -> Json:
        meta: Json = {"name": self._name, "namespace": self._namespace}
        known: Json = (self._lease or {}).get("metadata") or {}
        for key in ("resourceVersion", "uid", "labels", "annotations", "ownerReferences"):
            if known.get(key):
                meta[key] = known[key]
        return {"metadata": meta, "spec": {**_spec(self._lease), **spec}}


def _spec(lease: Json | None) -> Json:
    return (lease.get("spec") or {}) if lease is not None else {}


def _mark(lease: Json) -> tuple[Any, ...]:
    """What changes when somebody renews or takes a lease."""
    spec = _spec(lease)
    meta = lease.get("metadata") or {}
    return meta.get("uid"), spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions")
