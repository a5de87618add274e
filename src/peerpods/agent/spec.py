"""From the OCI spec as kata carries it (protobuf) to the config.json that crun reads. Pure.

What the shim leaves out is added here: a pid namespace, the pod's shared uts and ipc namespaces (the network's path
comes with the request from the forwarder). What cannot work in this place is left out: hooks, labels of the worker's
security modules, and limits that the cgroups here do not have.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs

from peerpods.protocols import oci_pb2

OCI_VERSION = "1.0.2"
Json = dict[str, Any]


@attrs.frozen(kw_only=True)
class Place:
    """Where a container will run."""

    cgroup: str
    """Cgroup path from the root of the hierarchy; empty when crun shall not touch cgroups."""
    uts: str = ""
    """File of the pod's UTS namespace; empty makes a new one."""
    ipc: str = ""
    pid: str = ""
    """File of the pod's shared pid namespace; empty makes a new one."""
    cgroup_namespace: bool = False
    oom_floor: int = -1000
    """Lowest OOM score adjustment that may be set here."""
    controllers: frozenset[str] = frozenset({"cpu", "cpuset", "memory", "memsw", "pids", "hugetlb", "blkio"})
    """What can be limited here; `memsw` stands for swap accounting."""


def config(spec: oci_pb2.Spec, place: Place) -> Json:
    """The config.json of a container."""
    result: Json = {
        "ociVersion": OCI_VERSION,
        "process": process(spec.Process, place.oom_floor),
        "root": {"path": spec.Root.Path, "readonly": spec.Root.Readonly},
        "mounts": [mount(m) for m in spec.Mounts if place.cgroup or m.type not in ("cgroup", "cgroup2")],
        "annotations": dict(spec.Annotations),
        "linux": linux(spec.Linux, place),
    }
    if spec.Hostname and not place.uts:
        result["hostname"] = spec.Hostname
    return result


def process(wanted: oci_pb2.Process, oom_floor: int = -1000) -> Json:
    """The process of a container, or of an exec (crun's `--process`)."""
    result: Json = {
        "terminal": wanted.Terminal,
        "user": {
            "uid": wanted.User.UID,
            "gid": wanted.User.GID,
            "additionalGids": list(wanted.User.AdditionalGids),
        },
        "args": list(wanted.Args),
        "env": list(wanted.Env),
        "cwd": wanted.Cwd or "/",
        "noNewPrivileges": wanted.NoNewPrivileges,
        "rlimits": [{"type": r.Type, "hard": r.Hard, "soft": r.Soft} for r in wanted.Rlimits],
        "oomScoreAdj": max(oom_floor, min(1000, wanted.OOMScoreAdj)),
    }
    if wanted.HasField("ConsoleSize"):
        result["consoleSize"] = {"height": wanted.ConsoleSize.Height, "width": wanted.ConsoleSize.Width}
    if wanted.HasField("Capabilities"):
        result["capabilities"] = capabilities(wanted.Capabilities)
    return result


def capabilities(wanted: oci_pb2.LinuxCapabilities) -> Json:
    """The five capability sets."""
    return {
        "bounding": list(wanted.Bounding),
        "effective": list(wanted.Effective),
        "inheritable": list(wanted.Inheritable),
        "permitted": list(wanted.Permitted),
        "ambient": list(wanted.Ambient),
    }


def mount(wanted: oci_pb2.Mount) -> Json:
    """One mount. kata's type `local` (an emptyDir on disk) is a bind of a folder that a storage has made."""
    options = list(wanted.options)
    kind = wanted.type
    if kind == "local":
        kind = "bind"
    if kind == "bind" and not {"bind", "rbind"} & set(options):
        options.append("rbind")
    return {"destination": wanted.destination, "type": kind, "source": wanted.source, "options": options}


def linux(wanted: oci_pb2.Linux, place: Place) -> Json:
    """The Linux part."""
    result: Json = {
        "namespaces": namespaces(wanted.Namespaces, place),
        "sysctl": dict(wanted.Sysctl),
        "maskedPaths": list(wanted.MaskedPaths),
        "readonlyPaths": list(wanted.ReadonlyPaths),
        "devices": [device(d) for d in wanted.Devices],
    }
    if place.cgroup:
        result["cgroupsPath"] = place.cgroup
        result["resources"] = resources(wanted.Resources, place.controllers)
    if wanted.RootfsPropagation:
        result["rootfsPropagation"] = wanted.RootfsPropagation
    if wanted.UIDMappings:
        result["uidMappings"] = [mapping(m) for m in wanted.UIDMappings]
    if wanted.GIDMappings:
        result["gidMappings"] = [mapping(m) for m in wanted.GIDMappings]
    if wanted.Seccomp.DefaultAction:
        result["seccomp"] = seccomp(wanted.Seccomp)
    return result


def mapping(wanted: oci_pb2.LinuxIDMapping) -> Json:
    """One line of a user namespace's map."""
    return {"hostID": wanted.HostID, "containerID": wanted.ContainerID, "size": wanted.Size}


def namespaces(wanted: Collection[oci_pb2.LinuxNamespace], place: Place) -> list[Json]:
    """The namespaces: as asked, with the pod's shared ones filled in and a pid namespace always."""
    shared = {"uts": place.uts, "ipc": place.ipc}
    paths: dict[str, str] = {"mount": "", "pid": place.pid, "ipc": place.ipc, "uts": place.uts}
    for entry in wanted:
        if entry.Type == "pid" or entry.Type == "time":
            continue
        paths[entry.Type] = entry.Path or shared.get(entry.Type, "")
    if place.cgroup_namespace:
        paths.setdefault("cgroup", "")
    return [{"type": kind, "path": path} if path else {"type": kind} for kind, path in paths.items()]


def device(wanted: oci_pb2.LinuxDevice) -> Json:
    """A device node."""
    result: Json = {"path": wanted.Path, "type": wanted.Type, "uid": wanted.UID, "gid": wanted.GID}
    if wanted.Type != "p":
        result |= {"major": wanted.Major, "minor": wanted.Minor}
    if wanted.FileMode:
        result["fileMode"] = wanted.FileMode & 0o7777
    return result


def resources(wanted: oci_pb2.LinuxResources, controllers: Collection[str]) -> Json:
    """Limits, as far as there are controllers for them. 0 and "" mean: not asked.

    Device rules are left to crun's defaults: the shim sends "deny all" on update and nothing on create.
    """
    result: Json = {}
    if "memory" in controllers:
        memory = {"limit": wanted.Memory.Limit, "reservation": wanted.Memory.Reservation}
        if "memsw" in controllers:
            memory["swap"] = wanted.Memory.Swap
        result["memory"] = {key: value for key, value in memory.items() if value}
        if wanted.Memory.DisableOOMKiller:
            result["memory"]["disableOOMKiller"] = True
    cpu: Json = {}
    if "cpu" in controllers:
        cpu |= {"shares": wanted.CPU.Shares, "quota": wanted.CPU.Quota, "period": wanted.CPU.Period}
    if "cpuset" in controllers:
        cpu |= {"cpus": wanted.CPU.Cpus, "mems": wanted.CPU.Mems}
    result["cpu"] = {key: value for key, value in cpu.items() if value}
    if "pids" in controllers and wanted.Pids.Limit:
        result["pids"] = {"limit": wanted.Pids.Limit}
    if "hugetlb" in controllers and wanted.HugepageLimits:
        result["hugepageLimits"] = [{"pageSize": h.Pagesize, "limit": h.Limit} for h in wanted.HugepageLimits]
    if "blkio" in controllers and wanted.BlockIO.Weight:
        result["blockIO"] = {"weight": wanted.BlockIO.Weight}
    return {key: value for key, value in result.items() if value}


def seccomp(wanted: oci_pb2.LinuxSeccomp) -> Json:
    """The system call filter."""
    return {
        "defaultAction": wanted.DefaultAction,
        "architectures": list(wanted.Architectures),
        "flags": list(wanted.Flags),
        "syscalls": [_syscall(call) for call in wanted.Syscalls],
    }


def _syscall(wanted: oci_pb2.LinuxSyscall) -> Json:
    result: Json = {"names": list(wanted.Names), "action": wanted.Action}
    if wanted.HasField("errnoret"):
        result["errnoRet"] = wanted.errnoret
    if wanted.Args:
        result["args"] = [{"index": a.Index, "value": a.Value, "valueTwo": a.ValueTwo, "op": a.Op} for a in wanted.Args]
    return result


TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
DEFAULT_TERMINATION_PATH = "/dev/termination-log"


def termination_log(spec: oci_pb2.Spec) -> str:
    """File in the VM that holds a container's termination message; "" when the container has none mounted."""
    destination = spec.Annotations.get(TERMINATION_PATH, DEFAULT_TERMINATION_PATH)
    return next((m.source for m in spec.Mounts if m.destination == destination), "")
