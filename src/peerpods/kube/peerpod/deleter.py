"""Deletes what the cloud has of one PeerPod: by the id it names, by its token, and by its tags."""

from __future__ import annotations

from peerpods.errors import CloudError, CloudFailure
from peerpods.kube.objects.peerpod import PeerPodView
from peerpods.kube.peerpod.deletion import is_foreign, tagged, tags_of
from peerpods.kube.peerpod.providers import Cloud
from peerpods.model import Instance
from peerpods.obs.log import get_logger

LOOK_TIMEOUT, DELETE_TIMEOUT = 30.0, 120.0
"""Seconds for one call that reads, and for one that deletes."""
log = get_logger("peerpod-ctrl")


async def delete_instance(cloud: Cloud, instance_id: str) -> None:
    """Delete one instance; returns when it is gone, also when it was so before.

    Raises:
        CloudError, DeadlineExceeded: when it may still be there.
    """
    try:
        await cloud.call("delete", cloud.provider.delete(instance_id), DELETE_TIMEOUT)
    except CloudError as error:
        if error.kind is not CloudFailure.NOT_FOUND:
            raise


async def describe(cloud: Cloud, instance_id: str) -> Instance | None:
    """The instance, or None when the cloud does not know it."""
    try:
        return await cloud.call("describe", cloud.provider.describe(instance_id), LOOK_TIMEOUT)
    except CloudError as error:
        if error.kind is CloudFailure.NOT_FOUND:
            return None
        raise


async def delete_all(cloud: Cloud, view: PeerPodView, cluster: str) -> str:
    """Delete every instance of a PeerPod. Idempotent; ends well only when nothing of it was left.

    Returns:
        The id that the object names, when that instance is another's and was left alone; else "".

    Raises:
        CloudError, DeadlineExceeded: when something may be left.
    """
    foreign = ""
    doomed: list[str] = []
    if view.instance_id:
        found = await describe(cloud, view.instance_id)
        if found is not None and is_foreign(view, found, cluster):
            foreign = view.instance_id
        else:
            doomed.append(view.instance_id)  # also when unknown: disks or addresses of it may be left
    wanted = tags_of(view, cluster)
    if wanted:
        listed = await cloud.call("list", cloud.provider.list(wanted), LOOK_TIMEOUT)
        doomed += [one.id for one in tagged(listed, wanted) if not is_foreign(view, one, cluster)]
    if view.token:
        one = await cloud.call("find", cloud.provider.find(view.token), LOOK_TIMEOUT)
        if one is not None and not is_foreign(view, one, cluster):
            doomed.append(one.id)
    for instance_id in dict.fromkeys(doomed):
        await delete_instance(cloud, instance_id)
        log.info("instance_deleted", instance=instance_id, sandbox=view.sandbox, peer_pod=view.key)
    return foreign
