"""The whole forwarder on loopback: TLS, links, agent, refusals, reconnects, restarts."""

import datetime
import stat

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory, Protocol

from peerpods.errors import ConfigError, GuestError, LocalFailure
from peerpods.forwarder.paths import SHARED
from peerpods.obs import ready
from peerpods.pki.issue import issue
from peerpods.protocols import agent_pb2, health_pb2
from peerpods.ttrpc import Code, FrameDecoder, Request, Response, Server, StatusError, decode_request, encode_frame
from peerpods.ttrpc.unix import listen_unix
from tests.forwarder.recorded import LIVES, frames, requests
from tests.forwarder.test_guard import container, copyfile, of, policy, sandbox
from tests.forwarder.test_rewrite import namespaces
from tests.forwarder.test_told import TOLD, initdata
from tests.forwarder.world import status, until

AGENT = "grpc.AgentService"
ensure = pytest_twisted.ensureDeferred


def reactor():
    from twisted.internet import reactor as installed

    return installed


async def fails(call, code, *words):
    with pytest.raises(StatusError) as error:
        await call
    assert error.value.code == code, error.value
    assert all(word in str(error.value) for word in words), error.value


def ask(client, method, payload=b"", timeout=10.0):
    return client.call_raw(AGENT, method, payload, timeout=timeout)


@ensure
async def test_calls_go_through_and_come_back(world):
    await world.agent.listen()
    world.start()
    assert ready.is_ready(["forwarder"])
    assert world.built == [(TOLD, "/run/netns/podns")]
    client = await world.connect()
    world.agent.answers["Check"] = Response(None, health_pb2.HealthCheckResponse(status=1).SerializeToString())
    answer = await client.call("grpc.Health", "Check", health_pb2.CheckRequest(), health_pb2.HealthCheckResponse)
    assert answer.status == 1
    await ask(client, "SetPolicy", policy())
    await ask(client, "CreateSandbox", sandbox())
    await ask(client, "CopyFile", copyfile())
    await ask(client, "CreateContainer", container("c", "/var/lib/kubelet/pods/u/v", "/etc/x"))
    await ask(client, "StartContainer", of())
    world.agent.answers["WaitProcess"] = status(5, "process not found")
    await fails(ask(client, "WaitProcess"), 5, "process not found")
    await ask(client, "DestroySandbox")
    assert world.agent.methods() == (
        "Check SetPolicy CreateSandbox CopyFile CreateContainer StartContainer WaitProcess DestroySandbox".split()
    )
    sent = world.agent.seen
    assert agent_pb2.CreateSandboxRequest.FromString(sent[2].payload).dns == []
    assert namespaces(sent[4].payload) == [("network", "/run/netns/podns")]
    made = world.folder / "var/lib/kubelet/pods/u/v"
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert not (world.folder / "etc").exists()


@ensure
async def test_refusals_never_reach_the_agent(world):
    await world.agent.listen()
    world.start()
    client = await world.connect()
    await fails(ask(client, "ReseedRandomDev"), Code.PERMISSION_DENIED, "ReseedRandomDev")
    await fails(ask(client, "CreateContainer", container()), Code.FAILED_PRECONDITION)
    await fails(client.call_raw("grpc.Other", "X", b""), Code.PERMISSION_DENIED)
    await ask(client, "CreateSandbox", sandbox())
    await fails(ask(client, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION)
    assert world.agent.methods() == ["CreateSandbox"]


@ensure
async def test_a_link_on_the_disk_that_nobody_copied_is_seen(world):
    await world.agent.listen()
    world.start()
    shared = world.folder / SHARED.lstrip("/")
    shared.mkdir(parents=True)
    (shared / "evil").symlink_to(world.folder)
    client = await world.connect()
    await ask(client, "CreateSandbox", sandbox())
    await fails(ask(client, "CopyFile", copyfile("evil/x")), Code.PERMISSION_DENIED, "not a folder")
    await ask(client, "CreateContainer", container("c", f"{SHARED}/evil/made"))
    assert not (world.folder / "made").exists()
    assert world.agent.methods() == ["CreateSandbox", "CreateContainer"]


@ensure
async def test_policy_from_initdata_refuses_set_policy(world):
    await world.agent.listen()
    initdata(world.folder, 'algorithm = "sha256"\nversion = "0.1.0"\n[data]\n"policy.rego" = "p"\n')
    world.start()
    client = await world.connect()
    await fails(ask(client, "SetPolicy", policy()), Code.PERMISSION_DENIED, "initdata")


@ensure
async def test_a_stranger_is_not_served(world):
    await world.agent.listen()
    world.start()
    stranger = issue("podvm-web-12345678", datetime.datetime.now(datetime.UTC))
    lost = Deferred()

    class Hopeful(Protocol):
        def connectionMade(self):
            self.transport.write(encode_frame(1, 1, 0, Request("grpc.Health", "Check").encode()))

        def dataReceived(self, data):
            lost.callback(data)

        def connectionLost(self, reason):
            if not lost.called:
                lost.callback(None)

    await world.connect(stranger, Hopeful)
    assert await lost is None
    assert world.agent.seen == []


@ensure
async def test_two_connections_and_no_third(world):
    await world.agent.listen()
    world.start()
    first, second = await world.connect(), await world.connect()
    await ask(first, "GetMetrics")
    await ask(second, "GetMetrics")
    third = await world.connect()
    await third.when_lost()
    await ask(first, "GetMetrics")
    await first.close()
    await until(lambda: len(world.service._links) == 1)
    fourth = await world.connect()
    await ask(fourth, "GetMetrics")


@ensure
async def test_the_state_is_one_for_all_connections(world):
    await world.agent.listen()
    world.start()
    first, second = await world.connect(), await world.connect()
    await ask(first, "CreateSandbox", sandbox())
    await fails(ask(second, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION)
    await ask(second, "CreateContainer", container())


@ensure
async def test_the_1025th_call_over_the_wire(world):
    await world.agent.listen()
    world.agent.answers["WaitProcess"] = Deferred
    world.start()
    client = await world.connect()
    calls = [ask(client, "WaitProcess", timeout=None) for _ in range(1024)]
    await fails(ask(client, "GetMetrics"), Code.RESOURCE_EXHAUSTED, "1024")
    for call in calls:
        call.addErrback(lambda _: None)
        call.cancel()


@ensure
async def test_calls_wait_for_an_agent_that_comes_later(world):
    world.start()
    client = await world.connect()
    early = [ask(client, "GetMetrics"), ask(client, "GetGuestDetails")]
    await fails(client.call_raw("grpc.Health", "Check", b"", timeout=0.05), Code.DEADLINE_EXCEEDED)
    await world.agent.listen()
    results = await DeferredList(early)
    assert [good for good, _ in results] == [True, True]
    assert world.agent.methods()[:2] == ["GetMetrics", "GetGuestDetails"]


@ensure
async def test_an_agent_that_goes_and_comes_back(world):
    await world.agent.listen()
    world.agent.answers["WaitProcess"] = Deferred
    world.start()
    client = await world.connect()
    waiting = ask(client, "WaitProcess", timeout=None)
    await until(lambda: world.agent.seen)
    await world.agent.stop()
    await fails(waiting, Code.UNAVAILABLE, "agent", "closed")
    later = ask(client, "GetMetrics")
    await world.agent.listen()
    await later
    assert world.agent.methods() == ["WaitProcess", "GetMetrics"]


@ensure
async def test_a_client_that_goes_leaves_the_sandbox_in_a_known_state(world):
    await world.agent.listen()
    world.agent.answers["CreateSandbox"] = slow = Deferred()
    world.start()
    first = await world.connect()
    ask(first, "CreateSandbox", sandbox()).addErrback(lambda _: None)
    await until(lambda: world.agent.seen)
    first.transport.abortConnection()
    await first.when_lost()
    await until(lambda: all(link.lost for link in world.service._links))
    slow.callback(Response())
    await until(lambda: not world.service._links)
    second = await world.connect()
    await fails(ask(second, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION)
    await ask(second, "CreateContainer", container())


@ensure
async def test_a_client_that_goes_abandons_its_calls_at_the_agent(world):
    await world.agent.listen()
    cancelled = Deferred()
    world.agent.answers["WaitProcess"] = Deferred(lambda _: cancelled.callback(None))
    world.agent.answers["WaitProcess"].addErrback(lambda _: Response())
    world.start()
    client = await world.connect()
    ask(client, "WaitProcess", timeout=None).addErrback(lambda _: None)
    await until(lambda: world.agent.seen)
    await client.close()
    await cancelled


class Raw(Protocol):
    def __init__(self):
        self.data = b""
        self.lost = Deferred()

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.lost.callback(None)


@ensure
async def test_malformed_frames_harm_nobody_else(world):
    await world.agent.listen()
    world.start()
    good = await world.connect()
    bad = await world.connect(factory=Raw)
    for frame in (
        encode_frame(4, 1, 0, b""),
        encode_frame(1, 1, 0, b"\xff\xff"),
        encode_frame(3, 9, 9, b"x"),
        encode_frame(5, 3, 0, b"stray"),
        b"\xff\xff\xff\xff" + bytes(6),
        bytes(100_000),
    ):
        bad.transport.write(frame)
    await ask(good, "GetMetrics")
    await until(lambda: len(bad.data) > 60)
    bad.transport.write(encode_frame(7, 1, 0, b"")[:4])
    bad.transport.abortConnection()
    await bad.lost
    await ask(good, "GetMetrics")


@ensure
async def test_big_answers_to_a_reader_that_sleeps_do_not_pile_up(world):
    await world.agent.listen()
    world.agent.answers["ReadStdout"] = Response(None, bytes(1 << 20))
    world.start()
    reader = await world.connect(factory=Raw)
    reader.transport.pauseProducing()
    body = Request(AGENT, "ReadStdout").encode()
    for number in range(32):
        reader.transport.write(encode_frame(2 * number + 1, 1, 0, body))
    await until(lambda: world.service._links)
    (link,) = world.service._links
    await until(lambda: "client" in link._holds)
    assert link.transport.queued < 4 << 20
    reader.transport.resumeProducing()
    await until(lambda: len(reader.data) >= 32 << 20)
    assert link._holds == set()


@ensure
async def test_an_agent_that_does_not_read_stops_the_client_not_the_memory(world):
    agent = RawAgent()
    world.agent.port = await listen_unix(reactor(), world.agent.path, Factory.forProtocol(lambda: agent))
    world.agent.server = Server(reactor(), [])
    world.start()
    client = await world.connect(factory=Raw)
    body = Request(AGENT, "WriteStdin", bytes(1 << 20)).encode()
    client.transport.write(encode_frame(1, 1, 0, body))
    await until(lambda: agent.frames)
    agent.transport.pauseProducing()
    for number in range(1, 33):
        client.transport.write(encode_frame(2 * number + 1, 1, 0, body))
    (link,) = world.service._links
    await until(lambda: "agent" in link._holds)
    assert link.agent.transport.queued < 4 << 20
    agent.transport.resumeProducing()
    await until(lambda: len(agent.frames) == 33)
    assert link._holds == set()


@ensure
async def test_a_restarted_forwarder_guards_on(world):
    await world.agent.listen()
    world.start()
    client = await world.connect()
    await ask(client, "CreateSandbox", sandbox())
    await ask(client, "CreateContainer", container())
    await world.service.stopService()
    assert not ready.is_ready(["forwarder"])
    world.start()
    client = await world.connect()
    await fails(ask(client, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION)
    await ask(client, "StartContainer", of())


class RawAgent(Protocol):
    """Takes frames apart and answers when told."""

    def __init__(self):
        self.decoder, self.frames = FrameDecoder(), []

    def dataReceived(self, data):
        self.frames += self.decoder.feed(data)


@pytest.mark.parametrize("life", LIVES)
@ensure
async def test_a_recorded_life_over_the_wire(world, life):
    agent = RawAgent()
    world.agent.port = await listen_unix(reactor(), world.agent.path, Factory.forProtocol(lambda: agent))
    world.agent.server = Server(reactor(), [])
    world.start()
    client = await world.connect(factory=Raw)
    ours, calls = {}, 0
    for is_request, frame in frames(life):
        if is_request:
            client.transport.write(frame)
            calls += 1
            await until(lambda: len(agent.frames) == calls)
            ours[frame[4:8]] = agent.frames[-1].stream
        elif frame[4:8] in ours:
            answer = frame[:4] + ours[frame[4:8]].to_bytes(4, "big") + frame[8:]
            agent.transport.write(answer)
            await until(lambda: len(client.data) >= len(frame))
            assert client.data == frame
            client.data = b""
    assert calls > 20
    assert [decode_request(frame.body).method for frame in agent.frames] == [method for method, _ in requests(life)]


# What it will not start with


@pytest.mark.parametrize("missing", ["client_ca", "server_key", "server_cert"])
def test_no_certificate_to_expect_no_start(world, missing):
    world.told(attrs.evolve(TOLD, **{missing: ""}))
    with pytest.raises(ConfigError, match="tls-"):
        world.make().startService()
    assert world.built == []


def test_no_file_no_start(world):
    with pytest.raises(ConfigError, match="cannot read"):
        world.make().startService()


def test_no_network_no_listening(world):
    def fail(apf, path):
        raise GuestError("no device")

    world.told()
    service = world.make(build_network=fail)
    with pytest.raises(GuestError, match="no device"):
        service.startService()
    assert service.port is None
    assert not ready.is_ready(["forwarder"])


def test_a_port_in_use_is_named(world):
    world.start()
    with pytest.raises(LocalFailure, match=f"127.0.0.1:{world.port}"):
        world.make(listen=f"127.0.0.1:{world.port}").startService()


@pytest.mark.parametrize("listen", ["here", "1.2.3.4:", "1.2.3.4:99999"])
def test_a_wrong_address_is_named(world, listen):
    world.told()
    with pytest.raises(ConfigError, match="listen"):
        world.make(listen=listen).startService()


def test_ipv6_is_listened_on(world):
    world.start(listen="[::1]:0")
    assert world.service.port.getHost().host == "::1"


def test_built_takes_a_namespace_only_where_one_is_mounted(tmp_path):
    """An empty file is what a unit that failed half-way leaves."""
    from peerpods.forwarder.service import expect_network

    place = tmp_path / "podns"
    for _ in range(2):
        with pytest.raises(GuestError, match="no network namespace"):
            expect_network(None, str(place))
        place.touch()


@pytest.mark.root
def test_built_is_content_with_a_mounted_namespace(tmp_path):
    import subprocess
    import sys

    script = (
        "import sys; from pathlib import Path; from peerpods.podnet.building import make_namespace;"
        "from peerpods.forwarder.service import expect_network;"
        "make_namespace(sys.argv[1]); expect_network(None, sys.argv[1])"
    )
    command = ["unshare", "--mount", sys.executable, "-c", script, str(tmp_path / "podns")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_option_decides_who_makes_the_network():
    from peerpods.config.settings import ForwarderSettings
    from peerpods.forwarder import service

    made = service.make_service(ForwarderSettings(pod_network="built"), None)
    assert made._build_network is service.expect_network
    assert service.make_service(ForwarderSettings(), None)._build_network is service.build_network
