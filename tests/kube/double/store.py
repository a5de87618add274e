"""What is stored, with one global version, and what happened to it. Pure: no clock, no sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from peerpods.kube.objects.resources import Resource
from tests.kube.double.kinds import Key, Kind

Json = dict[str, Any]
Name = tuple[str, str]
"""(namespace or "", name)"""
KEPT = 10_000
"""Changes that are remembered; older versions are expired."""


@attrs.frozen
class Change:
    """One step from one version to the next."""

    version: int
    type: str
    kind: Key
    name: Name
    old: Json | None
    new: Json
    """For a deletion: the last state, with the version of the deletion."""


class Store:
    """Objects by kind and name. Stored objects are never changed in place: each change puts a new one.

    Attributes:
        version: the last global resourceVersion.
        floor: versions below are forgotten (compacted).
        listeners: called with each Change.
    """

    def __init__(self) -> None:
        self.version = 1000
        self.floor = 0
        self.objects: dict[Key, dict[Name, Json]] = {}
        self.changes: deque[Change] = deque()
        self.listeners: list[Callable[[Change], None]] = []

    def find(self, kind: Kind, name: Name) -> Json | None:
        """The object or None; not to be changed by the caller."""
        return self.objects.get(kind.key, {}).get(name)

    def put(self, kind: Kind, obj: Json) -> Json:
        """Store an object under the next version (written into it) and tell the listeners."""
        self.version += 1
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.version)
        name = meta.get("namespace", ""), meta["name"]
        below = self.objects.setdefault(kind.key, {})
        old = below.get(name)
        below[name] = obj
        self._note(Change(self.version, "MODIFIED" if old else "ADDED", kind.key, name, old, obj))
        return obj

    def drop(self, kind: Kind, name: Name) -> Json:
        """Remove an object; its last state carries the version of the removal."""
        old = self.objects[kind.key].pop(name)
        self.version += 1
        last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
        self._note(Change(self.version, "DELETED", kind.key, name, old, last))
        return last

    def _note(self, change: Change) -> None:
        self.changes.append(change)
        while len(self.changes) > KEPT:
            self.floor = self.changes.popleft().version
        for listener in list(self.listeners):
            listener(change)

    def expire(self) -> None:
        """Forget all history: whoever resumes at an old version, even the last one, must list anew."""
        self.version += 1
        self.floor = self.version
        self.changes.clear()

    def since(self, version: int) -> list[Change] | None:
        """What happened after that version; None when it is forgotten."""
        if version < self.floor:
            return None
        return [change for change in self.changes if change.version > version]

    def at(self, key: Key, version: int) -> dict[Name, Json] | None:
        """The objects of a kind as they were; None when forgotten."""
        if version < self.floor:
            return None
        then = dict(self.objects.get(key, {}))
        for change in reversed(self.changes):
            if change.version <= version:
                break
            if change.kind == key:
                if change.old is None:
                    then.pop(change.name, None)
                else:
                    then[change.name] = change.old
        return then

    # direct looks, for tests

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """One object or None."""
        return self.objects.get((resource.group, resource.plural), {}).get((namespace, name))

    def list(self, resource: Resource, namespace: str | None = None) -> list[Json]:
        """All objects of a kind, in the order of their names."""
        found = self.objects.get((resource.group, resource.plural), {})
        return [obj for (place, _), obj in sorted(found.items()) if namespace in (None, place)]
