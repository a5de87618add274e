"""What the PeerPod of a sandbox must say: from the record and the object as it is to patches. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from peerpods.adaptor.sandbox import LIVE, Sandbox
from peerpods.kube.objects import peerpod
from peerpods.kube.objects.conditions import condition, set_condition
from peerpods.kube.objects.names import FINALIZER
from peerpods.model import Phase

Json = dict[str, Any]


@attrs.frozen(kw_only=True)
class Changes:
    """Merge patches that are needed; empty when the object is right."""

    main: Json
    """Of metadata and spec."""
    status: Json


def name_of(s: Sandbox) -> str:
    """The object's name."""
    return peerpod.name_of(s.pod, s.id)


def body_of(s: Sandbox, *, node: str, cluster: str) -> Json:
    """The object to create."""
    return peerpod.new_peer_pod(
        sandbox=s.id,
        pod=s.pod,
        namespace=s.namespace,
        pod_uid=s.pod_uid,
        provider=s.provider,
        instance_id=s.instance.id if s.instance else "",
        node=node,
        cluster=cluster,
        token=s.token,
    )


def changes(s: Sandbox, obj: Mapping[str, Any]) -> Changes:
    """What to change of the object.

    Lists of the metadata are replaced whole, so such a patch carries the resourceVersion that was read: a conflict
    means to read again. An object that is being deleted gets no finalizer and no owner any more.
    """
    metadata = obj.get("metadata") or {}
    spec = {"token": s.token, "podUID": s.pod_uid} if s.pod_uid else {"token": s.token}
    if s.instance is not None:
        spec["instanceID"] = s.instance.id
    main: Json = {}
    wrong = _differing(spec, obj.get("spec") or {})
    if wrong:
        main["spec"] = wrong
    meta = {} if metadata.get("deletionTimestamp") or s.phase not in LIVE else _metadata(s, metadata)
    if meta:
        main["metadata"] = {**meta, "resourceVersion": metadata.get("resourceVersion", "")}
    return Changes(main=main, status=_differing(_status(s, obj), obj.get("status") or {}))


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Json:
    # What is empty and what is absent are the same.
    return {key: value for key, value in wanted.items() if (found.get(key) or None) != (value or None)}


def _metadata(s: Sandbox, metadata: Mapping[str, Any]) -> Json:
    meta: Json = {}
    owners = list(metadata.get("ownerReferences") or ())
    if s.pod_uid and all(one.get("uid") != s.pod_uid for one in owners):
        kept = [one for one in owners if not one.get("controller")]
        meta["ownerReferences"] = [*kept, peerpod.owner_of(s.pod, s.pod_uid)]
    finalizers = list(metadata.get("finalizers") or ())
    if FINALIZER not in finalizers:
        meta["finalizers"] = [*finalizers, FINALIZER]
    return meta


def _status(s: Sandbox, obj: Mapping[str, Any]) -> Json:
    phase = peerpod.phase_of(s.phase)
    error = "; ".join(part for part in (s.last_error, s.trouble) if part)
    conditions = list((obj.get("status") or {}).get("conditions") or ())
    running = s.phase is Phase.RUNNING
    ready = condition(peerpod.READY, running, str(phase), "" if running else error, s.changed_at)
    conditions = set_condition(conditions, ready)
    if s.phase is Phase.STOPPING:
        gone = condition(peerpod.DELETED, False, "Deleting", s.trouble, s.changed_at)
        conditions = set_condition(conditions, gone)
    return peerpod.status_of(
        phase=phase,
        instance_name=s.instance.name if s.instance else "",
        addresses=s.instance.addresses if s.instance else (),
        last_error=error,
        pod_uid=s.pod_uid,
        started_at=next((entry.at for entry in s.history if entry.state == Phase.RUNNING.value), 0.0),
        conditions=conditions,
        observed_generation=int((obj.get("metadata") or {}).get("generation") or 0),
    )
