"""CreateVM as the shims send it: pure parsing of ids, annotations and sizes.

| annotation | what it becomes |
|---|---|
| io.kubernetes.cri.sandbox-name, -namespace | pod; CRI-O's `k8s_<pod>_<namespace>_<uid>_<n>` is understood |
| io.katacontainers.config.hypervisor.default_vcpus, default_memory, default_gpus | counts; "", "0", fractions |
| ….machine_type, image, default_gpu_model | passed to the cloud as they are |
| ….cc_init_data | plain TOML for the VM |

Source: containerd's and CRI-O's sandbox annotations, kata's remote hypervisor (virtcontainers/remote.go).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs

from peerpods.errors import Refused
from peerpods.model import InstanceSpec, Pod, SandboxId, agent_socket_path, parse_sandbox_id, parse_size

NAME = "io.kubernetes.cri.sandbox-name"
NAMESPACE = "io.kubernetes.cri.sandbox-namespace"
_KATA = "io.katacontainers.config.hypervisor."
MACHINE_TYPE = _KATA + "machine_type"
IMAGE = _KATA + "image"
VCPUS = _KATA + "default_vcpus"
MEMORY = _KATA + "default_memory"
GPUS = _KATA + "default_gpus"
GPU_MODEL = _KATA + "default_gpu_model"
INITDATA = _KATA + "cc_init_data"
NETNS_MAX = 4096


@attrs.frozen(kw_only=True)
class Create:
    """A CreateVM request, understood."""

    id: SandboxId
    pod: Pod
    spec: InstanceSpec
    netns: str
    initdata: str = attrs.field(repr=False)
    agent_socket: str
    digest: str
    """SHA-256 over id, annotations and namespace path: equal for equal requests."""


def pod_name(text: str) -> str:
    """The pod's name; of CRI-O's `k8s_<pod>_<namespace>_<uid>_<attempt>` the second part."""
    parts = text.split("_")
    if len(parts) >= 3 and parts[0] == "k8s" and parts[1]:
        return parts[1]
    return text


def pod_uid(text: str) -> str:
    """The pod's UID of CRI-O's `k8s_<pod>_<namespace>_<uid>_<attempt>`; empty from containerd."""
    parts = text.split("_")
    return parts[3] if len(parts) == 5 and parts[0] == "k8s" else ""


def digest_of(sandbox: str, annotations: Mapping[str, str], netns: str) -> str:
    """A digest in which every part has its length, so that no two requests share one."""
    total = hashlib.sha256()
    for part in (sandbox, netns, *(part for pair in sorted(annotations.items()) for part in pair)):
        encoded = part.encode()
        total.update(len(encoded).to_bytes(8, "big") + encoded)
    return total.hexdigest()


def parse_create(sandbox: str, annotations: Mapping[str, str], netns: str, pods_dir: str) -> Create:
    """Check a CreateVM request.

    Raises:
        Refused: naming the id, key or path that is missing or wrong.
    """
    identity = parse_sandbox_id(sandbox)
    socket = agent_socket_path(pods_dir, identity)
    for key in (NAME, NAMESPACE):
        if not annotations.get(key):
            raise Refused(
                f"CreateVM of sandbox {identity} lacks the annotation {key}",
                sandbox=identity,
                remedy="the container runtime sets it; see its sandbox annotations",
            )
    if not netns:
        raise Refused(
            f"CreateVM of sandbox {identity} has no network namespace path",
            sandbox=identity,
            remedy="let the runtime send it: disable_new_netns and internetworking_model in kata's configuration",
        )
    if not netns.startswith("/") or "\0" in netns or len(netns) > NETNS_MAX:
        raise Refused(f"{netns[:80]!r} is not an absolute path of a network namespace", sandbox=identity)
    spec = InstanceSpec(
        vcpus=parse_size(annotations.get(VCPUS, "")),
        memory_mib=parse_size(annotations.get(MEMORY, "")),
        gpus=parse_size(annotations.get(GPUS, "")),
        gpu_model=annotations.get(GPU_MODEL, ""),
        machine_type=annotations.get(MACHINE_TYPE, ""),
        image=annotations.get(IMAGE, ""),
    )
    name = annotations[NAME]
    pod = Pod(name=pod_name(name), namespace=annotations[NAMESPACE], uid=pod_uid(name))
    return Create(
        id=identity,
        pod=pod,
        spec=spec,
        netns=netns,
        initdata=annotations.get(INITDATA, ""),
        agent_socket=socket,
        digest=digest_of(sandbox, annotations, netns),
    )


MARGIN = 10.0
"""Seconds before the caller's deadline at which a start gives up, so that its answer still arrives."""


def start_budget(remaining: float | None, start_timeout: float) -> float:
    """Seconds that a start may take: the caller's time less MARGIN, or the setting where that is less.

    A caller with less than twice MARGIN keeps half of its time.
    """
    if remaining is None:
        return start_timeout
    return min(start_timeout, max(remaining - MARGIN, remaining / 2))
