"""`ClusterPort` on a real API server: joins the parts, and makes them from settings."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs

from peerpods.adaptor.executor import Place
from peerpods.adaptor.kube import desired, notes
from peerpods.adaptor.kube.bounded import bounded
from peerpods.adaptor.kube.nodelimit import NodeLimit, read_node
from peerpods.adaptor.kube.notes import Note
from peerpods.adaptor.kube.peerpods import PeerPods, Queue
from peerpods.adaptor.kube.podview import read_pod
from peerpods.adaptor.kube.podwatch import PodWatch, Store
from peerpods.adaptor.kube.pullsecrets import PullSecrets
from peerpods.adaptor.kube.speaker import Recorder, Speaker
from peerpods.adaptor.ports import Host, Limit, Notice, PodFacts
from peerpods.adaptor.sandbox import Sandbox
from peerpods.aio import spawn
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.resources import NODES, PODS, Resource
from peerpods.model import Pod
from peerpods.obs.log import get_logger

log = get_logger("adaptor")

FACTS = 2.0
"""Seconds that a CreateVM waits for the API server to say who the pod is."""
FLUSH = 2.0
"""Seconds that events still to be sent have when the adaptor stops."""


@attrs.frozen(kw_only=True)
class Options:
    """What the adaptor's settings say of its Kubernetes side."""

    slow_after: float = 30.0
    limit_per_node: int = -1
    advertise_capacity: bool = False


@attrs.frozen(kw_only=True)
class Tools:
    """The client, in parts that tests replace."""

    kube: KubeApi
    make_informer: Callable[[Resource, str, Callable[[Any], Any], Callable[[Any], None]], Store]
    """Resource, field selector, shrink, on_change."""
    make_queue: Callable[[Callable[[str], Awaitable[float | None]]], Queue]
    recorder: Recorder
    close: Callable[[], Awaitable[None]]


class KubeCluster:
    """The cluster as the adaptor of one node sees it.

    Args:
        provider: name of the adaptor's provider.
        max_user_data: the provider's bound, in bytes.
    """

    def __init__(
        self,
        reactor: Any,
        tools: Tools,
        *,
        place: Place,
        provider: str,
        max_user_data: int,
        options: Options,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._tools = tools
        kube = tools.kube
        self._pods = PodWatch(
            reactor, kube, partial(tools.make_informer, PODS, f"spec.nodeName={place.node}", read_pod), now
        )
        self._limit = NodeLimit(
            reactor,
            kube,
            partial(tools.make_informer, NODES, f"metadata.name={place.node}", read_node),
            tools.make_queue,
            node=place.node,
            flag=options.limit_per_node,
            advertise=options.advertise_capacity,
        )
        self._peerpods = PeerPods(reactor, kube, tools.make_queue, place=place, provider=provider, now=now)
        self._speaker = Speaker(reactor, tools.recorder, options.slow_after, now)
        self._secrets = PullSecrets(reactor, kube, max_user_data)

    async def start(self, host: Host) -> None:
        """See `ClusterPort`."""
        self._speaker.start(host)
        self._pods.start(host)
        self._limit.start()
        self._peerpods.start(host)

    async def stop(self) -> None:
        """See `ClusterPort`."""
        self._speaker.stop()
        self._pods.stop()
        await self._limit.stop()
        await self._peerpods.stop()
        await self._tools.close()

    async def pod_facts(self, pod: Pod) -> PodFacts:
        """See `ClusterPort`."""
        try:
            answer = await bounded(
                self._reactor, self._tools.kube.get(PODS, pod.name, pod.namespace), FACTS, f"read pod {pod.name}"
            )
        except ApiError as error:
            log.warning("pod_unknown", pod=pod.name, namespace=pod.namespace, error=str(error))
            known = self._pods.known(pod)
            if known is not None and known.pull_secrets and not error.not_found:
                listed = ", ".join(known.pull_secrets)
                text = f"pull secrets {listed} could not be read: {error} (the VM pulls without them)"
                self.tell(pod, Notice.PULL_SECRET, text)
            return PodFacts(uid=pod.uid)
        view = read_pod(answer)
        if pod.uid and pod.uid not in (view.uid, view.static_uid):
            return PodFacts(uid=pod.uid)  # the answer is another pod of the same name
        named = attrs.evolve(pod, uid=view.uid)
        auth_json, names = await self._secrets.gather(view, lambda text: self.tell(named, Notice.PULL_SECRET, text))
        return PodFacts(uid=view.lasting_uid, auth_json=auth_json, pull_secrets=names)

    def limit(self) -> Limit | None:
        """See `ClusterPort`."""
        return self._limit.current()

    def tell(self, pod: Pod, notice: Notice, text: str) -> None:
        """See `ClusterPort`."""
        note = notes.warning(notice.value, text, "Create")
        known = self._pods.known(pod)
        if pod.uid or known is not None:
            self._speaker.tell(pod if known is None else attrs.evolve(pod, uid=pod.uid or known.uid), note)
        else:
            spawn(self._tell(pod, note)).addErrback(_died)

    async def _tell(self, pod: Pod, note: Note) -> None:
        """Without a UID nobody finds the event, so ask for it first."""
        uid = ""
        with contextlib.suppress(ApiError):
            uid = read_pod(await self._tools.kube.get(PODS, pod.name, pod.namespace)).uid
        self._speaker.tell(attrs.evolve(pod, uid=uid), note)

    async def announce(self, sandbox: Sandbox) -> None:
        """See `ClusterPort`."""
        await self._peerpods.announce(sandbox)

    def changed(self, before: Sandbox | None, after: Sandbox) -> None:
        """See `ClusterPort`. A fault here is ours alone: the sandbox goes on."""
        try:
            self._peerpods.changed(before, after)
            self._speaker.changed(before, after)
            if before is None or not after.pod_uid:
                self._pods.look_at(after)
        except Exception:
            _report(after)

    def name_of(self, sandbox: Sandbox) -> str:
        """See `ClusterPort`."""
        return desired.name_of(sandbox) if sandbox.attempt else ""


def _died(failure: Any) -> None:
    log.error("event_lost", error=failure.getTraceback())


def _report(s: Sandbox) -> None:
    log.error("cluster_fault", **s.named(), error=traceback.format_exc())
