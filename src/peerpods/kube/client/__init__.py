"""Kubernetes on the reactor: requests, list and watch, work queues, leases, events. Objects stay JSON."""

from peerpods.kube.client.api import Json, KubeApi, PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.client.kube import Kube, connect
from peerpods.kube.client.settings import KubeSettings

__all__ = [
    "ApiError",
    "Json",
    "Kube",
    "KubeApi",
    "KubeSettings",
    "PatchKind",
    "connect",
]
