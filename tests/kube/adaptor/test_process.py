"""The adaptor as a process on a real API server, killed with the API server away; a real network namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater

from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.cli.node import Node
from peerpods.kube.objects import resources as r
from peerpods.protocols import hypervisor_pb2 as pb
from peerpods.ttrpc import connect_client
from tests.kube.adaptor.test_real import install_account, install_crd

pytestmark = pytest.mark.root
ID = "f" * 64


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"pp-test-{int(time.time() * 1000) % 10**8}"
    command = [sys.executable, "-m", "peerpods.cli.podns"]
    made = subprocess.run([*command, "add", name], capture_output=True, text=True, check=True)
    yield made.stdout.strip()
    subprocess.run([*command, "remove", name], check=True)


@pytest.fixture
def node(cluster, namespace) -> Iterator[Node]:
    install_crd(cluster)
    kubeconfig = install_account(cluster, namespace)
    cluster.create_node("worker-" + namespace)
    extra = (
        "--kubernetes=on",
        f"--kubeconfig={kubeconfig}",
        f"--node=worker-{namespace}",
        "--slow-after=1s",
        "--boot-delay=2s",
    )
    made = Node.make("memory", extra=extra)
    made.start()
    yield made
    made.stop()


async def call(node: Node, method: str, request, response):
    client = await connect_client(reactor, UNIXClientEndpoint(reactor, node.socket))
    try:
        return await client.call("hypervisor.Hypervisor", method, request, response, timeout=60.0)
    finally:
        await client.close()


async def until(condition, seconds: float = 90.0) -> None:
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        await deferLater(reactor, 0.1)
    raise AssertionError("not within the time")


@pytest_twisted.ensureDeferred
async def test_a_life_with_a_kill_and_an_outage_in_it(cluster, namespace, node, netns):
    def phases() -> list[str]:
        items = cluster.must("GET", r.PEER_PODS.path(namespace))["items"]
        return [one.get("status", {}).get("phase", "") for one in items]

    def reasons() -> set[str]:
        items = cluster.must("GET", r.EVENTS.path(namespace))["items"]
        return {one["reason"] for one in items if one["regarding"]["name"] == "web"}

    containers = [{"name": "c", "image": "i"}]
    spec = {"nodeName": f"worker-{namespace}", "containers": containers}
    pod = cluster.must("POST", r.PODS.path(namespace), {"metadata": {"name": "web"}, "spec": spec})
    facts = {NAME: "web", NAMESPACE: namespace}
    create = pb.CreateVMRequest(id=ID, annotations=facts, networkNamespacePath=netns)
    await call(node, "CreateVM", create, pb.CreateVMResponse)
    await call(node, "StartVM", pb.StartVMRequest(id=ID), pb.StartVMResponse)
    await until(lambda: phases() == ["Running"])
    await until(lambda: {"PeerPodLaunching", "PeerPodSlow", "PeerPodReady"} <= reasons())
    (obj,) = cluster.must("GET", r.PEER_PODS.path(namespace))["items"]
    assert obj["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]

    # The API server goes; the adaptor is killed, starts without it, and the pod ends meanwhile.
    cluster.stop_apiserver(kill=True)
    node.adaptor.kill()
    node.start_adaptor()
    await call(node, "StopVM", pb.StopVMRequest(id=ID), pb.StopVMResponse)
    await deferLater(reactor, 1)
    assert node.adaptor.process.poll() is None
    cluster.start_apiserver()
    try:
        await until(lambda: phases() == [])
    except AssertionError:
        raise AssertionError(f"{phases()}\n{node.adaptor.log.read_text()[-8000:]}") from None


def doctor(kubeconfig) -> dict:
    command = [sys.executable, "-m", "peerpods.cli.main", "doctor", "--json", f"--kubeconfig={kubeconfig}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(one for one in json.loads(done.stdout) if one["check"] == "kubernetes")


def test_doctor_names_what_is_not_allowed(cluster, namespace, tmp_path):
    install_crd(cluster)
    assert doctor(install_account(cluster, namespace))["result"] == "ok"
    found = doctor(cluster.kubeconfig("nobody"))
    assert found["result"] == "failed"
    assert "watch on pods" in found["found"]
    assert "patch on peerpods/status.confidentialcontainers.org" in found["found"]
    absent = doctor(tmp_path / "absent")
    assert absent["result"] == "failed"
    assert "absent" in absent["found"]
