"""Kubernetes on the reactor: requests, list and watch, work queues, leases, events. Objects stay JSON.

A name's module is loaded when the name is first used: a service that only reads `KubeSettings` pays for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peerpods.kube.client.reference import owner_reference, reference  # its own module's name

if TYPE_CHECKING:
    from peerpods.kube.client.api import Json, KubeApi, PatchKind
    from peerpods.kube.client.clock import micro_time
    from peerpods.kube.client.election import LeaderElection
    from peerpods.kube.client.errors import ApiError
    from peerpods.kube.client.informer import Informer
    from peerpods.kube.client.kube import Kube, connect
    from peerpods.kube.client.queue import WorkQueue
    from peerpods.kube.client.recorder import EventRecorder
    from peerpods.kube.client.rights import hold, keep, release
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
    "keep",
    "key_of",
    "micro_time",
    "owner_reference",
    "reference",
    "release",
]
_HOMES = {
    "Json": "api",
    "KubeApi": "api",
    "PatchKind": "api",
    "micro_time": "clock",
    "LeaderElection": "election",
    "ApiError": "errors",
    "Informer": "informer",
    "Kube": "kube",
    "connect": "kube",
    "WorkQueue": "queue",
    "EventRecorder": "recorder",
    "hold": "rights",
    "keep": "rights",
    "release": "rights",
    "KubeSettings": "settings",
    "Change": "store",
    "key_of": "store",
}
"""Name to the module that it is from: the same as the imports above."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
