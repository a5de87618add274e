"""What peerpod-ctrl counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from peerpods.obs.metrics import REGISTRY

PEER_PODS = Gauge("peerpods_ctrl_peerpods", "PeerPods by state (live, deleting, failing)", ["state"], registry=REGISTRY)
DELETIONS = Counter(
    "peerpods_ctrl_deletions",
    "Steps of VM deletions by provider and result (ok or the class of error)",
    ["provider", "result"],
    registry=REGISTRY,
)
DELETION_SECONDS = Histogram(
    "peerpods_ctrl_deletion_seconds",
    "From a PeerPod's deletion to the end of its VM",
    buckets=(1, 5, 15, 30, 60, 120, 240, 600, 3600),
    registry=REGISTRY,
)
RELEASED = Counter(
    "peerpods_ctrl_released", "PeerPods let go, by what became of the VM (gone, left)", ["vm"], registry=REGISTRY
)
SWEPT = Counter(
    "peerpods_ctrl_swept",
    "Lost VMs by provider and what was done (reported, kept, deleted, failed)",
    ["provider", "done"],
    registry=REGISTRY,
)
LOST = Gauge("peerpods_ctrl_lost_vms", "VMs that looked lost in the last sweep", ["provider"], registry=REGISTRY)
