"""Observability: structured logs, metrics, health."""
