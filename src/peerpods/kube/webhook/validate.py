"""What will not work in a peer pod, in words. Never changes a pod and never refuses one."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from peerpods.errors import Refused
from peerpods.kube.webhook.keys import GPUS, INITDATA, MACHINE_TYPE, MEMORY, VCPUS
from peerpods.kube.webhook.notice import Notice, notice
from peerpods.kube.webhook.policy import Policy
from peerpods.kube.webhook.volumes import check_volumes
from peerpods.model import parse_size
from peerpods.userdata.initdata import decode_initdata, read_initdata

_READ_UP_TO = 65536
"""Initdata is read as TOML up to this many bytes: longer texts would hold up other reviews."""


def validate(spec: dict[str, Any], annotations: dict[str, Any], policy: Policy) -> list[Notice]:
    """All warnings about a peer pod, most grave first.

    Args:
        spec: the pod's, raw.
        annotations: the pod's, raw.
    """
    found = [
        *_host(spec),
        *_machine_type(annotations.get(MACHINE_TYPE), policy),
        *_initdata(annotations.get(INITDATA), policy),
        *_counts(annotations),
        *check_volumes(spec),
        *_containers(spec),
    ]
    return sorted(found, key=lambda item: not item.hopeless)


def _host(spec: dict[str, Any]) -> Iterator[Notice]:
    if spec.get("hostNetwork") is True:
        text = "hostNetwork: the VM has no interface of the node, only the pod's own network; take hostNetwork out"
        yield notice("host-network", text, hopeless=True)
    for field, what in (("hostPID", "processes"), ("hostIPC", "shared memory")):
        if spec.get(field) is True:
            text = f"{field}: the node's {what} cannot be seen from the VM; take {field} out"
            yield notice("host-namespace", text, hopeless=True)
    system = spec.get("os")
    if isinstance(system, dict) and system.get("name") == "windows":
        yield notice("os", "os windows: the VM runs Linux", hopeless=True)


def _machine_type(wanted: Any, policy: Policy) -> Iterator[Notice]:
    if not isinstance(wanted, str) or not wanted or not policy.machine_types:
        return
    if not any(fnmatchcase(wanted, pattern) for pattern in policy.machine_types):
        known = ", ".join(policy.machine_types)
        yield notice("machine-type", f"machine_type {wanted[:64]} is not known here; known: {known}", hopeless=True)


def _initdata(encoded: Any, policy: Policy) -> Iterator[Notice]:
    if not isinstance(encoded, str) or not encoded:
        return
    try:
        text = decode_initdata(encoded)
        size = len(text.encode())
        if size > policy.max_user_data:
            message = f"its initdata has {size} bytes, the provider takes {policy.max_user_data}; shorten cc_init_data"
            yield notice("user-data", message, hopeless=True)
        elif size <= _READ_UP_TO:
            read_initdata(text)
    except Refused as error:
        yield notice("user-data", f"annotation cc_init_data: {error.message}", hopeless=True)


def _counts(annotations: dict[str, Any]) -> Iterator[Notice]:
    for key in (VCPUS, MEMORY, GPUS):
        value = annotations.get(key)
        if isinstance(value, str) and value not in ("", "0") and not parse_size(value):
            yield notice("annotation", f"annotation {key.rpartition('.')[2]}: {value[:40]!r} is not a number")


def _containers(spec: dict[str, Any]) -> Iterator[Notice]:
    privileged, ports, blocks, spread = [], [], [], []
    for key in ("initContainers", "containers"):
        for raw in spec[key] if isinstance(spec.get(key), list) else []:
            if not isinstance(raw, dict):
                continue
            name = str(raw.get("name", "?"))
            context = raw.get("securityContext")
            if isinstance(context, dict) and context.get("privileged") is True:
                privileged.append(name)
            if any(port.get("hostPort") for port in _maps(raw.get("ports"))):
                ports.append(name)
            if _maps(raw.get("volumeDevices")):
                blocks.append(name)
            if any(mount.get("mountPropagation") == "Bidirectional" for mount in _maps(raw.get("volumeMounts"))):
                spread.append(name)
    table = (
        ("privileged", privileged, "privileged: it gets the devices of the VM, not those of the node"),
        ("host-port", ports, "hostPort: works only if the CNI plugin forwards it to the pod's address"),
        ("volume-block", blocks, "volumeDevices: a block device of the node is not in the VM"),
        ("propagation", spread, "mountPropagation Bidirectional: its mounts stay in the VM"),
    )
    for kind, names, text in table:
        if names:
            which = ", ".join(names) if len(", ".join(names)) <= 100 else f"{len(names)} containers"
            yield notice(kind, f"{which}: {text}")


def _maps(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
