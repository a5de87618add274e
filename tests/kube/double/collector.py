"""What controllers do by themselves: garbage collection, the end of namespaces and of CRDs. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from peerpods.kube.objects import resources as r
from tests.kube.double.kinds import Kind, custom
from tests.kube.double.objects import Objects, Options
from tests.kube.double.store import Json, Name

US = Options(manager="kube-controller-manager")
BACKGROUND = {"propagationPolicy": "Background"}


class Collector:
    """One look at everything; each call of `collect` goes on until nothing is left to do."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._store = objects.store

    def collect(self) -> int:
        """Do all that is to be done now; gives the number of changes."""
        began = self._store.version
        before = None
        while before != self._store.version:
            before = self._store.version
            self._namespaces()
            self._crds()
            self._garbage()
        return self._store.version - began

    def _everything(self) -> Iterator[tuple[Kind, Name, Json]]:
        for key, below in list(self._store.objects.items()):
            kind = self._objects.kinds.get(key)
            for name, obj in list(below.items()):
                if kind and below.get(name) is obj:
                    yield kind, name, obj

    def _write(self, kind: Kind, old: Json, **metadata: Any) -> None:
        new = copy.deepcopy(old)
        new["metadata"].update(metadata)
        for name, value in metadata.items():
            if not value:
                del new["metadata"][name]
        self._objects.finish_update(kind, old, new, US)

    def _delete(self, kind: Kind, name: Name, obj: Json, wanted: Json = BACKGROUND) -> None:
        if "deletionTimestamp" not in obj["metadata"] or (kind.resource == r.PODS and "gracePeriodSeconds" in wanted):
            self._objects.delete(kind, name, wanted, US)

    # namespaces and CRDs

    def _namespaces(self) -> None:
        kind = self._objects.kind(r.NAMESPACES)
        for space in self._store.list(r.NAMESPACES):
            if "deletionTimestamp" not in space["metadata"] or not space["spec"].get("finalizers"):
                continue
            own = space["metadata"]["name"]
            for each, name, obj in self._everything():
                if name[0] == own and each.resource.namespaced:
                    self._delete(each, name, obj)
            left = [obj for each, name, obj in self._everything() if name[0] == own and each.resource.namespaced]
            new = copy.deepcopy(space)
            if left:
                new["status"]["conditions"] = self._remaining(left)
            else:
                new["spec"].pop("finalizers")
                new["status"].pop("conditions", None)
            self._objects.finish_update(kind, space, new, US)

    def _remaining(self, left: list[Json]) -> list[Json]:
        finalizers = sorted({each for obj in left for each in obj["metadata"].get("finalizers", ())})
        kinds = sorted({obj["kind"] for obj in left})
        found = [
            ("NamespaceContentRemaining", "SomeResourcesRemain", f"Some resources are remaining: {', '.join(kinds)}")
        ]
        if finalizers:
            words = f"Some content in the namespace has finalizers remaining: {', '.join(finalizers)}"
            found.append(("NamespaceFinalizersRemaining", "SomeFinalizersRemain", words))
        return [{"type": kind, "status": "True", "reason": why, "message": words} for kind, why, words in found]

    def _crds(self) -> None:
        kind = self._objects.kind(r.CRDS)
        for crd in self._store.list(r.CRDS):
            if "deletionTimestamp" not in crd["metadata"]:
                continue
            defined = custom(crd)
            below = self._store.objects.get(defined.key, {})
            for name, obj in list(below.items()):
                self._delete(defined, name, obj)
            if not below:
                kept = [
                    each
                    for each in crd["metadata"].get("finalizers", ())
                    if not each.startswith("customresourcecleanup")
                ]
                self._write(kind, crd, finalizers=kept)

    # garbage

    def _garbage(self) -> None:
        for kind, name, obj in self._everything():
            about = obj["metadata"]
            if about.get("ownerReferences"):
                self._judge(kind, name, obj)
            finalizers = about.get("finalizers") or []
            if "deletionTimestamp" not in about or self._store.find(kind, name) is not obj:
                continue
            if "orphan" in finalizers:
                for each, _, dependent in self._dependents(about["uid"]):
                    kept = [one for one in dependent["metadata"]["ownerReferences"] if one["uid"] != about["uid"]]
                    self._write(each, dependent, ownerReferences=kept)
                self._write(kind, obj, finalizers=[each for each in finalizers if each != "orphan"])
            elif "foregroundDeletion" in finalizers:
                self._foreground(kind, obj)

    def _dependents(self, uid: str) -> list[tuple[Kind, Name, Json]]:
        return [
            (kind, name, obj)
            for kind, name, obj in self._everything()
            if any(each["uid"] == uid for each in obj["metadata"].get("ownerReferences") or ())
        ]

    def _foreground(self, kind: Kind, obj: Json) -> None:
        uid, blocking = obj["metadata"]["uid"], False
        for each, name, dependent in self._dependents(uid):
            self._delete(each, name, dependent)
            if self._store.find(each, name) is not None:
                references = dependent["metadata"]["ownerReferences"]
                blocking |= any(one["uid"] == uid and one.get("blockOwnerDeletion") for one in references)
        if not blocking:
            kept = [each for each in obj["metadata"]["finalizers"] if each != "foregroundDeletion"]
            self._write(kind, obj, finalizers=kept)

    def _judge(self, kind: Kind, name: Name, obj: Json) -> None:
        references = obj["metadata"]["ownerReferences"]
        living = [each for each in references if self._lives(each, name[0])]
        if not living:
            self._delete(kind, name, obj)
        elif len(living) < len(references):
            self._write(kind, obj, ownerReferences=living)

    def _lives(self, reference: Json, namespace: str) -> bool:
        """Whether an owner exists, in the same namespace or cluster-wide; of unknown kinds that is assumed."""
        group, _, _ = reference["apiVersion"].rpartition("/")
        for kind in self._objects.kinds.values():
            if (kind.resource.group, kind.resource.kind) == (group, reference["kind"]):
                place = namespace if kind.resource.namespaced else ""
                found = self._store.find(kind, (place, reference["name"]))
                return found is not None and bool(found["metadata"]["uid"] == reference["uid"])
        return True
