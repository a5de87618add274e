"""The whole adaptor on real sockets, with the real relay and the provider `memory`; only the network is a fake."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock, deferLater

from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.adaptor.service import AdaptorService
from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.config.settings import AdaptorSettings, GuestSettings, RelaySettings
from peerpods.errors import ConfigError, LocalFailure
from peerpods.obs import log as obs_log
from peerpods.protocols import admin_pb2, health_pb2, podvminfo_pb2
from peerpods.protocols import hypervisor_pb2 as pb
from peerpods.relay.service import RelayService
from peerpods.ttrpc import StatusError, connect_client
from tests.adaptor.world import ID, FakeNetwork, FakeNode

SERVICE = "hypervisor.Hypervisor"
INITDATA = 'algorithm = "sha384"\nversion = "0.1.0"\n[data]\n"aa.toml" = "INITDATA-MARKER"\n'


class Idle:
    """A crash that never comes."""

    dead = False

    def step(self, _name: str) -> bool:
        return False


class Machine:
    """One node: a relay, an adaptor, a cloud in memory."""

    def __init__(self, **memory) -> None:
        self.root = tempfile.mkdtemp(prefix="pp-", dir="/tmp")
        self.pods = f"{self.root}/pods"
        self.netns = f"{self.root}/netns"
        Path(self.netns).touch()
        node = FakeNode(Clock())
        node.namespaces = {self.netns}
        self.node = node
        self.provider = MemoryProvider(MemorySettings(**memory), reactor)
        self.settings = AdaptorSettings(
            provider="memory",
            socket=f"{self.root}/hypervisor.sock",
            admin=f"{self.root}/admin.sock",
            pods_dir=self.pods,
            state_dir=f"{self.root}/state",
            relay=f"{self.root}/relay.sock",
            node="node-1",
        )
        self.relay = RelayService(RelaySettings(control=f"{self.root}/relay.sock", pods_dir=self.pods), reactor)
        self.adaptor = self.make()
        self.clients: list = []

    def make(self, guest: GuestSettings | None = None, **changes) -> AdaptorService:
        settings = attrs.evolve(self.settings, **changes)
        network = FakeNetwork(self.node, Idle())
        return AdaptorService(settings, guest or GuestSettings(), self.provider, reactor, network=network)

    async def up(self) -> None:
        await self.relay.startService()
        await self.adaptor.startService()

    async def down(self) -> None:
        for client in self.clients:
            await client.close()
        await self.adaptor.stopService()
        await self.relay.stopService()
        await self.provider.close_all()
        shutil.rmtree(self.root)

    async def dial(self, path: str | None = None):
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, path or self.settings.socket))
        self.clients.append(client)
        return client

    async def create(self, sandbox: str = ID, client=None, **annotations) -> str:
        client = client or await self.dial()
        request = pb.CreateVMRequest(
            id=sandbox,
            annotations={NAME: "web", NAMESPACE: "lab", **annotations},
            networkNamespacePath=self.netns,
        )
        answer = await client.call(SERVICE, "CreateVM", request, pb.CreateVMResponse)
        return answer.agentSocketPath

    async def start(self, sandbox: str = ID, client=None, timeout=60.0):
        client = client or await self.dial()
        await client.call(SERVICE, "StartVM", pb.StartVMRequest(id=sandbox), pb.StartVMResponse, timeout=timeout)

    async def stop(self, sandbox: str = ID):
        client = await self.dial()
        await client.call(SERVICE, "StopVM", pb.StopVMRequest(id=sandbox), pb.StopVMResponse, timeout=1.0)

    async def until(self, condition, seconds: float = 20.0) -> None:
        for _ in range(int(seconds / 0.02)):
            if condition():
                return
            await deferLater(reactor, 0.02)
        raise AssertionError("not within the time")

    def phase(self, sandbox: str = ID) -> str:
        return self.adaptor.runner.sandboxes[sandbox].phase.value


async def with_machine(test, **memory):
    machine = Machine(**memory)
    await machine.up()
    try:
        await test(machine)
    finally:
        await machine.down()


@pytest_twisted.ensureDeferred
async def test_create_start_talk_stop():
    lines: list = []

    async def play(machine: Machine) -> None:
        path = await machine.create(**{"io.katacontainers.config.hypervisor.cc_init_data": INITDATA})
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        await machine.start()
        agent = await machine.dial(path)
        check = await agent.call("grpc.Health", "Check", health_pb2.CheckRequest(), health_pb2.HealthCheckResponse)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        admin = await machine.dial(machine.settings.admin)
        ps = await admin.call("peerpods.v1.Admin", "Ps", admin_pb2.PsRequest(), admin_pb2.PsResponse)
        (shown,) = ps.sandboxes
        assert (shown.pod, shown.namespace, shown.state, shown.provider) == ("web", "lab", "running", "memory")
        assert shown.instance.startswith("mem-")
        inspect = await admin.call(
            "peerpods.v1.Admin", "Inspect", admin_pb2.InspectRequest(sandbox=ID[:6]), admin_pb2.InspectResponse
        )
        assert inspect.history[0].state == "prepared"
        assert inspect.history[-1].state == "running"
        assert set(inspect.phases) >= {"create_vm", "launch", "link"}
        for name in ("hypervisor.sock", "admin.sock"):
            assert stat.S_IMODE(os.stat(f"{machine.root}/{name}").st_mode) == 0o600
        for folder, _dirs, files in os.walk(machine.settings.state_dir):
            for name in files:
                assert not os.stat(os.path.join(folder, name)).st_mode & 0o077, name
        await machine.stop()
        await machine.until(lambda: machine.phase() == "gone")
        assert not machine.provider.store.records
        assert not os.listdir(machine.pods)

    sink = obs_log._State.sink
    obs_log.set_sink(lambda level, event, fields: lines.append((level, event, fields)))
    try:
        await with_machine(play)
    finally:
        obs_log.set_sink(sink)
    text = repr(lines)
    assert "ready" in text
    assert "MARKER" not in text
    assert "PRIVATE KEY" not in text
    named = [(event, fields) for _, event, fields in lines if fields["room"] == "adaptor" and "sandbox" in fields]
    assert {event for event, _ in named} >= {"sandbox_state", "instance_deleted"}
    for event, fields in named:
        assert (fields["sandbox"], fields["pod"], fields["namespace"]) == (ID, "web", "lab"), event
        assert fields.get("instance", "").startswith("mem-") or fields["state"] in ("prepared", "launching"), event


@pytest_twisted.ensureDeferred
async def test_a_lost_connection_deletes_the_vm_that_is_being_made():
    async def play(machine: Machine) -> None:
        await machine.create()
        client = await machine.dial()
        starting = machine.start(client=client)
        from peerpods.aio import spawn

        pending = spawn(starting)
        pending.addErrback(lambda _failure: None)
        await machine.until(lambda: machine.phase() == "booting")
        await client.close()
        await machine.until(lambda: machine.phase() == "gone")
        assert not machine.provider.store.records

    await with_machine(play, boot_delay=300.0)


@pytest_twisted.ensureDeferred
async def test_names_version_and_errors_on_the_wire():
    async def play(machine: Machine) -> None:
        client = await machine.dial()
        for name in (SERVICE, "remote.Hypervisor"):
            answer = await client.call(name, "Version", pb.VersionRequest(), pb.VersionResponse)
            assert answer.version == "0.0.0"
        with pytest.raises(StatusError) as caught:
            await machine.create("a/b")
        assert caught.value.status.code == 3
        with pytest.raises(StatusError) as caught:
            await machine.start("unknown")
        assert caught.value.status.code == 5
        await machine.stop("unknown")
        with pytest.raises(StatusError) as caught:
            await machine.create(**{NAME: ""})
        assert NAME in caught.value.status.message

    await with_machine(play)


@pytest_twisted.ensureDeferred
async def test_get_info_answers_waits_and_obeys_the_deadline():
    async def info(client, wait, timeout=None, pod="web"):
        request = podvminfo_pb2.GetInfoRequest(PodName=pod, PodNamespace="lab", Wait=wait)
        return await client.call(
            "podvminfo.PodVMInfo", "GetInfo", request, podvminfo_pb2.GetInfoResponse, timeout=timeout
        )

    async def play(machine: Machine) -> None:
        from peerpods.aio import spawn

        client = await machine.dial()
        await machine.create()
        with pytest.raises(StatusError) as caught:
            await info(client, wait=False)
        assert caught.value.status.code == 5
        with pytest.raises(StatusError) as caught:
            await info(client, wait=True, timeout=0.2)
        assert caught.value.status.code == 4
        waiting = spawn(info(client, wait=True, timeout=20))
        await machine.start()
        assert (await waiting).VMID.startswith("mem-")
        assert (await info(client, wait=False)).VMID.startswith("mem-")

    await with_machine(play)


@pytest_twisted.ensureDeferred
async def test_console_once_and_followed_to_the_end():
    async def play(machine: Machine) -> None:
        await machine.create()
        await machine.start()
        admin = await machine.dial(machine.settings.admin)
        for follow in (False, True):
            request = admin_pb2.ConsoleRequest(sandbox=ID[:8], follow=follow)
            stream = admin.stream("peerpods.v1.Admin", "Console", request, admin_pb2.ConsoleChunk, kind="server_stream")
            first = await stream.receive()
            assert b"listening on port" in first.data
            if follow:
                await machine.stop()
            while await stream.receive() is not None:
                pass
        with pytest.raises(StatusError) as caught:
            await admin.call(
                "peerpods.v1.Admin", "Inspect", admin_pb2.InspectRequest(sandbox="zz"), admin_pb2.InspectResponse
            )
        assert caught.value.status.code == 5

    await with_machine(play)


@pytest_twisted.ensureDeferred
async def test_a_living_adaptors_socket_or_state_is_refused_and_a_dead_ones_taken_over():
    machine = Machine()
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(machine.settings.socket)
    await machine.up()
    try:
        with pytest.raises(LocalFailure, match=r"state folder .* in use"):
            await machine.make(socket=f"{machine.root}/other.sock").startService()
        second = machine.make(state_dir=f"{machine.root}/state-2", admin=f"{machine.root}/admin-2")
        with pytest.raises(LocalFailure, match=r"hypervisor.sock .*in use"):
            await second.startService()
        await machine.create()
        await machine.start()
    finally:
        await machine.down()


@pytest_twisted.ensureDeferred
async def test_a_start_that_cannot_be_leaves_nothing_behind():
    machine = Machine()
    try:
        blocked = Path(machine.root) / "file"
        blocked.write_text("")
        with pytest.raises(LocalFailure, match="state folder"):
            await machine.make(state_dir=f"{blocked}/state").startService()
        guest = GuestSettings(auth_json=f"{machine.root}/none.json")
        with pytest.raises(ConfigError, match=r"auth-json: .*none.json cannot be read"):
            await machine.make(guest).startService()
        with pytest.raises(ConfigError, match="initdata"):
            await machine.make(GuestSettings(initdata="@@@")).startService()
        assert not os.path.exists(machine.settings.socket)
    finally:
        shutil.rmtree(machine.root)


@pytest_twisted.ensureDeferred
async def test_a_relay_that_restarts_ends_running_pods_and_serves_new_ones():
    async def play(machine: Machine) -> None:
        await machine.create()
        await machine.start()
        await machine.relay.stopService()
        machine.relay = RelayService(machine.relay.settings, reactor)
        await machine.relay.startService()
        await machine.until(lambda: machine.phase() == "gone")
        assert not machine.provider.store.records
        other = "b" * 64
        await machine.create(other)
        await machine.start(other)
        assert machine.phase(other) == "running"

    await with_machine(play)


@pytest_twisted.ensureDeferred
async def test_a_shim_that_vanishes_ends_its_pod_after_two_seconds():
    async def play(machine: Machine) -> None:
        path = await machine.create()
        await machine.start()
        agent = await machine.dial(path)
        await agent.call("grpc.Health", "Check", health_pb2.CheckRequest(), health_pb2.HealthCheckResponse)
        await agent.close()
        await deferLater(reactor, 1.0)
        assert machine.phase() == "running"
        await machine.until(lambda: machine.phase() == "gone")
        assert not machine.provider.store.records

    await with_machine(play)


@pytest_twisted.ensureDeferred
async def test_a_restarted_adaptor_goes_on_with_a_running_pod():
    async def play(machine: Machine) -> None:
        path = await machine.create()
        await machine.start()
        agent = await machine.dial(path)
        await machine.adaptor.stopService()
        check = health_pb2.CheckRequest(), health_pb2.HealthCheckResponse
        await agent.call("grpc.Health", "Check", *check)
        machine.adaptor = machine.make()
        await machine.adaptor.startService()
        assert machine.phase() == "running"
        await agent.call("grpc.Health", "Check", *check)
        await machine.start()
        await machine.stop()
        await machine.until(lambda: machine.phase() == "gone")

    await with_machine(play)
