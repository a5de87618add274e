"""What the Kubernetes side counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from peerpods.obs.metrics import REGISTRY

REQUESTS = Counter(
    "peerpods_kube_requests",
    "Requests to the API server by verb, resource and HTTP code (0: no answer)",
    ["verb", "resource", "code"],
    registry=REGISTRY,
)
RELISTS = Counter("peerpods_kube_relists", "Full lists made by informers", ["resource", "reason"], registry=REGISTRY)
WATCH_CONTACT = Gauge(
    "peerpods_kube_watch_contact_timestamp_seconds",
    "When an informer last heard from the API server (seconds since 1970)",
    ["resource"],
    registry=REGISTRY,
)
INFORMER_OBJECTS = Gauge("peerpods_kube_informer_objects", "Objects an informer holds", ["resource"], registry=REGISTRY)
LEADER = Gauge("peerpods_kube_leader", "1 while this process leads", ["lease"], registry=REGISTRY)
QUEUE_DEPTH = Gauge("peerpods_kube_queue_depth", "Keys that wait for a worker", ["queue"], registry=REGISTRY)
QUEUE_RETRIES = Counter("peerpods_kube_queue_retries", "Keys put back after a failure", ["queue"], registry=REGISTRY)
EVENTS_SENT = Counter(
    "peerpods_kube_events", "Kubernetes events by result (sent, merged, dropped)", ["result"], registry=REGISTRY
)
