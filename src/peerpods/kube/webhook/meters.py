"""What is counted."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from peerpods.obs.metrics import REGISTRY

REVIEWS = Counter(
    "peerpods_webhook_reviews",
    "Admission reviews by result: mutated, unchanged, ignored, denied, refused (no review), failed (our fault), probe",
    ["result"],
    registry=REGISTRY,
)
SECONDS = Histogram(
    "peerpods_webhook_review_seconds",
    "Time to answer a review, from its last byte on",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
    registry=REGISTRY,
)
WARNINGS = Counter("peerpods_webhook_warnings", "Admission warnings by kind", ["kind"], registry=REGISTRY)
CERTIFICATE_EXPIRY = Gauge(
    "peerpods_webhook_certificate_expiry_timestamp_seconds",
    "When the certificate in use ends, seconds since 1970",
    registry=REGISTRY,
)
CERTIFICATE_LOADS = Counter(
    "peerpods_webhook_certificate_loads",
    "Certificates found anew, by result (ok, broken)",
    ["result"],
    registry=REGISTRY,
)
