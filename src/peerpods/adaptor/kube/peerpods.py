"""Keeps one PeerPod object for each VM, level-triggered: whatever was missed is made good from the record.

A sandbox's key is put into the queue on every change of its record and on every look at the whole list. The work for a
key compares the record with the object as it was last answered, and sends what differs. Nothing here is kept across a
restart: records come from the journal, objects from the API server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from peerpods.adaptor.executor import Place
from peerpods.adaptor.kube import desired
from peerpods.adaptor.kube.meters import PEER_POD_WRITES
from peerpods.adaptor.ports import Host
from peerpods.adaptor.sandbox import LIVE, Sandbox
from peerpods.errors import Refused
from peerpods.kube.client.api import Json, KubeApi, PatchKind
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects import peerpod
from peerpods.kube.objects.names import NODE_LABEL
from peerpods.kube.objects.resources import PEER_PODS
from peerpods.model import Phase, SandboxId
from peerpods.obs.log import get_logger

log = get_logger("adaptor")

ANNOUNCE = 2.0
"""Seconds that a launch waits for its PeerPod; without one it goes on, and the object follows."""
RESYNC = 300.0
"""Seconds between two looks at all of this node's objects."""
NO_KIND = 15.0
"""Seconds until all objects are looked at again when the API server does not know the kind: one that has just started
may not for a moment, and then nothing that it said was so."""
YOUNG = 60.0
"""Seconds of age below which an object without a record is left alone."""
RETRY_MAX = 30.0
"""Longest pause between two tries, so that an API server that comes back is caught up with soon."""
GRACE = 1.0
"""Seconds that a write under way has when the adaptor stops; the next start goes on."""
EVERYTHING = ""
"""The key of the look at all objects."""


class Queue(Protocol):
    """What is used of `peerpods.kube.client.WorkQueue`."""

    def add(self, key: str, delay: float = 0.0) -> None:
        """Have the key worked on."""

    def start(self) -> None:
        """Begin."""

    async def stop(self, grace: float = 10.0) -> None:
        """End; work under way has `grace` seconds."""


class PeerPods:
    """The objects of one node.

    Args:
        make_queue: gives a queue for a function that works on a key.
        provider: this adaptor's provider; objects of others are left alone.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        kube: KubeApi,
        make_queue: Callable[[Callable[[str], Awaitable[float | None]]], Queue],
        *,
        place: Place,
        provider: str,
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._kube = kube
        self._place = place
        self._provider = provider
        self._now = now
        self._queue = make_queue(self._work)
        self._host: Host
        self._known: dict[SandboxId, Json] = {}
        """Objects as they were last answered."""
        self._doubt: set[SandboxId] = set()
        """Whether the object is still there must be asked."""
        self._vanished: set[SandboxId] = set()
        """Somebody else removed the object of a sandbox that is ending."""
        self._waiting: dict[SandboxId, list[Deferred[None]]] = {}
        self._said: set[str] = set()
        """What has been logged and need not be again until it worked once more."""

    def start(self, host: Host) -> None:
        """Begin; the first look at all objects is made as soon as the API server answers."""
        self._host = host
        self._queue.start()
        self._queue.add(EVERYTHING)

    async def stop(self) -> None:
        """End. The objects stay."""
        await self._queue.stop(GRACE)

    def changed(self, before: Sandbox | None, after: Sandbox) -> None:
        """A record changed or was loaded. One that never asked the cloud for anything has no object."""
        if not after.attempt:
            return
        if before is None:
            if after.phase is Phase.GONE:
                return  # only if the list still shows it
            self._doubt.add(after.id)
        self._queue.add(after.id)

    async def announce(self, s: Sandbox) -> None:
        """See `ClusterPort.announce`."""
        if s.id in self._known and s.id not in self._doubt:
            return
        waiter: Deferred[None] = Deferred()
        self._waiting.setdefault(s.id, []).append(waiter)
        self._queue.add(s.id)
        try:
            await waiter.addTimeout(ANNOUNCE, self._reactor, onTimeoutCancel=lambda _result, _timeout: None)
        finally:
            waiters = self._waiting.get(s.id, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiting.pop(s.id, None)

    def _settle(self, sandbox: SandboxId, error: Refused | None = None) -> None:
        for waiter in self._waiting.pop(sandbox, []):
            if error is None:
                waiter.callback(None)
            else:
                waiter.errback(error)

    # The work for one key

    async def _work(self, key: str) -> float | None:
        if key == EVERYTHING:
            return await self._look_at_all()
        sandbox = SandboxId(key)
        try:
            again = await self._sync(sandbox)
        except Exception as error:
            PEER_POD_WRITES.labels("failed").inc()
            self._settle(sandbox)
            kind = error.status if isinstance(error, ApiError) else type(error).__name__
            self._say(f"failed-{kind}", "peerpod_not_written", sandbox=sandbox, error=str(error))
            raise
        self._settle(sandbox)
        self._said.difference_update({one for one in self._said if one.startswith("failed-")})
        return again

    def _say(self, once: str, event: str, **facts: Any) -> None:
        if once not in self._said:
            self._said.add(once)
            log.warning(event, **facts)

    async def _sync(self, sandbox: SandboxId) -> float | None:
        record = self._host.records.get(sandbox)
        if record is None:
            return await self._release_unknown(sandbox)
        if record.phase is Phase.GONE:
            obj = self._known.get(sandbox) or await self._get(record)
            if obj is not None:
                await self._release(obj, sandbox)
            self._forget(sandbox)
            return None
        if sandbox in self._doubt:
            if not await self._clear_doubt(record):
                return None
            record = self._host.records.get(sandbox, record)
        obj = self._known.get(sandbox) or await self._create(record)
        if obj is None or await self._update(record, obj):
            return None
        if await self._clear_doubt(record):
            obj = self._known.get(sandbox) or await self._create(self._host.records.get(sandbox, record))
            if obj is not None and not await self._update(record, obj):
                return RETRY_MAX  # it can be read and not written
        return None

    async def _clear_doubt(self, record: Sandbox) -> bool:
        """Look for an object that should be there. False when it is gone and is not to be made again."""
        obj = await self._get(record)
        self._doubt.discard(record.id)
        if obj is not None:
            self._known[record.id] = obj
            return True
        self._known.pop(record.id, None)
        if record.phase not in LIVE:
            self._vanished.add(record.id)
            return False
        if record.instance is None:
            return True
        # Who removed it may have removed the VM before: then the sandbox ends, and no object must hold anything up.
        await self._host.look_at_instance(record)
        current = self._host.records.get(record.id)
        return current is not None and current.phase in LIVE

    async def _get(self, record: Sandbox) -> Json | None:
        try:
            obj = await self._kube.get(PEER_PODS, desired.name_of(record), record.namespace)
        except ApiError as error:
            if error.not_found:
                self._doubt_kind(error)
                return None
            raise
        return obj if peerpod.parse(obj).sandbox == record.id else None

    async def _create(self, record: Sandbox) -> Json | None:
        if record.id in self._vanished or record.cloud_gone:
            return None
        body = desired.body_of(record, node=self._place.node, cluster=self._place.cluster)
        try:
            obj = await self._kube.create(PEER_PODS, body, record.namespace)
        except ApiError as error:
            if error.already_exists:
                obj = await self._kube.get(PEER_PODS, body["metadata"]["name"], record.namespace)
                if peerpod.parse(obj).sandbox == record.id:
                    self._known[record.id] = obj
                    return obj
            self._not_created(record, error)
            return None
        PEER_POD_WRITES.labels("created").inc()
        self._known[record.id] = obj
        self._settle(record.id)
        return obj

    def _not_created(self, record: Sandbox, error: ApiError) -> None:
        """An object that cannot be made now: passing errors are raised, for the others the next look tries again."""
        if error.namespace_terminating:
            text = f"namespace {record.namespace} is being deleted, so no VM is made for pod {record.pod}"
            remedy = "make the pod in another namespace, or wait until this one is gone and make it anew"
            self._settle(record.id, Refused(text, sandbox=record.id, remedy=remedy))
        elif error.status in (404, 405):
            if error.details.get("kind") == "namespaces":
                self._say(f"namespace-{record.namespace}", "peerpod_namespace_unknown", **record.named())
            else:
                self._no_kind(error)
        elif error.already_exists or error.invalid:
            self._say(f"invalid-{record.id}", "peerpod_not_created", **record.named(), error=str(error))
        else:
            raise error

    def _no_kind(self, error: ApiError) -> None:
        note = "the cluster has no PeerPod CRD; VMs are tracked by the journal and their tags alone"
        self._say("crd", "peerpod_kind_unknown", error=str(error), note=note)
        self._queue.add(EVERYTHING, NO_KIND)

    def _doubt_kind(self, error: ApiError) -> None:
        """A 404 that names no object says nothing of ours: the kind is not known, perhaps for a moment only."""
        if error.kind_unknown:
            self._queue.add(EVERYTHING, NO_KIND)

    async def _update(self, record: Sandbox, obj: Json) -> bool:
        """Send what differs; False when the object is no longer there."""
        name = obj["metadata"]["name"]
        changes = desired.changes(record, obj)
        try:
            if changes.main:
                obj = await self._kube.patch(PEER_PODS, name, changes.main, record.namespace, kind=PatchKind.MERGE)
                self._known[record.id] = obj
                changes = desired.changes(record, obj)
            if changes.status:
                status = {"status": changes.status}
                obj = await self._kube.patch(
                    PEER_PODS, name, status, record.namespace, kind=PatchKind.MERGE, subresource="status"
                )
                self._known[record.id] = obj
                PEER_POD_WRITES.labels("changed").inc()
        except ApiError as error:
            if error.not_found:
                return False
            if error.conflict or error.invalid:
                self._doubt.add(record.id)  # another's hand: the next try reads what is there
            raise
        return True

    def _forget(self, sandbox: SandboxId) -> None:
        self._known.pop(sandbox, None)
        self._doubt.discard(sandbox)
        self._vanished.discard(sandbox)

    # Release

    async def _release(self, obj: Json, sandbox: SandboxId) -> None:
        """Delete an object and let it go; it may be gone, or going, already."""
        view = peerpod.parse(obj)
        try:
            if not view.deleting:
                await self._kube.delete(PEER_PODS, view.name, view.namespace, uid=view.uid)
            patch = peerpod.release_patch(obj)
            if patch:
                await self._kube.patch(PEER_PODS, view.name, patch, view.namespace, kind=PatchKind.JSON)
        except ApiError as error:
            if error.conflict or error.invalid:
                self._known.pop(sandbox, None)  # it changed meanwhile: the next try reads it again
            if not error.not_found:
                raise
            self._doubt_kind(error)
        PEER_POD_WRITES.labels("released").inc()

    async def _release_unknown(self, sandbox: SandboxId) -> float | None:
        """An object of this node without a record: released once the cloud shows no instance of it."""
        obj = self._known.get(sandbox)
        if obj is None:
            return None
        view = peerpod.parse(obj)
        ours = (view.node, view.cluster, view.provider) == (self._place.node, self._place.cluster, self._provider)
        if not ours:
            self._forget(sandbox)
            return None
        age = self._now() - view.created
        if age < YOUNG:
            return YOUNG - max(0.0, age)
        if await self._host.instances_of(sandbox):
            return YOUNG  # the sweep deletes them
        if sandbox in self._host.records:
            return 0.0
        log.warning("stray_peerpod", sandbox=sandbox, peerpod=view.key, note="no record and no instance; released")
        await self._release(obj, sandbox)
        self._forget(sandbox)
        return None

    async def _look_at_all(self) -> float:
        """Read all of this node's objects and have each compared with its record."""
        selector = f"{NODE_LABEL}={peerpod.label_value(self._place.node)}"
        asked = dict(self._known)
        try:
            listed, _version = await self._kube.list(PEER_PODS, labels=selector)
        except ApiError as error:
            if not error.not_found:
                self._say("list", "peerpods_not_listed", error=str(error))
                raise
            self._no_kind(error)
            return NO_KIND
        else:
            self._said.clear()
        found = {SandboxId(view.sandbox): obj for obj in listed if (view := peerpod.parse(obj)).sandbox}
        for sandbox, obj in found.items():
            if self._known.get(sandbox) is asked.get(sandbox):
                self._known[sandbox] = obj
            self._queue.add(sandbox)
        for sandbox, obj in asked.items():
            if sandbox not in found and self._known.get(sandbox) is obj:
                self._doubt.add(sandbox)
                self._queue.add(sandbox)
        for sandbox, record in list(self._host.records.items()):
            if record.attempt and record.phase is not Phase.GONE and sandbox not in found:
                self._queue.add(sandbox)
        return RESYNC
