"""One watch: which changes its client is told, and as what. Pure; the handler writes the events."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.kube.double.kinds import Kind
from tests.kube.double.refusal import expired
from tests.kube.double.selectors import Test
from tests.kube.double.store import Change, Json, Store


class Watch:
    """The events of one watch.

    Args:
        send: called with each event.
        namespace: None for all.
    """

    def __init__(
        self, store: Store, kind: Kind, namespace: str | None, test: Test, send: Callable[[Json], None]
    ) -> None:
        self._store = store
        self._kind = kind
        self._namespace = namespace
        self._test = test
        self._send = send
        self._told = self._from = 0
        self.started = False

    def start(self, version: str) -> bool:
        """Send what is due at once; False when the version is too old, which has been said then, or to come."""
        if version in ("", "0"):
            self._from = self._told = self._store.version
            for name, obj in sorted(self._store.objects.get(self._kind.key, {}).items()):
                if self._namespace in (None, name[0]) and self._test(obj):
                    self._send({"type": "ADDED", "object": obj})
        else:
            self._from = self._told = int(version)
            missed = self._store.since(int(version))
            if missed is None:
                text = f"too old resource version: {version} ({self._store.floor})"
                self._send({"type": "ERROR", "object": expired(text).status()})
                return False
            for change in missed:
                self._tell(change)
        self.started = True
        self._store.listeners.append(self._tell)
        return True

    def stop(self) -> None:
        """No more events."""
        if self.started:
            self._store.listeners.remove(self._tell)
            self.started = False

    def _tell(self, change: Change) -> None:
        if change.version <= self._told:
            return
        self._told = change.version
        if change.kind != self._kind.key or self._namespace not in (None, change.name[0]):
            return
        before = change.old is not None and self._test(change.old)
        after = change.type != "DELETED" and self._test(change.new)
        if after:
            self._send({"type": "MODIFIED" if before else "ADDED", "object": change.new})
        elif before and change.old is not None:
            last = {**change.old, "metadata": {**change.old["metadata"], "resourceVersion": str(change.version)}}
            self._send({"type": "DELETED", "object": last})

    def bookmark(self) -> None:
        """Tell how far the client has seen, if that moved since it began."""
        self._told = max(self._told, self._store.version)
        if self._told > self._from:
            resource = self._kind.resource
            obj: Json = {
                "kind": resource.kind,
                "apiVersion": resource.api_version,
                "metadata": {"resourceVersion": str(self._told), "creationTimestamp": None},
            }
            if not self._kind.custom:
                obj |= {"spec": {}, "status": {}}
            self._send({"type": "BOOKMARK", "object": obj})


def line(event: Json) -> bytes:
    """One event on the wire."""
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
