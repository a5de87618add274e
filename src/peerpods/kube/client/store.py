"""What an informer holds, and the differences it finds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs


@attrs.frozen
class Change:
    """One difference between what was held and what the server has."""

    kind: str
    """"added", "modified" or "deleted"."""
    key: str
    """`namespace/name`, or `name` of a cluster-scoped object."""
    old: Any
    """The shrunk object as it was held; None when added."""
    new: Any
    """The shrunk object as it is now; None when deleted."""


def key_of(found: Mapping[str, Any]) -> str:
    """`namespace/name`, or `name` of a cluster-scoped object."""
    meta = found["metadata"]
    namespace = meta.get("namespace")
    return f"{namespace}/{meta['name']}" if namespace else str(meta["name"])


class Store(Mapping[str, Any]):
    """Key to shrunk object. Only the reflector writes it.

    For each object a tuple of uid, resourceVersion and shrunk object is kept and nothing else.
    """

    def __init__(self, shrink: Callable[[dict[str, Any]], Any]) -> None:
        """Args:
        shrink: gets a whole object, gives what is kept of it. It must not keep the object itself if that is to be
            saved; what it raises comes through.
        """
        self._shrink = shrink
        self._held: dict[str, tuple[str, str, Any]] = {}
        self._unseen: set[str] | None = None

    def __getitem__(self, key: str) -> Any:
        return self._held[key][2]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def version_of(self, key: str) -> tuple[str, str] | None:
        """uid and resourceVersion held under a key."""
        held = self._held.get(key)
        return held[:2] if held else None

    # -- a list

    def begin(self) -> None:
        """A list begins, perhaps anew: what it does not show is gone."""
        self._unseen = set(self._held)

    def listed(self, found: dict[str, Any]) -> list[Change]:
        """An object of the list."""
        if self._unseen is not None:
            self._unseen.discard(key_of(found))
        return self.changed(found)

    def end(self) -> list[Change]:
        """The list is complete."""
        unseen, self._unseen = self._unseen or set(), None
        return [Change("deleted", key, self._held.pop(key)[2], None) for key in sorted(unseen)]

    # -- a watch

    def changed(self, found: dict[str, Any]) -> list[Change]:
        """An object as it is now; nothing comes of one that is held already in that state."""
        key = key_of(found)
        meta = found["metadata"]
        uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
        held = self._held.get(key)
        if held is not None and held[0] == uid and held[1] == version:
            return []
        new = self._shrink(found)
        self._held[key] = (uid, version, new)
        if held is None:
            return [Change("added", key, None, new)]
        if held[0] == uid:
            return [Change("modified", key, held[2], new)]
        return [Change("deleted", key, held[2], None), Change("added", key, None, new)]

    def deleted(self, found: dict[str, Any]) -> list[Change]:
        """An object that is gone; one of the same name that came after it stays."""
        key = key_of(found)
        held = self._held.get(key)
        if held is None or held[0] != found["metadata"].get("uid", ""):
            return []
        del self._held[key]
        return [Change("deleted", key, held[2], None)]
