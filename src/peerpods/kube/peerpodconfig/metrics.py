"""Metrics of the controller."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from peerpods.obs.metrics import REGISTRY

APPLIES = Counter(
    "peerpods_config_applies",
    "Objects written because they differed, by kind and result (ok or the API server's reason)",
    ["kind", "result"],
    registry=REGISTRY,
)
CAPACITY_PATCHES = Counter(
    "peerpods_config_capacity_patches", "Nodes whose advertised capacity was put right", ["result"], registry=REGISTRY
)
CONDITIONS = Gauge(
    "peerpods_config_condition",
    "Conditions of the PeerPodConfig in force: 1 true, 0 false, -1 unknown",
    ["type"],
    registry=REGISTRY,
)
NODES = Gauge("peerpods_config_nodes", "Nodes by what they are", ["what"], registry=REGISTRY)
GRANTED_NAMESPACES = Gauge(
    "peerpods_config_granted_namespaces", "Namespaces with a Role for pull secrets", registry=REGISTRY
)
LEADER = Gauge("peerpods_config_leader", "Whether this process acts", registry=REGISTRY)
