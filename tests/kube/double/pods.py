"""Pods: defaults, what the built-in admission plugins add, and validation, as far as peer pods meet them."""

from __future__ import annotations

import copy
from typing import Any

from peerpods.kube.objects import resources as r
from tests.kube.double.refusal import cause, forbidden
from tests.kube.double.store import Store

Json = dict[str, Any]
TAKEN_AWAY = [
    {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for why in ("not-ready", "unreachable")
]
_NATIVE = ("cpu", "memory", "ephemeral-storage")


def containers(pod: Json) -> list[Json]:
    """All containers of all sorts."""
    spec = pod.get("spec") or {}
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def fill(pod: Json) -> None:
    """Defaults, in place: the ones that the scheme fills when it decodes a pod."""
    spec = pod.setdefault("spec", {})
    for name, value in {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "enableServiceLinks": True,
    }.items():
        spec.setdefault(name, copy.copy(value))
    for each in containers(pod):
        each.setdefault("imagePullPolicy", "IfNotPresent" if ":" in each.get("image", "") else "Always")
        each.setdefault("terminationMessagePath", "/dev/termination-log")
        each.setdefault("terminationMessagePolicy", "File")
        resources = each.setdefault("resources", {})
        for name, value in (resources.get("limits") or {}).items():
            if resources.get("requests") is None:
                resources["requests"] = {}
            resources["requests"].setdefault(name, value)


def plugins(store: Store, pod: Json, namespace: str) -> None:
    """ServiceAccount, RuntimeClass, Priority and DefaultTolerationSeconds, in place.

    Raises:
        Refusal: 403 for an unknown runtime class or priority class, or an overhead or node selector that differs.
    """
    spec = pod["spec"]
    spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = spec["serviceAccountName"]
    account = store.get(r.SERVICE_ACCOUNTS, spec["serviceAccountName"], namespace)
    if account and account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = copy.deepcopy(account["imagePullSecrets"])
    name = pod["metadata"].get("name", "")
    if spec.get("runtimeClassName"):
        _runtime_class(store, spec, name)
    spec.setdefault("priority", 0)
    if spec.get("priorityClassName"):
        found = store.get(r.PRIORITY_CLASSES, spec["priorityClassName"])
        if found is None and not spec["priorityClassName"].startswith("system-"):
            raise forbidden("", "pods", name, f"no PriorityClass with name {spec['priorityClassName']} was found")
        spec["priority"] = found["value"] if found else 2_000_000_000
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.setdefault("tolerations", [])
    for each in TAKEN_AWAY:
        if not any(other.get("key") in (None, each["key"]) for other in tolerations):
            tolerations.append(dict(each))


def _runtime_class(store: Store, spec: Json, name: str) -> None:
    wanted = spec["runtimeClassName"]
    found = store.get(r.RUNTIME_CLASSES, wanted)
    if found is None:
        raise forbidden("", "pods", name, f'pod rejected: RuntimeClass "{wanted}" not found')
    overhead = (found.get("overhead") or {}).get("podFixed")
    if spec.get("overhead") not in (None, {}, overhead):
        raise forbidden("", "pods", name, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    if overhead:
        spec["overhead"] = dict(overhead)
    scheduling = found.get("scheduling") or {}
    selector = spec.get("nodeSelector") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if selector.get(key, value) != value:
            raise forbidden("", "pods", name, f"pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}]")
        selector = spec["nodeSelector"] = {**selector, key: value}
    for each in scheduling.get("tolerations") or ():
        if each not in (spec.get("tolerations") or ()):
            spec["tolerations"] = [*(spec.get("tolerations") or ()), dict(each)]


def faults(pod: Json, old: Json | None) -> list[dict[str, str]]:
    """Causes of a 422."""
    found = []
    spec = pod["spec"]
    if not spec.get("containers"):
        found.append(cause("spec.containers", "Required value", "FieldValueRequired"))
    for sort in ("initContainers", "containers"):
        for number, each in enumerate(spec.get(sort) or ()):
            where = f"spec.{sort}[{number}]"
            found += [
                cause(f"{where}.{n}", "Required value", "FieldValueRequired")
                for n in ("name", "image")
                if not each.get(n)
            ]
            found += _resources(each.get("resources") or {}, f"{where}.resources")
    if old is not None and _fixed(old["spec"]) != _fixed(spec):
        text = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, …"
        found.append(cause("spec", text, "FieldValueForbidden"))
    return found


def _resources(resources: Json, where: str) -> list[dict[str, str]]:
    found = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in requests.items():
        if name in _NATIVE or "/" not in name:
            continue
        if name not in limits:
            text = "Required value: Limit must be set for non overcommitable resources"
            found.append(cause(f"{where}.limits", text, "FieldValueRequired"))
        elif str(limits[name]) != str(value):
            found.append(cause(f"{where}.requests", f'Invalid value: "{value}": must be equal to {name} limit'))
    return found


def _fixed(spec: Json) -> Json:
    kept = {k: v for k, v in spec.items() if k not in ("activeDeadlineSeconds", "tolerations")}
    for sort in ("initContainers", "containers"):
        if sort in kept:
            kept[sort] = [{k: v for k, v in each.items() if k != "image"} for each in kept[sort]]
    return kept


def grace(pod: Json, wanted: int | None) -> int:
    """For how many seconds a deleted pod waits for its kubelet; 0: it goes at once."""
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    return int(pod["spec"].get("terminationGracePeriodSeconds", 30)) if wanted is None else wanted
