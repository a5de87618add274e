"""Kubernetes on the reactor: requests, list and watch, work queues, leases, events. Objects stay JSON."""
