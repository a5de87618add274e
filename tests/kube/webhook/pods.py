"""Short ways to write pods."""

import copy
import json

from peerpods.kube.objects.names import ORIGINAL_RESOURCES_ANNOTATION
from peerpods.kube.webhook.keys import GPUS, MEMORY, VCPUS
from peerpods.kube.webhook.mutate import mutate
from peerpods.kube.webhook.policy import Policy
from tests.kube.webhook.applier import apply

SLOT = "kata.peerpods.io/vm"
POLICY = Policy(classes={"kata-remote": SLOT, "kata-remote-gpu": "kata.peerpods.io/gpu-vm"})


def amounts(cpu=None, memory=None, **more):
    """A map of resources; GPUs and others as `**{"nvidia.com/gpu": "1"}`."""
    found = {"cpu": cpu, "memory": memory, **more}
    return {name: value for name, value in found.items() if value is not None}


def container(name, requests=None, limits=None, **fields):
    resources = {}
    if requests is not None:
        resources["requests"] = requests
    if limits is not None:
        resources["limits"] = limits
    return {"name": name, "image": "busybox", "resources": resources, **fields}


def pod(*containers, init=(), cls="kata-remote", annotations=None, **spec):
    """A pod as the API server sends it."""
    metadata = {"name": "p", "creationTimestamp": None}
    if annotations is not None:
        metadata["annotations"] = annotations
    body = {"runtimeClassName": cls, "containers": list(containers), **spec}
    if init:
        body["initContainers"] = list(init)
    return {"metadata": metadata, "spec": body, "status": {}}


def admit(body, policy=POLICY):
    """The pod after the webhook, and the mutation; the given pod must come out of it unchanged."""
    before = copy.deepcopy(body)
    mutation = mutate(body, policy)
    assert body == before
    json.dumps(mutation.patch)
    for item in mutation.notices:
        assert len(item.text.encode()) <= 256, item.text
        assert item.text.isprintable(), item.text
    return apply(body, mutation.patch), mutation


def sizes(body):
    """(vcpus, memory, gpus) as the annotations say; None for one that is not there."""
    annotations = body["metadata"].get("annotations") or {}
    return tuple(annotations.get(key) for key in (VCPUS, MEMORY, GPUS))


def memory_of(body):
    return json.loads(body["metadata"]["annotations"][ORIGINAL_RESOURCES_ANNOTATION])


def kinds(mutation):
    return [item.kind for item in mutation.notices]
