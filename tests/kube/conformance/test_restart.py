"""What clients meet when the API server ends and comes back."""

from __future__ import annotations

import os
import signal
import socket
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from peerpods.kube.objects import resources as r
from tests.kube.cluster import RealCluster
from tests.kube.conformance.api import Api
from tests.kube.conformance.gadgets import config_map

MAPS = r.CONFIG_MAPS


@pytest_twisted.ensureDeferred
async def test_after_a_kill_the_last_version_cannot_be_resumed(api: Api) -> None:
    made = await api.made(MAPS, config_map("a"))
    watch = await api.watch(MAPS, resourceVersion=made.version)
    await api.made(MAPS, config_map("b"))
    assert await watch.take(1) == [("ADDED", "b")]
    last = (await api.call("GET", api.path(MAPS))).meta["resourceVersion"]
    await api.made(r.SECRETS, {"metadata": {"name": "later"}})
    await api.restart()
    assert await watch.next() is None, "the watch ended"
    again = await api.watch(MAPS, resourceVersion=last)
    assert again.code == 200
    event = await again.next()
    assert event and event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert await again.next() is None, "closed"
    listed = await api.call("GET", api.path(MAPS))
    assert {"a", "b"} <= {each["metadata"]["name"] for each in listed.body["items"]}
    assert int(listed.version) >= int(last), "versions go on"
    onward = await api.watch(MAPS, resourceVersion=listed.version)
    await api.delete(MAPS, "a")
    assert await onward.take(1) == [("DELETED", "a")]


def _refuses(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), 1).close()
    except OSError:
        return True
    return False


@pytest.mark.kube
@pytest_twisted.ensureDeferred
async def test_a_server_that_ends_in_order_serves_its_watches_on(
    cluster: RealCluster, our_crds: None, namespace: str
) -> None:
    api = Api(cluster.host, token=cluster.token, ca_file=cluster.ca_file)
    api.cluster, api.namespace = cluster, namespace
    made = await api.made(MAPS, config_map("a"))
    old = cluster.pids["kube-apiserver"]
    watch = await api.watch(MAPS, resourceVersion=made.version)
    os.kill(old, signal.SIGTERM)
    try:
        await api.until(lambda: deferToThread(_refuses, api.url))
        await deferToThread(cluster.start_apiserver)
        await api.made(MAPS, config_map("b"))
        assert _alive(old), "it waits for the watch"
        assert await watch.take(1) == [("ADDED", "b")], "which still tells what the new server wrote"
    finally:  # other watches, those of controllers, hold it for a minute
        api.close()
        if _alive(old):
            os.kill(old, signal.SIGKILL)
        if "kube-apiserver" not in cluster.pids:
            await deferToThread(cluster.start_apiserver)


def _alive(pid: int) -> bool:
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
