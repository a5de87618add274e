"""The mutation: a peer pod's containers give their cpu, memory and GPUs to the VM, and the pod takes one VM slot.

| part of the pod | what happens |
|---|---|
| spec.containers[], spec.initContainers[] | resources as in the table of `kinds` |
| one of spec.containers | the class's extended resource, request and limit 1 |
| spec.resources (pod level) | where set, they are the pod's sum; cpu, memory and huge pages are taken off |
| annotation ….default_vcpus | cpus, rounded up |
| annotation ….default_memory | MiB, rounded up |
| annotation ….default_gpus | GPUs |
| annotation ….original-resources | what was taken off (`memory`) |

The size is the larger of the pod's requests and limits, each by Kubernetes' own rule (`sums`). A pod that asks for cpu
alone gets the default memory, and the other way round, since a provider needs both to choose a machine. A pod that
asks for neither has no annotation: the provider's default machine. A user's own annotations are never changed.
`spec.overhead` is not in the size: it is what the shim and its helpers cost the node, and is paid there.
"""

from __future__ import annotations

from typing import Any

import attrs

from peerpods.kube.objects.names import ORIGINAL_RESOURCES_ANNOTATION
from peerpods.kube.objects.quantity import MIB, round_up
from peerpods.kube.webhook.container import Taken, number, seat, take, unseat
from peerpods.kube.webhook.keys import GPUS, MEMORY, MIRROR, VCPUS
from peerpods.kube.webhook.kinds import Kind
from peerpods.kube.webhook.memory import Memory, Sections, load
from peerpods.kube.webhook.notice import Notice, notice
from peerpods.kube.webhook.patch import Operation, change
from peerpods.kube.webhook.policy import Policy
from peerpods.kube.webhook.sums import Amount, total, with_pod_level
from peerpods.kube.webhook.validate import validate


@attrs.frozen(kw_only=True)
class Mutation:
    """What to answer for a pod."""

    patch: list[Operation] = attrs.Factory(list)
    """Operations for the pod as it was given; empty: nothing to change."""
    notices: tuple[Notice, ...] = ()
    denied: str = ""
    """Why the pod is refused; empty: it is admitted."""
    ours: bool = False
    """Whether it is a peer pod at all."""


def mutate(pod: dict[str, Any], policy: Policy) -> Mutation:
    """Decide about one pod, given as raw JSON. Never changes `pod`; calling again on the result changes nothing more.

    Whatever has another type than the API allows is left alone: the API server refuses it afterwards, in its words.
    """
    spec = _map(pod.get("spec"))
    slot = policy.classes.get(name) if isinstance(name := spec.get("runtimeClassName"), str) else None
    if slot is None:
        return Mutation()
    annotations = _map(_map(pod.get("metadata")).get("annotations"))
    if MIRROR in annotations:
        text = "a static pod runs as its file on the node says, nothing is changed here; do not use static peer pods"
        return Mutation(notices=(notice("static-pod", text),), ours=True)
    notices = validate(spec, annotations, policy)
    hopeless = [item.text.removeprefix("peer pod: ") for item in notices if item.hopeless]
    if policy.deny and hopeless:
        return Mutation(notices=tuple(notices), denied="; ".join(hopeless), ours=True)
    patch, more = _Work(pod, spec, annotations, slot, policy).run()
    return Mutation(patch=patch, notices=(*notices, *more), ours=True)


class _Work:
    """One mutation under way."""

    def __init__(
        self, pod: dict[str, Any], spec: dict[str, Any], annotations: dict[str, Any], slot: str, policy: Policy
    ) -> None:
        self.pod, self.spec, self.annotations = pod, spec, annotations
        self.slot, self.slots, self.policy = slot, policy.slots, policy
        self.before, readable = load(annotations)
        self.notices: list[Notice] = []
        if not readable:
            text = f"the annotation {ORIGINAL_RESOURCES_ANNOTATION} cannot be read and is written anew"
            self.notices.append(notice("annotation", text))
        self.memory = Memory()

    def run(self) -> tuple[list[Operation], list[Notice]]:
        init = self._containers("initContainers", "init container")
        app = self._containers("containers", "container")
        if not app:
            return [], [*self.notices, notice("no-containers", "it has no containers")]
        for _, _, item in init:
            if item.has_slot:
                unseat(item, self.slot)
                text = f"{item.where}: {self.slot} is removed: a container of the pod takes the slot"
                self.notices.append(notice("slot", text))
        self.notices += seat([item for _, _, item in app], self.slot)
        patch: list[Operation] = []
        for key, group in (("initContainers", init), ("containers", app)):
            for index, raw, item in group:
                if item.left or raw.get("resources"):
                    patch += change(raw, "resources", item.left, "spec", key, index)
        level = self._pod_level(patch)
        for item in (*(item for _, _, item in (*init, *app)), *([level] if level else [])):
            self.notices += item.notices
        self._annotate(init, app, level, patch)
        return patch, self.notices

    def _containers(self, key: str, word: str) -> list[tuple[int, dict[str, Any], Taken]]:
        found = []
        for index, raw in enumerate(self.spec[key] if isinstance(self.spec.get(key), list) else []):
            if not isinstance(raw, dict):
                continue
            name = raw.get("name")
            where = f"{word} {name if isinstance(name, str) else index}"
            before = self.before.containers.get(name) if isinstance(name, str) else None
            item = take(where, raw.get("resources"), before, self.slot, self.slots)
            if isinstance(name, str) and any(item.original.values()):
                self.memory.containers[name] = item.original
            found.append((index, raw, item))
        return found

    def _pod_level(self, patch: list[Operation]) -> Taken | None:
        before: Sections = self.before.pod
        if "resources" not in self.spec and not any(before.values()):
            return None
        item = take("the pod", self.spec.get("resources"), before, self.slot, self.slots)
        self.memory.pod = item.original
        if item.left:
            patch += change(self.spec, "resources", item.left, "spec")
        elif self.spec.get("resources"):
            patch.append({"op": "remove", "path": "/spec/resources"})
        return item

    def _annotate(
        self,
        init: list[tuple[int, dict[str, Any], Taken]],
        app: list[tuple[int, dict[str, Any], Taken]],
        level: Taken | None,
        patch: list[Operation],
    ) -> None:
        amounts = {kind: _amount(kind, init, app, level) for kind in (Kind.CPU, Kind.MEMORY, Kind.GPU)}
        names = set().union(*(item.gpu_names for _, _, item in (*init, *app)))
        if len({name.partition("/")[0] for name in names}) > 1:
            self.notices.append(notice("gpu", f"it asks for {', '.join(sorted(names))}: a VM has one kind of GPU"))
        wanted = self._sizes(amounts)
        new: dict[str, str] = {}
        for key, value in wanted.items():
            current = self.annotations.get(key)
            if current is None or self.before.set.get(key) == current:
                new[key] = value
                self.memory.set[key] = value
            elif current != value:
                short = key.rpartition(".")[2]
                text = f"{short} is {current} by its annotation, which is kept; its containers ask for {value}"
                self.notices.append(notice("annotation", text))
        for key, value in self.before.set.items():
            if key not in wanted and self.annotations.get(key) == value:
                self.memory.set[key] = value
        text = self.memory.dump()
        if ORIGINAL_RESOURCES_ANNOTATION in self.annotations or text != Memory().dump():
            new[ORIGINAL_RESOURCES_ANNOTATION] = text
        patch += _put_annotations(self.pod, new)

    def _sizes(self, amounts: dict[Kind, Amount]) -> dict[str, str]:
        vcpus = round_up(amounts[Kind.CPU].size)
        memory = round_up(amounts[Kind.MEMORY].size, MIB)
        gpus = round_up(amounts[Kind.GPU].size)
        if memory and not vcpus:
            vcpus = self.policy.default_vcpus
        elif vcpus and not memory:
            memory = self.policy.default_memory_mib
        sizes = {VCPUS: vcpus, MEMORY: memory, GPUS: gpus}
        return {key: str(size) for key, size in sizes.items() if size}


def _amount(
    kind: Kind,
    init: list[tuple[int, dict[str, Any], Taken]],
    app: list[tuple[int, dict[str, Any], Taken]],
    level: Taken | None,
) -> Amount:
    amount = total(
        ((raw.get("restartPolicy") == "Always", item.amount(kind)) for _, raw, item in init),
        (item.amount(kind) for _, _, item in app),
    )
    if level is None or kind is Kind.GPU:
        return amount
    original = level.original
    return with_pod_level(
        amount,
        number(original["requests"].get(kind.value), kind),
        number(original["limits"].get(kind.value), kind),
    )


def _put_annotations(pod: dict[str, Any], new: dict[str, str]) -> list[Operation]:
    if not new:
        return []
    metadata = pod.get("metadata")
    if not isinstance(metadata, dict):
        return change(pod, "metadata", {"annotations": new})
    annotations = metadata.get("annotations")
    if not isinstance(annotations, dict):
        return change(metadata, "annotations", new, "metadata")
    patch: list[Operation] = []
    for key, value in new.items():
        patch += change(annotations, key, value, "metadata", "annotations")
    return patch


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
