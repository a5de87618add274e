"""A memory instance answers over real TLS: the generic agent, a recorded one, and none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from google.protobuf.empty_pb2 import Empty
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList

from peerpods.clouds.interface import CreateRequest
from peerpods.clouds.memory.faults import FaultPlan, Guest
from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.clouds.memory.replay import HEADER, RecordedAgent
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.errors import LinkError, LinkFailure
from peerpods.model import InstanceSpec, PodNetwork, TunnelKind
from peerpods.pki.contexts import client_context
from peerpods.pki.issue import SandboxKeys, issue
from peerpods.protocols import agent_pb2 as agent
from peerpods.protocols import health_pb2 as health
from peerpods.tls import connect_tls
from peerpods.ttrpc import Client, Code, StatusError, decode_request, decode_response
from peerpods.userdata import document
from peerpods.userdata.apf import ApfConfig

FIXTURES = Path(__file__).parents[2] / "fixtures"
NETWORK = PodNetwork(
    interface="eth0", mac="02:00:00:00:00:01", mtu=1450, addresses=("10.1.1.2/24",), node_address="10.0.0.1"
)


def order(keys: SandboxKeys, user_data: bytes | None = None) -> CreateRequest:
    apf = ApfConfig(
        pod_name="p",
        pod_namespace="n",
        server_key=keys.server_key,
        server_cert=keys.server_cert,
        client_ca=keys.client_cert,
        network=NETWORK,
        tunnel="none",
    )
    data = document(apf) if user_data is None else user_data
    return CreateRequest(token="t-1", name="podvm-p-1", spec=InstanceSpec(), user_data=data, tags={})


class Bench:
    """A provider, one instance, clients to it."""

    def __init__(self, **options: Any) -> None:
        self.keys = issue("podvm-p-1", datetime.now(UTC))
        self.provider = MemoryProvider(MemorySettings(), reactor, **options)
        self.clients: list[Client] = []

    async def boot(self) -> Any:
        return await self.provider.create(order(self.keys))

    async def client(self, instance: Any, keys: SandboxKeys | None = None) -> Client:
        ours = keys or self.keys
        context = client_context(self.keys.server_cert, ours.client_cert, ours.client_key)
        made = await connect_tls(
            reactor,
            instance.agent_host,
            instance.agent_port,
            context,
            "podvm-p-1",
            lambda: Client(reactor),
            5.0,
            None,
        )
        self.clients.append(made)
        return made

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        await self.provider.close_all()


@pytest_twisted.async_yield_fixture
async def bench() -> Any:
    made = Bench()
    yield made
    await made.close()


async def call(client: Client, method: str, request: Any, response: Any = Empty) -> Any:
    return await client.call("grpc.AgentService", method, request, response, timeout=5.0)


@pytest_twisted.ensureDeferred
async def test_an_instance_answers_health_over_tls(bench: Bench) -> None:
    instance = await bench.boot()
    assert instance.tunnel is TunnelKind.NONE
    client = await bench.client(instance)
    answer = await client.call("grpc.Health", "Check", health.CheckRequest(), health.HealthCheckResponse, timeout=5.0)
    assert answer.status == health.HealthCheckResponse.SERVING


@pytest_twisted.ensureDeferred
async def test_a_container_runs_prints_and_ends(bench: Bench) -> None:
    client = await bench.client(await bench.boot())
    spec = agent.CreateContainerRequest(container_id="c", exec_id="c")
    spec.OCI.Process.Args.extend(["/bin/echo", "hello", "pod"])
    await call(client, "CreateSandbox", agent.CreateSandboxRequest(sandbox_id="s"))
    await call(client, "CreateContainer", spec)
    await call(client, "StartContainer", agent.StartContainerRequest(container_id="c"))
    read = agent.ReadStreamRequest(container_id="c", exec_id="c", len=7)
    pieces = [(await call(client, "ReadStdout", read, agent.ReadStreamResponse)).data for _ in range(2)]
    assert pieces == [b"hello p", b"od\n"]
    with pytest.raises(StatusError) as caught:
        await call(client, "ReadStdout", read, agent.ReadStreamResponse)
    assert (caught.value.status.code, caught.value.status.message) == (int(Code.NOT_FOUND), "eof")
    wait = agent.WaitProcessRequest(container_id="c", exec_id="c")
    assert (await call(client, "WaitProcess", wait, agent.WaitProcessResponse)).status == 0


@pytest_twisted.ensureDeferred
async def test_stdin_goes_through_cat_and_a_signal_ends_what_idles(bench: Bench) -> None:
    client = await bench.client(await bench.boot())
    for name, words in (("cat", ["cat"]), ("pause", ["/pause"])):
        spec = agent.CreateContainerRequest(container_id=name, exec_id=name)
        spec.OCI.Process.Args.extend(words)
        await call(client, "CreateContainer", spec)
        await call(client, "StartContainer", agent.StartContainerRequest(container_id=name))
    reading = call(client, "ReadStdout", agent.ReadStreamRequest(container_id="cat"), agent.ReadStreamResponse)
    reading = Deferred.fromCoroutine(reading)
    write = agent.WriteStreamRequest(container_id="cat", data=b"in and out")
    assert (await call(client, "WriteStdin", write, agent.WriteStreamResponse)).len == 10
    assert (await reading).data == b"in and out"
    await call(client, "CloseStdin", agent.CloseStdinRequest(container_id="cat"))
    for name, status in (("cat", 0), ("pause", 143)):
        signal = agent.SignalProcessRequest(container_id=name, signal=15)
        await call(client, "SignalProcess", signal)
        wait = agent.WaitProcessRequest(container_id=name)
        assert (await call(client, "WaitProcess", wait, agent.WaitProcessResponse)).status == status


@pytest_twisted.ensureDeferred
async def test_another_sandboxs_client_is_not_served(bench: Bench) -> None:
    instance = await bench.boot()
    stranger = issue("podvm-p-1", datetime.now(UTC))
    with pytest.raises((LinkError, StatusError)):
        client = await bench.client(instance, stranger)
        await client.call("grpc.Health", "Check", health.CheckRequest(), health.HealthCheckResponse, timeout=5.0)


@pytest_twisted.ensureDeferred
async def test_death_of_an_instance_closes_its_connections(bench: Bench) -> None:
    instance = await bench.boot()
    client = await bench.client(instance)
    lost = client.when_lost()
    await bench.provider.die(instance.id)
    await lost.addTimeout(5, reactor)
    with pytest.raises(LinkError) as caught:
        await bench.client(instance)
    assert caught.value.kind is LinkFailure.REFUSED


@pytest_twisted.ensureDeferred
async def test_a_vm_that_never_boots_refuses() -> None:
    bench = Bench(faults=FaultPlan(guest=Guest.REFUSES))
    with pytest.raises(LinkError) as caught:
        await bench.client(await bench.boot())
    assert caught.value.kind is LinkFailure.REFUSED
    await bench.close()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_hangs_never_answers() -> None:
    bench = Bench(faults=FaultPlan(guest=Guest.SILENT))
    client = await bench.client(await bench.boot())
    with pytest.raises(StatusError) as caught:
        await client.call("grpc.Health", "Check", health.CheckRequest(), health.HealthCheckResponse, timeout=0.2)
    assert caught.value.status.code == Code.DEADLINE_EXCEEDED
    await bench.close()


@pytest.mark.parametrize("data", [b"", b"#cloud-config\nwrite_files: []\n"])
@pytest_twisted.ensureDeferred
async def test_user_data_without_keys_makes_a_vm_that_is_never_ready(data: bytes) -> None:
    bench = Bench()
    instance = await bench.provider.create(order(bench.keys, data))
    assert b"not ready: " in await bench.provider.console(instance.id)
    with pytest.raises(LinkError) as caught:
        await bench.client(instance)
    assert caught.value.kind is LinkFailure.REFUSED
    await bench.close()


@pytest.mark.parametrize("life", ["shim-normal-life", "shim-guest-pull"])
@pytest_twisted.ensureDeferred
async def test_a_recorded_life_gets_its_recorded_answers_in_order(life: str) -> None:
    lines = (FIXTURES / f"{life}.jsonl").read_text().splitlines()
    recorded = RecordedAgent(lines)
    bench = Bench(agent=recorded.script)
    client = await bench.client(await bench.boot())
    events = [e for line in lines if (e := json.loads(line))["peer"] == "agent" and "stream" in e]
    expected = {e["stream"]: bytes.fromhex(e["hex"])[HEADER:] for e in events if e["ev"] == "RES"}
    answered: list[int] = []
    pending = []
    frames = [e for e in events if e["ev"] == "FRAME"]
    for frame in frames:
        request = attrs.evolve(decode_request(bytes.fromhex(frame["hex"])[HEADER:]), timeout_nano=0)
        answer = client.forward(request)
        if frame["stream"] in expected:

            def check(response: Any, stream: int = frame["stream"]) -> None:
                assert response == decode_response(expected[stream])
                answered.append(stream)

            pending.append(answer.addCallback(check))
        else:
            answer.addErrback(lambda f: f.trap(StatusError))
    results = await DeferredList(pending).addTimeout(10, reactor)
    assert all(ok for ok, _ in results), [r for ok, r in results if not ok]
    assert answered == [e["stream"] for e in events if e["ev"] == "RES"]
    assert [c[1] for c in recorded.seen] == [decode_request(bytes.fromhex(f["hex"])[HEADER:]).method for f in frames]
    assert recorded.unknown == []
    await bench.close()
