"""What each resource name means for a pod that runs in a VM of its own.

| name | what happens | why |
|---|---|---|
| cpu, memory | become the VM's size | the node pays only for the class's overhead |
| whole GPUs | become the VM's number of GPUs | a GPU of the cloud, not of the node |
| MIG slices, shared GPUs | as one GPU each, with a warning | a VM is given whole GPUs |
| other gpu.intel.com/* | removed, with a warning | shares of a GPU of the node |
| hugepages-* | removed, with a warning | the API server takes them only beside cpu or memory, which the VM has |
| ephemeral-storage | removed, with a warning | the files are on the VM's disk, not on the node's |
| another class's VM slot | removed, with a warning | this pod takes a slot of its own class |
| any other extended resource | stays, with a warning | a counter works; a device of the node is not in the VM |
| anything else | stays | for the API server to judge |
"""

from __future__ import annotations

import enum
import re


class Kind(enum.Enum):
    """The rows of the table above."""

    CPU = "cpu"
    MEMORY = "memory"
    GPU = "gpu"
    SLICE = "slice"
    SHARE = "share"
    HUGE_PAGES = "hugepages"
    DISK = "disk"
    SLOT = "slot"
    OTHER_SLOT = "other-slot"
    EXTENDED = "extended"
    UNKNOWN = "unknown"


_GPU = re.compile(r"nvidia\.com/p?gpu|amd\.com/gpu|gpu\.intel\.com/(i915|xe)")
_SLICE = re.compile(r"nvidia\.com/(mig-.+|p?gpu\.shared|vgpu)")
_FIXED = {"cpu": Kind.CPU, "memory": Kind.MEMORY, "ephemeral-storage": Kind.DISK}
TAKEN = frozenset(
    {Kind.CPU, Kind.MEMORY, Kind.GPU, Kind.SLICE, Kind.SHARE, Kind.HUGE_PAGES, Kind.DISK, Kind.OTHER_SLOT}
)
"""What is taken off a container and remembered."""
WHOLE = frozenset({Kind.GPU, Kind.SLICE, Kind.SHARE, Kind.OTHER_SLOT})
"""Extended resources: whole numbers only."""


def kind_of(name: str, slot: str, slots: frozenset[str]) -> Kind:
    """Which row a resource name belongs to.

    Args:
        slot: the VM resource of the pod's own class.
        slots: those of all classes.
    """
    if (fixed := _FIXED.get(name)) is not None:
        return fixed
    if name == slot:
        return Kind.SLOT
    if name in slots:
        return Kind.OTHER_SLOT
    if name.startswith("hugepages-"):
        return Kind.HUGE_PAGES
    if _GPU.fullmatch(name):
        return Kind.GPU
    if _SLICE.fullmatch(name):
        return Kind.SLICE
    if name.startswith("gpu.intel.com/") and not name.endswith("_monitoring"):
        return Kind.SHARE
    return Kind.EXTENDED if "/" in name else Kind.UNKNOWN
