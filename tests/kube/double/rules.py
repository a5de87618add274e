"""Rules of single kinds: defaults when an object is decoded, its first status, and what is refused."""

from __future__ import annotations

import base64
import re
from typing import Any

from peerpods.kube.objects import resources as r
from tests.kube.double import pods, schema
from tests.kube.double.kinds import Kind
from tests.kube.double.refusal import Refusal, cause

Json = dict[str, Any]
SECRET_MAX = 1024 * 1024
_MICRO = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?$")
_WHOLE = {None, "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
_NATIVE = ("cpu", "memory", "ephemeral-storage", "pods", "storage")
_CHOICES = {
    "failurePolicy": ("Ignore", "Fail"),
    "matchPolicy": ("Exact", "Equivalent"),
    "reinvocationPolicy": ("Never", "IfNeeded"),
}


def fill(kind: Kind, obj: Json) -> None:
    """Decode: prune and fill in, in place.

    Raises:
        Refusal: 400 for what cannot be decoded.
    """
    resource = kind.resource
    obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
    if kind.schema is not None:
        schema.prune(obj, kind.schema, root=True)
        schema.fill(obj, kind.schema)
    elif resource == r.PODS:
        pods.fill(obj)
    elif resource == r.SECRETS:
        obj.setdefault("type", "Opaque")
        for name, value in (obj.pop("stringData", None) or {}).items():
            obj.setdefault("data", {})[name] = base64.b64encode(value.encode()).decode()
    elif resource == r.LEASES:
        for name in ("acquireTime", "renewTime"):
            _micro(obj.get("spec") or {}, name)
    elif resource == r.EVENTS:
        _micro(obj, "eventTime")
        _micro(obj.get("series") or {}, "lastObservedTime")
    elif resource == r.NODES:
        obj.setdefault("spec", {})
    elif resource == r.MUTATING_WEBHOOKS:
        for each in obj.get("webhooks") or ():
            _webhook(each)


def _micro(place: Json, name: str) -> None:
    value = place.get(name)
    if value is not None and not _MICRO.match(value):
        raise Refusal(400, f'parsing time "{value}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "{value}"')


def _webhook(hook: Json) -> None:
    for name, value in {
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "Never",
        "timeoutSeconds": 10,
        "namespaceSelector": {},
        "objectSelector": {},
    }.items():
        hook.setdefault(name, value)
    for rule in hook.get("rules") or ():
        rule.setdefault("scope", "*")


def begin(kind: Kind, obj: Json) -> None:
    """The status of a new object, in place."""
    resource = kind.resource
    if resource == r.NAMESPACES:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    elif resource == r.PODS:
        obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource == r.CRDS:
        now = obj["metadata"]["creationTimestamp"]
        names, spec = obj["spec"]["names"], obj["spec"]
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", f"{names['kind']}List")
        obj["status"] = {
            "conditions": [
                {"type": word, "status": "True", "lastTransitionTime": now, "reason": why, "message": ""}
                for word, why in (("NamesAccepted", "NoConflicts"), ("Established", "InitialNamesAccepted"))
            ],
            "acceptedNames": names,
            "storedVersions": [each["name"] for each in spec["versions"] if each.get("storage")],
        }
        obj["metadata"]["finalizers"] = ["customresourcecleanup.apiextensions.k8s.io"]
    elif kind.status and resource != r.NODES:
        obj.pop("status", None)


def faults(kind: Kind, obj: Json, old: Json | None) -> list[dict[str, str]]:
    """Causes of a 422."""
    resource = kind.resource
    if kind.schema is not None:
        return list(schema.faults(obj, kind.schema))
    if resource == r.PODS:
        return pods.faults(obj, old)
    if resource in (r.SECRETS, r.CONFIG_MAPS):
        return _data(kind, obj, old)
    if resource == r.LEASES:
        return _lease(obj)
    if resource == r.NODES:
        return _node(obj)
    if resource == r.MUTATING_WEBHOOKS:
        return _webhooks(obj)
    if resource == r.EVENTS:
        return _event(obj, old)
    if resource == r.ROLE_BINDINGS and old and old.get("roleRef") != obj.get("roleRef"):
        return [cause("roleRef", "Invalid value: cannot change roleRef")]
    if (
        resource in (r.DAEMON_SETS, r.DEPLOYMENTS)
        and old
        and old["spec"].get("selector") != obj["spec"].get("selector")
    ):
        return [cause("spec.selector", "Invalid value: field is immutable")]
    return []


def _data(kind: Kind, obj: Json, old: Json | None) -> list[dict[str, str]]:
    found = []
    size = sum(len(value) for value in (obj.get("data") or {}).values())
    if kind.resource == r.SECRETS:
        size = size * 3 // 4
        if old and old.get("type") != obj.get("type"):
            found.append(cause("type", "Invalid value: field is immutable"))
    if size > SECRET_MAX:
        found.append(cause("data", f"Too long: must have at most {SECRET_MAX} characters", "FieldValueTooLong"))
    if old and old.get("immutable") and (old.get("data") != obj.get("data") or not obj.get("immutable")):
        found.append(cause("data", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden"))
    return found


def _lease(obj: Json) -> list[dict[str, str]]:
    spec = obj.get("spec") or {}
    found = []
    if spec.get("leaseDurationSeconds", 1) is not None and spec.get("leaseDurationSeconds", 1) <= 0:
        found.append(
            cause("spec.leaseDurationSeconds", f"Invalid value: {spec['leaseDurationSeconds']}: must be greater than 0")
        )
    if (spec.get("leaseTransitions") or 0) < 0:
        found.append(cause("spec.leaseTransitions", "Invalid value: must be greater than or equal to 0"))
    return found


def _node(obj: Json) -> list[dict[str, str]]:
    found = []
    for sort in ("capacity", "allocatable"):
        for name, value in ((obj.get("status") or {}).get(sort) or {}).items():
            match = _QUANTITY.match(str(value))
            if match is None:
                raise Refusal(422, f"quantities must match the regular expression '{_QUANTITY.pattern}'")
            whole = match[2] in _WHOLE and float(match[1]).is_integer() and float(match[1]) >= 0
            if name not in _NATIVE and "/" in name and not whole:
                found.append(cause(f"status.{sort}.{name}", f'Invalid value: "{value}": must be an integer'))
    return found


def _webhooks(obj: Json) -> list[dict[str, str]]:
    found = []
    for number, each in enumerate(obj.get("webhooks") or ()):
        where = f"webhooks[{number}]"
        if each.get("sideEffects") not in ("None", "NoneOnDryRun"):
            text = f'Unsupported value: "{each.get("sideEffects")}": supported values: "None", "NoneOnDryRun"'
            found.append(cause(f"{where}.sideEffects", text, "FieldValueNotSupported"))
        if not each.get("admissionReviewVersions"):
            found.append(cause(f"{where}.admissionReviewVersions", "Required value", "FieldValueRequired"))
        client = each.get("clientConfig") or {}
        if ("url" in client) == ("service" in client):
            text = "Required value: exactly one of url or service is required"
            found.append(cause(f"{where}.clientConfig", text, "FieldValueRequired"))
        elif not client.get("url", "https://").startswith("https://"):
            text = f"Invalid value: \"{client['url']}\": 'https' is the only allowed URL scheme"
            found.append(cause(f"{where}.clientConfig.url", text))
        if not 1 <= each.get("timeoutSeconds", 10) <= 30:
            text = f"Invalid value: {each['timeoutSeconds']}: the timeout value must be between 1 and 30 seconds"
            found.append(cause(f"{where}.timeoutSeconds", text))
        for name, words in _CHOICES.items():
            if each.get(name, words[0]) not in words:
                listed = ", ".join(f'"{word}"' for word in words)
                text = f'Unsupported value: "{each[name]}": supported values: {listed}'
                found.append(cause(f"{where}.{name}", text, "FieldValueNotSupported"))
        if each["name"].count(".") < 2:
            found.append(cause(f"{where}.name", "Invalid value: should be a domain with at least three segments"))
    return found


def _event(obj: Json, old: Json | None) -> list[dict[str, str]]:
    found = []
    place = (obj.get("regarding") or {}).get("namespace") or "default"
    if obj["metadata"].get("namespace") != place:
        found.append(cause("involvedObject.namespace", "Invalid value: does not match event.namespace"))
    if old is None and not obj.get("eventTime"):
        found.append(cause("eventTime", "Required value", "FieldValueRequired"))
    for name, longest in (("reportingController", 253), ("reportingInstance", 128), ("action", 128), ("reason", 128)):
        if not obj.get(name):
            found.append(cause(name, "Required value", "FieldValueRequired"))
        elif len(obj[name]) > longest:
            found.append(cause(name, f"Invalid value: can have at most {longest} characters"))
    if len(obj.get("note") or "") > 1024:
        found.append(cause("note", "Invalid value: can have at most 1024 characters"))
    if obj.get("type") not in ("Normal", "Warning"):
        found.append(cause("type", 'Invalid value: "": has invalid value: '))
    return found
