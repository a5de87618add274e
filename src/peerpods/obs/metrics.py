"""Prometheus metrics of the node's services. Not for the VM: prometheus_client costs memory there."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)

SANDBOXES = Gauge("peerpods_sandboxes", "Sandboxes by state", ["state"], registry=REGISTRY)
PHASE_SECONDS = Histogram(
    "peerpods_phase_seconds",
    "Duration of the phases of a sandbox's start and end",
    ["phase"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 240),
    registry=REGISTRY,
)
RPCS = Counter(
    "peerpods_rpcs",
    "Calls served, by method and status code",
    ["service", "method", "code"],
    registry=REGISTRY,
)
LINK_RECONNECTS = Counter("peerpods_link_reconnects", "Links to VMs made again after a loss", registry=REGISTRY)
LINKS = Gauge("peerpods_links", "Links to VMs by state", ["state"], registry=REGISTRY)
CLOUD_CALLS = Counter(
    "peerpods_cloud_calls",
    "Calls to the cloud by result (ok or the class of error)",
    ["provider", "call", "result"],
    registry=REGISTRY,
)
JOURNAL_BYTES = Gauge("peerpods_journal_bytes", "Size of the journal on disk", registry=REGISTRY)
