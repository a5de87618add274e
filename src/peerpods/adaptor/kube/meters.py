"""What the adaptor's Kubernetes side counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from peerpods.obs.metrics import REGISTRY

PEER_POD_WRITES = Counter(
    "peerpods_peerpod_writes",
    "PeerPod objects brought up to their record: created, changed, released, failed",
    ["result"],
    registry=REGISTRY,
)
POD_EVENTS = Counter("peerpods_pod_events", "Events on pods by reason", ["reason"], registry=REGISTRY)
PULL_SECRETS = Counter("peerpods_pull_secrets", "Pull secrets read, by result", ["result"], registry=REGISTRY)
NODE_LIMIT = Gauge("peerpods_node_limit", "Sandboxes this node may have; -1 without a limit", registry=REGISTRY)
