"""Our own end: when the installation is being deleted around us, we first finish what only we can.

Deleted in the right order (the PeerPodConfig first) there is nothing to do here. In the wrong order, finalizers would
hold namespaces and the CRD for ever once we are gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.task import deferLater

from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects.peerpod import PeerPodView
from peerpods.kube.objects.resources import CRDS, DEPLOYMENTS, NAMESPACES
from peerpods.kube.peerpod.asking import CRD_NAME, get_or_none, going
from peerpods.kube.peerpod.controller import Controller
from peerpods.kube.peerpod.deletion import name_the_vm
from peerpods.kube.peerpod.facts import Ending
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.obs.log import get_logger

LOOK_EVERY = 1.0
TOKEN_LEEWAY = 45.0
"""Seconds after which, in a namespace that goes, we must be through: our account goes with it, and the API server takes
its token for 60 s more (with `client.rights`)."""
NAMED_MAX = 50
"""PeerPods that are named one by one in the log when something is left."""
log = get_logger("peerpod-ctrl")


@attrs.frozen(kw_only=True)
class Around:
    """What of the installation is going."""

    namespace: bool = False
    crd: bool = False
    deployment: bool = False

    @property
    def ending(self) -> Ending:
        """What that comes to."""
        if self.namespace or self.crd:
            return Ending.INSTALLATION
        return Ending.CONTROLLER if self.deployment else Ending.NONE


async def look_around(kube: KubeApi, settings: PeerPodCtrlSettings, *, had_deployment: bool) -> Around:
    """Ask what is being deleted. What the API server does not tell counts as staying.

    Args:
        had_deployment: whether there was a Deployment of our name when we started.
    """

    async def ask(call: Awaitable[dict[str, Any] | None], what: str) -> bool:
        try:
            return going(await call)
        except ApiError as error:
            log.warning("end_not_known", what=what, error=str(error))
            return False

    namespace = settings.namespace
    deployment = False
    if had_deployment:
        deployment = await ask(get_or_none(kube, DEPLOYMENTS, settings.deployment, namespace), "deployment")
    return Around(
        namespace=await ask(get_or_none(kube, NAMESPACES, namespace), "namespace"),
        crd=await ask(get_or_none(kube, CRDS, CRD_NAME), "crd"),
        deployment=deployment,
    )


async def finish(
    reactor: Any, controller: Controller, around: Around, settings: PeerPodCtrlSettings, requeue: Callable[[str], None]
) -> None:
    """Go on until no PeerPod waits for us, or the bound has passed; then let go what may be let go, in words.

    The queue and the informers must be running. Takes at most `final_timeout` and what releasing the rest takes.
    """
    controller.ending = around.ending
    bound = min(settings.final_timeout, TOKEN_LEEWAY) if around.namespace else settings.final_timeout
    until = reactor.seconds() + bound
    everything = around.ending is Ending.INSTALLATION
    log.warning(
        "end_begun",
        namespace=around.namespace,
        crd=around.crd,
        deployment=around.deployment,
        seconds=bound,
    )
    for view in [*controller.held_and_dying(), *(controller.alive() if everything else ())]:
        requeue(view.key)

    def waiting() -> list[PeerPodView]:
        return [*controller.held_and_dying(), *(controller.alive() if everything else ())]

    while waiting() and reactor.seconds() < until:
        await deferLater(reactor, min(LOOK_EVERY, max(until - reactor.seconds(), 0.001)))
    for view in waiting():
        try:
            await controller.let_go(view.key)
        except ApiError as error:
            log.warning("not_released", peer_pod=view.key, error=str(error))
    await deferLater(reactor, LOOK_EVERY)
    report(controller, settings, everything=everything)


def report(controller: Controller, settings: PeerPodCtrlSettings, *, everything: bool) -> None:
    """Say what is left and what to do about it."""
    left = controller.held_and_dying()
    remedy = "run: peerpods uninstall --force (it names each VM that may be left and takes off the finalizers)"
    for view in left[:NAMED_MAX]:
        log.error(
            "peer_pod_left",
            peer_pod=view.key,
            vm=name_the_vm(view, settings.cluster),
            error=controller.trouble(view),
            remedy=remedy,
        )
    alive = len(controller.alive())
    if alive:
        log.error(
            "peer_pods_without_controller",
            peer_pods=alive,
            remedy=remedy
            if everything
            else "start peerpod-ctrl again: without it a VM whose node fails is never deleted",
        )
    log.info("end_finished", left=len(left), alive=alive)
