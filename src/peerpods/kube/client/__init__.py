"""Kubernetes on the reactor: requests, list and watch, work queues, leases, events. Objects stay JSON."""

from peerpods.kube.client.api import Json, KubeApi, PatchKind
from peerpods.kube.client.clock import micro_time
from peerpods.kube.client.election import LeaderElection
from peerpods.kube.client.errors import ApiError
from peerpods.kube.client.informer import Informer
from peerpods.kube.client.kube import Kube, connect
from peerpods.kube.client.queue import WorkQueue
from peerpods.kube.client.recorder import EventRecorder
from peerpods.kube.client.reference import owner_reference, reference
from peerpods.kube.client.rights import hold, release
from peerpods.kube.client.settings import KubeSettings
from peerpods.kube.client.store import Change, key_of

__all__ = [
    "ApiError",
    "Change",
    "EventRecorder",
    "Informer",
    "Json",
    "Kube",
    "KubeApi",
    "KubeSettings",
    "LeaderElection",
    "PatchKind",
    "WorkQueue",
    "connect",
    "hold",
    "key_of",
    "micro_time",
    "owner_reference",
    "reference",
    "release",
]
