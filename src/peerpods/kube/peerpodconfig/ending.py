"""The end of the process: is our own Deployment, namespace or CRD being deleted before the PeerPodConfig was?

Then nobody comes after us to take the finalizer off, so what can be undone is undone now, within a bound, and what
cannot is named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from peerpods.kube.client import ApiError, KubeApi
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import CRDS, DEPLOYMENTS, NAMESPACES, PEER_POD_CONFIGS, Resource
from peerpods.kube.peerpodconfig.controller import Controller
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
POLL = 1.0  # seconds between two looks
REMEDY = "peerpods uninstall --force, with an administrator's kubeconfig, removes what is left and names each VM"


@attrs.frozen
class Going:
    """What of ours is being deleted."""

    what: str
    """In words; "" for nothing."""
    configs_too: bool = False
    """PeerPodConfigs are being deleted with it, or will be in a moment."""


async def going(kube: KubeApi, namespace: str, *, installed: bool) -> Going:
    """What of ours is being deleted.

    Args:
        installed: whether our Deployment existed when we started; without one we run outside of a cluster.
    """
    crd = f"{PEER_POD_CONFIGS.plural}.{PEER_POD_CONFIGS.group}"
    if await _goes(kube, NAMESPACES, namespace, None):
        return Going(f"namespace {namespace}", configs_too=True)
    if await _goes(kube, CRDS, crd, None):
        return Going(f"CustomResourceDefinition {crd}", configs_too=True)
    if installed and await _goes(kube, DEPLOYMENTS, names.PEER_POD_CONFIG_CTRL, namespace):
        return Going(f"Deployment {names.PEER_POD_CONFIG_CTRL}")
    return Going("")


async def is_installed(kube: KubeApi, namespace: str) -> bool | None:
    """Whether our Deployment exists; None when the API server does not say now."""
    try:
        await kube.get(DEPLOYMENTS, names.PEER_POD_CONFIG_CTRL, namespace)
    except ApiError as error:
        return None if error.passing or error.unauthorized else False
    return True


async def _goes(kube: KubeApi, resource: Resource, name: str, namespace: str | None) -> bool:
    try:
        found = await kube.get(resource, name, namespace)
    except ApiError as error:
        return error.not_found
    return bool(found["metadata"].get("deletionTimestamp"))


async def finish(
    reactor: Any, controller: Controller, what: Going, *, bound: float, sleep: Callable[[float], Any]
) -> None:
    """Let deletions under way come to their end, then take off every finalizer of ours. Never raises.

    Args:
        bound: seconds; 0 takes the finalizers off at once.
        sleep: waits some seconds.
    """
    until = reactor.seconds() + bound
    controller.only_undo()
    log.warning("wrong_order", going=what.what, note="it goes before the PeerPodConfig was deleted", bound=bound)
    while held := controller.held():
        late = reactor.seconds() >= until
        for obj in held:
            deleting = bool(obj["metadata"].get("deletionTimestamp"))
            if late or not (deleting or what.configs_too):
                await _release(controller, obj, what)
        if late:
            break
        await sleep(min(POLL, max(0.0, until - reactor.seconds())))
    if not controller.held():
        try:
            await controller.let_go()
        except ApiError as error:
            log.warning("rights_left", reason=str(error), remedy=REMEDY)
    log.info("wrong_order_done", left=[obj["metadata"]["name"] for obj in controller.held()])


async def _release(controller: Controller, obj: dict[str, Any], what: Going) -> None:
    meta = obj["metadata"]
    try:
        await controller.release(obj)
    except ApiError as error:
        log.warning("finalizer_left", name=meta["name"], reason=str(error), remedy=REMEDY)
        return
    log.warning("finalizer_stripped", name=meta["name"], because=f"{what.what} is being deleted", remedy=REMEDY)
