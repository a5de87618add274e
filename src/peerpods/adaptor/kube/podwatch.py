"""Watches the pods of this node: whose UID is whose, and which sandbox's pod is gone.

A sandbox ends for its pod's sake only when the API server says so: a GET that answers 404, or a pod of the same name
with another UID. That it does not answer is no sign of anything. kubelet's own StopVM comes first: the look is made a
grace after the first sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from peerpods.adaptor import events as ev
from peerpods.adaptor.events import Cause
from peerpods.adaptor.kube.podview import Bond, PodView, bond, read_pod
from peerpods.adaptor.ports import Host
from peerpods.adaptor.sandbox import LIVE, Sandbox
from peerpods.aio import spawn
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.resources import PODS
from peerpods.model import Pod, SandboxId
from peerpods.obs.log import get_logger

log = get_logger("adaptor")

GRACE = 20.0
"""Seconds between the first sign that a pod is gone and the look that ends its sandbox: longer than kubelet takes to
stop it, and less than the 30 s after which peerpod-ctrl deletes the VM of an adaptor that does nothing."""
PERIOD = 300.0
"""Seconds between two comparisons of all sandboxes with all pods: a missed sign is made good."""


class Store(Protocol):
    """What is used of `peerpods.kube.client.Informer`."""

    @property
    def store(self) -> Mapping[str, Any]:
        """Key to shrunk object."""

    def start(self) -> Any:
        """Begin; a Deferred that fires at the first whole list."""

    def stop(self) -> Any:
        """End."""


class PodWatch:
    """The pods of one node.

    Args:
        make_informer: gives an informer of this node's pods, shrunk by `read_pod`, for a function that is told of
            changes.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        kube: KubeApi,
        make_informer: Callable[[Callable[[Any], None]], Store],
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._kube = kube
        self._now = now
        self._informer = make_informer(self._on_change)
        self._host: Host
        self._synced = False
        self._suspects: dict[SandboxId, IDelayedCall] = {}
        self._loop = LoopingCall(self.look_at_all)
        self._loop.clock = reactor

    def start(self, host: Host) -> None:
        """Begin to watch; the API server may be away."""
        self._host = host
        self._informer.start().addCallbacks(self._first, lambda failure: None)

    def _first(self, _result: object) -> None:
        self._synced = True
        self._loop.start(PERIOD).addErrback(self._died)

    def stop(self) -> None:
        """Watch no more."""
        self._informer.stop()
        if self._loop.running:
            self._loop.stop()
        for timer in self._suspects.values():
            timer.cancel()
        self._suspects.clear()

    def known(self, pod: Pod) -> PodView | None:
        """The Pod object of this name on this node, as it was last heard of."""
        found: PodView | None = self._informer.store.get(f"{pod.namespace}/{pod.name}")
        return found

    def look_at_all(self) -> None:
        """Compare every living sandbox with the pods that are known."""
        for record in list(self._host.records.values()):
            self.look_at(record)

    def look_at(self, record: Sandbox) -> None:
        """Compare one sandbox with its pod, as far as pods are known."""
        if not self._synced or record.phase not in LIVE:
            return
        pod = self._informer.store.get(f"{record.namespace}/{record.pod}")
        if pod is None:
            self._suspect(record)
        else:
            self._compare(record, pod)

    def _on_change(self, change: Any) -> None:
        for record in list(self._host.records.values()):
            if record.phase in LIVE and f"{record.namespace}/{record.pod}" == change.key:
                if change.kind == "deleted":
                    self._suspect(record)
                else:
                    self._compare(record, change.new)

    def _compare(self, record: Sandbox, pod: PodView) -> None:
        verdict = bond(record, pod)
        if verdict is Bond.ADOPT:
            self._host.post(record.id, ev.PodKnown(at=self._now(), uid=pod.uid))
        elif verdict is Bond.OTHER:
            self._suspect(record)

    def _suspect(self, record: Sandbox) -> None:
        # Without a UID nobody ever said that there was such a pod.
        if record.pod_uid and record.id not in self._suspects:
            self._suspects[record.id] = self._reactor.callLater(GRACE, self._check, record.id)

    def _check(self, sandbox: SandboxId) -> None:
        del self._suspects[sandbox]
        record = self._host.records.get(sandbox)
        if record is not None and record.phase in LIVE:
            spawn(self._confirm(record)).addErrback(self._died)

    async def _confirm(self, record: Sandbox) -> None:
        try:
            found = read_pod(await self._kube.get(PODS, record.pod, record.namespace))
        except ApiError as error:
            if not error.not_found:
                log.debug("pod_not_confirmed", **record.named(), error=str(error))
                self._suspect(record)
                return
            detail = f"{record.namespace}/{record.pod} ({record.pod_uid})"
        else:
            if bond(record, found) is not Bond.OTHER:
                return
            detail = f"{record.namespace}/{record.pod} is another pod now ({found.uid} in place of {record.pod_uid})"
        self._host.post(record.id, ev.Ended(at=self._now(), cause=Cause.POD_GONE, detail=detail))

    def _died(self, failure: Any) -> None:
        log.error("podwatch_died", error=failure.getTraceback())
