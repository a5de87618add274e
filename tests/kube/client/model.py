"""What a collection on the server goes through, for tests of the reflector."""

from __future__ import annotations

import json
from typing import Any

from peerpods.kube.client.errors import ApiError


class Collection:
    """Objects with a history. resourceVersions are unordered looking text."""

    def __init__(self) -> None:
        self.revision = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.compacted = 0
        self.births = 0
        self.tokens: dict[str, tuple[int, list[dict[str, Any]]]] = {}

    @staticmethod
    def version(revision: int) -> str:
        return f"v{(revision * 7919) % 99991}"

    def revision_of(self, version: str) -> int:
        return next(number for number in range(self.revision, -1, -1) if self.version(number) == version)

    def write(self, name: str, what: str) -> None:
        """what: "put" creates or updates, "delete" deletes, "replace" deletes and creates."""
        if what in ("delete", "replace") and name in self.objects:
            self.revision += 1
            last = self.objects.pop(name)
            last = {**last, "metadata": {**last["metadata"], "resourceVersion": self.version(self.revision)}}
            self.history.append((self.revision, "DELETED", last))
        if what in ("put", "replace"):
            self.revision += 1
            old = self.objects.get(name)
            if old is None:
                self.births += 1
            uid = old["metadata"]["uid"] if old else f"uid-{self.births}"
            meta = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": self.version(self.revision)}
            self.objects[name] = {"metadata": meta, "value": self.revision}
            self.history.append((self.revision, "MODIFIED" if old else "ADDED", self.objects[name]))

    def compact(self) -> None:
        self.compacted = self.revision

    def page(self, token: str, limit: int) -> tuple[list[dict[str, Any]], str, str]:
        """Items, resourceVersion, next token."""
        if token:
            revision, rest = self.tokens[token]
            if revision < self.compacted:
                raise ApiError("too old", status=410, reason="Expired")
        else:
            revision, rest = self.revision, list(self.objects.values())
        items, rest = rest[:limit], rest[limit:]
        following = ""
        if rest:
            following = f"t{len(self.tokens)}"
            self.tokens[following] = (revision, rest)
        return items, self.version(revision), following

    def events_after(self, version: str) -> list[bytes]:
        """Lines of a watch that starts there."""
        revision = self.revision_of(version)
        if revision < self.compacted:
            raise ApiError("too old", status=410, reason="Expired")
        return [line(kind, found) for number, kind, found in self.history if number > revision]

    def truth(self) -> dict[str, tuple[str, int]]:
        return {f"ns/{name}": (found["metadata"]["uid"], found["value"]) for name, found in self.objects.items()}


def line(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode()


def bookmark(version: str) -> bytes:
    return line("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "spec": {}})


def expired() -> bytes:
    return line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
