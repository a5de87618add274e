"""Events to be told: which are equal, which are too many, what is sent when. Pure.

An event that equals one of the last minutes makes that one a series: its count and time are patched, at most every
`PATCH_EVERY` seconds. An object that has too much to say is cut off; so is the whole process when the server is away
for long: then the oldest ordinary events go first, warnings last.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Any

import attrs

from peerpods.kube.client.bucket import Bucket
from peerpods.kube.client.clock import micro_time
from peerpods.kube.client.reference import reference

Json = dict[str, Any]
REASON_MAX = 128
ACTION_MAX = 128
NOTE_MAX = 1024
"""Bytes; the API server's own bounds (events.k8s.io/v1)."""
NAME_MAX = 253
SERIES = 360.0
"""Seconds without an equal event after which the next one is a new event, as in client-go."""
PATCH_EVERY = 10.0
"""Seconds between two patches of one series."""
QUEUE = 1000
"""Events that wait for the server."""
SERIES_KEPT = 4096
OBJECT_BURST, OBJECT_RATE = 25, 1 / 60
"""New events of one object: at once, and a second for ever."""
WHOLE_BURST, WHOLE_RATE = 50, 5.0
"""Requests of the whole process."""


@attrs.define(eq=False)
class Entry:
    """One event, or one series of equal ones."""

    body: Json
    """As it is created."""
    count: int = 1
    told: int = 0
    """How many of `count` the server knows; 0: not created yet."""
    last: float = 0.0
    """Seconds since 1970 of the last one."""
    touched: float = 0.0
    """Monotonic."""
    queued: bool = False
    not_before: float = 0.0
    """Monotonic."""

    @property
    def namespace(self) -> str:
        """Where it is stored."""
        return str(self.body["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Under which name."""
        return str(self.body["metadata"]["name"])

    def patch(self) -> Json:
        """The merge patch that tells the server of the series."""
        return {"series": {"count": max(2, self.count), "lastObservedTime": micro_time(self.last)}}


class EventLog:
    """What is still to be told."""

    def __init__(self, component: str, instance: str) -> None:
        self._component = cut(component, 253)
        self._instance = cut(instance, 128)
        self._series: OrderedDict[tuple[Any, ...], Entry] = OrderedDict()
        self._queue: OrderedDict[int, Entry] = OrderedDict()
        self._objects: OrderedDict[tuple[Any, ...], Bucket] = OrderedDict()
        self._whole: Bucket | None = None
        self.dropped = 0
        """Events that were never sent: too many."""

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, event: Json, now: float, wall: float) -> str:
        """Take an event made by `new_event`.

        Returns:
            "queued", "merged" or "dropped".
        """
        key = _key(event)
        known = self._series.get(key)
        if known is not None and now - known.touched < SERIES:
            known.count += 1
            known.last = wall
            known.touched = now
            self._series.move_to_end(key)
            self._enqueue(known)
            return "merged"
        if not self._bucket(event, now).take(now):
            self.dropped += 1
            return "dropped"
        entry = Entry(body=event, last=wall, touched=now)
        self._series[key] = entry
        self._series.move_to_end(key)
        while len(self._series) > SERIES_KEPT:
            self._series.popitem(last=False)
        self._enqueue(entry)
        return "queued"

    def next(self, now: float) -> tuple[Entry | None, float | None]:
        """The entry to send now; or None and the seconds until there may be one; or None, None: nothing waits."""
        if not self._queue:
            return None, None
        if self._whole is None:
            self._whole = Bucket(WHOLE_BURST, WHOLE_RATE, now)
        wait = self._whole.wait(now)
        if wait > 0:
            return None, wait
        soonest = None
        for entry in self._queue.values():
            left = entry.not_before - now
            if left <= 0:
                self._whole.take(now)
                del self._queue[id(entry)]
                entry.queued = False
                return entry, None
            soonest = left if soonest is None else min(soonest, left)
        return None, soonest

    def sent(self, entry: Entry, count: int, now: float) -> None:
        """The server knows the first `count` of the entry."""
        entry.told = count
        entry.not_before = now + PATCH_EVERY
        if entry.count > count:
            self._enqueue(entry)

    def again(self, entry: Entry) -> None:
        """The server was away: keep it, before all others."""
        self._enqueue(entry)
        if entry.queued:
            self._queue.move_to_end(id(entry), last=False)

    def forget(self, entry: Entry) -> None:
        """It can never be sent: an equal event begins anew."""
        self._series.pop(_key(entry.body), None)

    def expired(self, entry: Entry) -> None:
        """The server has dropped the event that the entry's series is about: make a new one."""
        entry.told = 0
        meta = {**entry.body["metadata"], "name": _name(entry.body["regarding"])}
        entry.body = {**entry.body, "metadata": meta, "eventTime": micro_time(entry.last)}
        self._enqueue(entry)

    def hurry(self) -> None:
        """Nothing waits for its time any more: the process ends."""
        for entry in self._queue.values():
            entry.not_before = 0.0

    def _enqueue(self, entry: Entry) -> None:
        if entry.queued:
            return
        if len(self._queue) >= QUEUE and not self._make_room(entry):
            self.dropped += 1
            return
        entry.queued = True
        self._queue[id(entry)] = entry

    def _make_room(self, entry: Entry) -> bool:
        victim = next((each for each in self._queue.values() if each.body["type"] != "Warning"), None)
        if victim is None:
            if entry.body["type"] != "Warning":
                return False
            victim = next(iter(self._queue.values()))
        del self._queue[id(victim)]
        victim.queued = False
        self.dropped += 1
        return True

    def _bucket(self, event: Json, now: float) -> Bucket:
        regarding = event["regarding"]
        key = (regarding.get("kind"), regarding.get("namespace"), regarding.get("name"), regarding.get("uid"))
        bucket = self._objects.pop(key, None) or Bucket(OBJECT_BURST, OBJECT_RATE, now)
        self._objects[key] = bucket
        while len(self._objects) > SERIES_KEPT:
            self._objects.popitem(last=False)
        return bucket

    def new_event(
        self,
        regarding: Json,
        kind: str,
        reason: str,
        note: str,
        action: str,
        related: Json | None,
        wall: float,
    ) -> Json:
        """The Event object, within all bounds of the API."""
        about = reference(regarding)
        body: Json = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # An event about a cluster-scoped object is kept in "default", where kubectl looks for it.
            "metadata": {"name": _name(about), "namespace": about.get("namespace") or "default"},
            "eventTime": micro_time(wall),
            "type": kind if kind in ("Normal", "Warning") else "Normal",
            "reason": cut(reason, REASON_MAX) or "Unknown",
            "action": cut(action, ACTION_MAX) or cut(reason, ACTION_MAX) or "Unknown",
            "note": cut(note, NOTE_MAX),
            "regarding": about,
            "reportingController": self._component,
            "reportingInstance": self._instance,
        }
        if related:
            body["related"] = reference(related)
        return body


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8; what was cut shows as "…". Never in the middle of a character."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    mark = "…"
    return data[: limit - len(mark.encode())].decode("utf-8", "ignore") + mark


def _name(about: Json) -> str:
    tail = "." + secrets.token_hex(8)
    base = str(about.get("name") or "unknown").lower()
    return base[: NAME_MAX - len(tail)].rstrip(".-") + tail


def _key(event: Json) -> tuple[Any, ...]:
    regarding, related = event["regarding"], event.get("related") or {}
    return (
        *(regarding.get(key) for key in ("apiVersion", "kind", "namespace", "name", "uid", "fieldPath")),
        event["type"],
        event["reason"],
        event["action"],
        event["note"],
        related.get("uid") or related.get("name"),
    )
