"""metadata: names, labels, owners, and what an update may change of them."""

from __future__ import annotations

import json
import re
from typing import Any

from peerpods.kube.objects import resources as r
from tests.kube.double.kinds import Kind
from tests.kube.double.refusal import Refusal, cause, conflict, invalid

Json = dict[str, Any]
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL = re.compile(rf"^{LABEL}$")
_SUBDOMAIN = re.compile(rf"^{LABEL}(\.{LABEL})*$")
_SERVICE = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_QUALIFIED = re.compile(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$")
_PATH = re.compile(r"^(?!\.{1,2}$)[^/%]+$")
_LABELS_ONLY = {r.NAMESPACES: (_LABEL, 63), r.SERVICES: (_SERVICE, 63)}
_PATHS = (r.ROLES, r.ROLE_BINDINGS, r.CLUSTER_ROLES, r.CLUSTER_ROLE_BINDINGS)
_RULE = "must consist of lower case alphanumeric characters, '-' or '.', and must start and end with one of the former"
ANNOTATIONS_MAX = 256 * 1024


def shape(body: Json) -> None:
    """Refuse (400) what does not even decode."""
    meta = body.setdefault("metadata", {})
    if not isinstance(meta, dict):
        raise Refusal(400, "metadata: expected an object")
    for name in ("labels", "annotations"):
        value = meta.get(name)
        if value is None:
            meta.pop(name, None)
        elif not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise Refusal(400, f"unable to decode: metadata.{name}: expected strings")
    for name in ("finalizers", "ownerReferences"):
        if not meta.get(name, True):
            del meta[name]


def _qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return bool(_QUALIFIED.match(name)) and len(name) <= 63 and (not slash or bool(_SUBDOMAIN.match(prefix)))


def faults(kind: Kind, meta: Json) -> list[dict[str, str]]:
    """What is wrong with the metadata of an object, as causes of a 422."""
    found = []
    rule, longest = _LABELS_ONLY.get(kind.resource, (_PATH if kind.resource in _PATHS else _SUBDOMAIN, 253))
    name = meta.get("name", "")
    if not rule.match(name):
        found.append(cause("metadata.name", f"Invalid value: {json.dumps(name)}: a name {_RULE}"))
    if len(name) > longest:
        found.append(
            cause("metadata.name", f"Invalid value: {json.dumps(name)}: must be no more than {longest} characters")
        )
    for key, value in (meta.get("labels") or {}).items():
        if not _qualified(key):
            found.append(cause("metadata.labels", f"Invalid value: {json.dumps(key)}: name part must consist of …"))
        if value and (len(value) > 63 or not _QUALIFIED.match(value)):
            found.append(
                cause("metadata.labels", f"Invalid value: {json.dumps(value)}: must be no more than 63 characters")
            )
    annotations = meta.get("annotations") or {}
    found += [
        cause("metadata.annotations", f"Invalid value: {json.dumps(key)}: name part must consist of …")
        for key in annotations
        if not _qualified(key.lower())
    ]
    if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_MAX:
        found.append(cause("metadata.annotations", f"Too long: must have at most {ANNOTATIONS_MAX} characters"))
    for each in meta.get("finalizers") or ():
        free = kind.custom or kind.resource == r.CRDS or each in ("orphan", "foregroundDeletion", "kubernetes")
        if not _qualified(each) or not ("/" in each or free):
            found.append(
                cause("metadata.finalizers", f"Invalid value: {json.dumps(each)}: name is not fully qualified")
            )
    return found + _owners(meta.get("ownerReferences") or [])


def _owners(references: list[Json]) -> list[dict[str, str]]:
    found = []
    for number, each in enumerate(references):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not each.get(name):
                found.append(
                    cause(f"metadata.ownerReferences[{number}].{name}", 'Invalid value: "": must not be empty')
                )
    if sum(bool(each.get("controller")) for each in references) > 1:
        found.append(
            cause("metadata.ownerReferences", "Invalid value: Only one reference can have Controller set to true")
        )
    return found


def carry(kind: Kind, old: Json, new: Json) -> None:
    """Give the new state of an object what updates cannot change, and check what they may not.

    Raises:
        Refusal: 409 for another uid or a stale resourceVersion, 422 for a finalizer added during deletion.
    """
    was, meta = old["metadata"], new["metadata"]
    group, plural = kind.key
    if meta.get("uid") and meta["uid"] != was["uid"]:
        raise conflict(
            group, plural, was["name"],
            f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}",
        )  # fmt: skip
    if meta.get("resourceVersion") not in (None, "", was["resourceVersion"]):
        raise conflict(group, plural, was["name"])
    for name in (
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "generation",
    ):
        meta.pop(name, None)
        if name in was:
            meta[name] = was[name]
    meta["resourceVersion"] = was["resourceVersion"]
    added = [each for each in meta.get("finalizers") or () if each not in (was.get("finalizers") or ())]
    if "deletionTimestamp" in was and added:
        words = ", ".join(json.dumps(each) for each in added)
        text = "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
        raise invalid(
            group, kind.resource.kind, was["name"],
            [cause("metadata.finalizers", f"{text}[]string{{{words}}}", "FieldValueForbidden")],
        )  # fmt: skip
