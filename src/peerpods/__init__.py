"""Peer pods: each Kubernetes pod of a runtime class in a virtual machine of its own."""
