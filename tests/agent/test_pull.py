"""Images pulled by the agent from a private registry on loopback, and the recorded guest-pull life with them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import pytest_twisted
from google.protobuf.empty_pb2 import Empty
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from peerpods.demo.registry import Registry, build_busybox_image
from peerpods.protocols import agent_pb2 as pb
from peerpods.ttrpc import Code, StatusError, connect_client
from tests.agent.world import Agent, recorded, recorded_container

pytestmark = pytest.mark.root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def registry(tmp_path):
    made = Registry(tmp_path / "registry")
    made.start("127.0.0.1", free_port())
    made.push(build_busybox_image(tmp_path, Path("/bin/busybox")), "demo/busybox:1")
    yield made
    made.stop()


def told(registries: str) -> str:
    """Shell words that write registries.json as the user-data reader does."""
    return f"mkdir -p /run/peerpod && printf %s '{registries}' > /run/peerpod/registries.json"


async def started(setup: str = "true") -> Agent:
    agent = await Agent(reactor, setup=setup).connect()
    await agent.sandbox()
    return agent


def pulling(container_id: str, reference: str, *args: str) -> pb.CreateContainerRequest:
    """The recorded request with another image and command, without the copied mounts."""
    request = recorded_container()
    request.container_id = request.exec_id = container_id
    request.storages[0].source = reference
    request.storages[0].mount_point = request.OCI.Root.Path = f"/run/kata-containers/{container_id}/rootfs"
    keep = [m for m in request.OCI.Mounts if not m.source.startswith("/run/kata-containers/shared/")]
    del request.OCI.Mounts[:]
    request.OCI.Mounts.extend(keep)
    request.OCI.Process.Args[:] = args
    return request


def test_the_image_is_the_same_bytes_each_time(tmp_path):
    first = build_busybox_image(tmp_path / "a", Path("/bin/busybox"))
    second = build_busybox_image(tmp_path / "b", Path("/bin/busybox"))
    assert (first / "index.json").read_bytes() == (second / "index.json").read_bytes()


@pytest_twisted.ensureDeferred
async def test_two_containers_of_one_image_write_apart(registry):
    agent = await started(told(f'{{"insecure": ["{registry.address}"]}}'))
    try:
        for name in ("one", "two"):
            script = f"ls /tmp; echo {name} > /tmp/mine; cat /tmp/mine; echo $0"
            await agent.call("CreateContainer", pulling(name, f"{registry.address}/demo/busybox:1", "sh", "-c", script))
            await agent.call("StartContainer", pb.StartContainerRequest(container_id=name))
            assert await agent.read_all(name) == f"{name}\nsh\n".encode()
            assert await agent.wait(name) == 0
        roots = list((agent.root / "run/peerpods-agent/images/roots").iterdir())
        assert len(roots) == 1
        registry.stop()
        await agent.remove("one")
        assert not (agent.root / "run/peerpods-agent/overlay/one").exists()
        assert not (agent.root / "run/kata-containers/one/rootfs").exists()
    finally:
        await agent.close()


@pytest_twisted.ensureDeferred
async def test_what_a_user_hears_when_there_is_no_image(registry):
    address = registry.address
    agent = await started(told(f'{{"insecure": ["{address}", "127.0.0.1:1"]}}'))
    try:
        for reference, words in [
            (f"{address}/demo/nothing:1", "manifest unknown"),
            (f"{address}/demo/busybox:nosuch", "manifest unknown"),
            ("127.0.0.1:1/demo/busybox:1", "connection refused"),
            (f"{address}/UPPER", "lowercase"),
        ]:
            code, text = await agent.refused("CreateContainer", pulling("c", reference, "true"))
            assert code == Code.INTERNAL
            assert text.startswith(f"cannot pull image {reference}: ")
            assert words in text, text
        # Nothing is left of the failures: the same id works.
        await agent.call("CreateContainer", pulling("c", f"{address}/demo/busybox:1", "true"))
    finally:
        await agent.close()


@pytest_twisted.ensureDeferred
async def test_plain_http_needs_to_be_allowed(registry):
    agent = await started()
    try:
        reference = f"{registry.address}/demo/busybox:1"
        _, text = await agent.refused("CreateContainer", pulling("c", reference, "true"))
        assert "server gave HTTP response to HTTPS client" in text
    finally:
        await agent.close()


@pytest_twisted.ensureDeferred
async def test_a_full_disk(registry):
    small = "mkdir -p /run/peerpods-agent && mount -t tmpfs -o size=2m tmpfs /run/peerpods-agent"
    agent = await started(small + " && " + told(f'{{"insecure": ["{registry.address}"]}}'))
    try:
        reference = f"{registry.address}/demo/busybox:1"
        code, text = await agent.refused("CreateContainer", pulling("c", reference, "true"))
        assert code == Code.INTERNAL and "no room for image" in text and "MiB free" in text
    finally:
        await agent.close()


@pytest_twisted.ensureDeferred
async def test_a_registry_that_never_answers(registry):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        agent = await started(told(f'{{"insecure": ["{registry.address}", "127.0.0.1:{port}"]}}'))
        try:
            request = pulling("c", f"127.0.0.1:{port}/x:1", "true")
            with pytest.raises(StatusError, match="was not there in time") as caught:
                await agent.call("CreateContainer", request, timeout=2.5)
            assert caught.value.status.code == Code.INTERNAL
            # A caller that goes away in the middle leaves nothing either.
            other = await connect_client(reactor, UNIXClientEndpoint(reactor, str(agent.socket)), timeout=5)
            abandoned = other.call("grpc.AgentService", "CreateContainer", request, Empty, timeout=60)
            silent.settimeout(20)
            (await deferToThread(silent.accept))[0].close()  # the first try's
            connection, _ = await deferToThread(silent.accept)
            await other.close()
            with pytest.raises(StatusError):
                await abandoned
            good = pulling("c", f"{registry.address}/demo/busybox:1", "true")
            for _ in range(100):
                code, _ = await outcome(agent, good)
                if code == Code.OK:
                    break
                assert code == Code.ALREADY_EXISTS
                await deferLater(reactor, 0.05)
            assert code == Code.OK
            connection.close()
        finally:
            await agent.close()


async def outcome(agent: Agent, request: pb.CreateContainerRequest) -> tuple[int, str]:
    try:
        await agent.call("CreateContainer", request)
    except StatusError as error:
        return error.status.code, error.status.message
    return Code.OK, ""


@pytest_twisted.ensureDeferred
async def test_the_recorded_guest_pull_life(registry):
    """The real shim's calls in their order, with the image's name pointed at our registry."""
    agent = await Agent(reactor, setup=told(f'{{"insecure": ["{registry.address}"]}}')).connect()
    parse = {
        "CreateSandbox": pb.CreateSandboxRequest,
        "GetGuestDetails": pb.GuestDetailsRequest,
        "CopyFile": pb.CopyFileRequest,
        "CreateContainer": pb.CreateContainerRequest,
        "StartContainer": pb.StartContainerRequest,
        "GetOOMEvent": pb.GetOOMEventRequest,
        "WaitProcess": pb.WaitProcessRequest,
        "ReadStdout": pb.ReadStreamRequest,
        "ReadStderr": pb.ReadStreamRequest,
        "SignalProcess": pb.SignalProcessRequest,
        "RemoveContainer": pb.RemoveContainerRequest,
        "RemoveStaleVirtiofsShareMounts": pb.RemoveStaleVirtiofsShareMountsRequest,
        "DestroySandbox": pb.DestroySandboxRequest,
    }
    standing: dict[str, list[Deferred[object]]] = {}
    statuses: list[int] = []
    output = b""
    played = 0
    try:
        for service, method, payload in recorded("shim-guest-pull.jsonl"):
            if service != "grpc.AgentService":
                continue
            request = parse[method].FromString(payload)
            if method == "CreateContainer" and request.storages[0].source != "pause":
                request.storages[0].source = f"{registry.address}/demo/busybox:1"
            answer = agent.call(method, request, timeout=30)
            if method in ("GetOOMEvent", "ReadStderr") or (method == "WaitProcess" and not statuses and not output):
                standing.setdefault(method, []).append(answer)
            elif method == "ReadStdout" and output:
                standing.setdefault(method, []).append(answer)
            else:
                result = await answer
                if method == "WaitProcess":
                    statuses.append(result.status)
                elif method == "ReadStdout":
                    output += result.data
            played += 1
        assert output == b"hi\n"
        assert [(await s).data for s in standing["ReadStderr"] + standing["ReadStdout"]] == [b"", b""]
        assert (await standing["WaitProcess"][0]).status == 137
        assert statuses == [137, 137, 137]
        with pytest.raises(StatusError):
            await standing["GetOOMEvent"][0]
        assert played == 29
    finally:
        await agent.close()
