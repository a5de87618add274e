"""The relay as the adaptor sees it: through its control socket."""

import os
import shutil
import stat
import tempfile

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater

from peerpods.config.settings import RelaySettings
from peerpods.errors import LocalFailure
from peerpods.obs import log, metrics, ready
from peerpods.protocols import relay_pb2 as pb
from peerpods.relay.service import CallCounter, make_service
from peerpods.relay.watch import Watchers
from peerpods.ttrpc import Code, StatusError, connect_client
from tests.relay.peer import ID, KEYS, OTHER, Vm

RELAY = "peerpods.v1.Relay"


class World:
    """A relay service in a folder of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="pp", dir="/tmp")
        self.settings = RelaySettings(control=f"{self.folder}/relay.sock", pods_dir=f"{self.folder}/pods")
        self.ends = []

    async def start(self):
        service = make_service(self.settings, reactor)
        await service.startService()
        self.ends.append(service.stopService)
        return service

    async def client(self, path=None):
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, path or self.settings.control), timeout=5)
        self.ends.append(client.close)
        return client

    def vm(self):
        vm = Vm()
        vm.answer = vm.echo
        self.ends.append(vm.stop)
        return vm

    async def end(self):
        for step in reversed(self.ends):
            await step()
        shutil.rmtree(self.folder)


@pytest.fixture
def world():
    world = World()
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.end()))


def opening(keys=KEYS, sandbox=ID):
    return pb.OpenRequest(
        sandbox=sandbox,
        server_name=keys.server_name,
        server_ca=keys.server_ca,
        client_cert=keys.client_cert,
        client_key=keys.client_key,
    )


@pytest_twisted.ensureDeferred
async def test_whole_life_with_a_watch(world):
    lines = []
    before, log._State.sink = log._State.sink, staticmethod(lambda *line: lines.append(repr(line)))
    try:
        service = await world.start()
        assert ready.is_ready(["relay"])
        assert stat.S_IMODE(os.stat(world.settings.control).st_mode) == 0o600
        control = await world.client()
        watch = control.stream(RELAY, "Watch", pb.WatchRequest(), pb.WatchEvent, kind="server_stream")
        assert (await watch.receive()).kind == pb.WatchEvent.READY
        vm = world.vm()
        socket = (await control.call(RELAY, "Open", opening(), pb.OpenResponse, timeout=5)).agent_socket
        linking = pb.LinkRequest(sandbox=ID, host="127.0.0.1", port=vm.number)
        assert (await control.call(RELAY, "Link", linking, pb.LinkResponse, timeout=5)).up
        shim = await world.client(socket)
        assert await shim.call_raw("grpc.AgentService", "Echo", b"hi") == b"hi"
        (one,) = (await control.call(RELAY, "List", pb.ListRequest(), pb.ListResponse, timeout=5)).sandboxes
        assert (one.sandbox, one.up, one.port, one.active_connections) == (ID, True, vm.number, 1)
        await control.call(RELAY, "Close", pb.CloseRequest(sandbox=ID), pb.CloseResponse, timeout=5)
        events = [await watch.receive() for _ in range(5)]
        kinds = [pb.WatchEvent.Kind.Name(event.kind) for event in events]
        assert kinds == ["LINK_UP", "SHIM_CONNECTED", "SHIM_ACTIVE", "LINK_DOWN", "SHIM_GONE"]
        assert events[3].failure == pb.CLOSED
        assert events[4].by_relay and events[4].active and events[4].connection == events[1].connection
        await service.stopService()
        world.ends.remove(service.stopService)
        assert not ready.is_ready(["relay"])
        assert not os.path.exists(world.settings.control)
    finally:
        log._State.sink = staticmethod(before)
    text = "\n".join(lines)
    assert ID in text
    assert "PRIVATE" not in text and "CERTIFICATE" not in text


@pytest_twisted.ensureDeferred
async def test_errors_come_as_codes(world):
    await world.start()
    control = await world.client()
    cases = [
        ("Open", opening(sandbox=""), pb.OpenResponse, Code.INVALID_ARGUMENT),
        ("Open", opening(sandbox="../up"), pb.OpenResponse, Code.INVALID_ARGUMENT),
        ("Open", pb.OpenRequest(sandbox=ID), pb.OpenResponse, Code.INVALID_ARGUMENT),
        ("Link", pb.LinkRequest(sandbox=ID, host="127.0.0.1", port=1), pb.LinkResponse, Code.NOT_FOUND),
    ]
    await control.call(RELAY, "Open", opening(sandbox="other"), pb.OpenResponse, timeout=5)
    cases.append(("Open", opening(OTHER, "other"), pb.OpenResponse, Code.ALREADY_EXISTS))
    for method, request, kind, code in cases:
        with pytest.raises(StatusError) as caught:
            await control.call(RELAY, method, request, kind, timeout=5)
        assert caught.value.status.code == code, method
        assert "PRIVATE" not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_second_relay_is_refused_and_a_dead_ones_socket_is_taken(world):
    service = await world.start()
    second = make_service(world.settings, reactor)
    with pytest.raises(LocalFailure, match="in use"):
        await second.startService()
    await second.stopService()
    await world.client()
    await service.stopService()
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(world.settings.control)
    await world.start()
    await world.client()


@pytest_twisted.ensureDeferred
async def test_stop_leaves_no_socket(world):
    service = await world.start()
    control = await world.client()
    await control.call(RELAY, "Open", opening(), pb.OpenResponse, timeout=5)
    await service.stopService()
    assert os.listdir(world.settings.pods_dir) == []


@pytest_twisted.ensureDeferred
async def test_a_link_whose_caller_left_goes_on_for_the_next(world):
    await world.start()
    control = await world.client()
    vm = world.vm()
    vm.sick = 4
    await control.call(RELAY, "Open", opening(), pb.OpenResponse, timeout=5)
    linking = pb.LinkRequest(sandbox=ID, host="127.0.0.1", port=vm.number, deadline=5 * 10**9)
    first = control.call(RELAY, "Link", linking, pb.LinkResponse, timeout=5)
    first.addErrback(lambda failure: None)
    await deferLater(reactor, 0.02)
    await control.close()
    control = await world.client()
    assert (await control.call(RELAY, "Link", linking, pb.LinkResponse, timeout=5)).up
    assert len(vm.server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_slow_watcher_is_cut_and_holds_nobody_up():
    watchers = Watchers(limit=3)
    got = []
    gate = Deferred()

    async def send(event):
        got.append(event.kind)
        await gate

    serving = Deferred.fromCoroutine(watchers.serve(send))
    for _ in range(4):
        watchers.publish(pb.WatchEvent(kind=pb.WatchEvent.LINK_UP))
    gate.callback(None)
    with pytest.raises(StatusError) as caught:
        await serving
    assert caught.value.status.code == Code.RESOURCE_EXHAUSTED
    assert got == [pb.WatchEvent.READY]
    assert len(watchers) == 0


@pytest_twisted.ensureDeferred
async def test_watcher_that_leaves_is_forgotten():
    watchers = Watchers()

    async def send(event):
        return None

    serving = Deferred.fromCoroutine(watchers.serve(send))
    serving.addErrback(lambda failure: None)
    assert len(watchers) == 1
    serving.cancel()
    assert len(watchers) == 0


def test_calls_are_counted_within_a_bound():
    counter = CallCounter(limit=2)
    for number in range(10):
        counter(("svc", f"bound{number}"), 0)
    counter(("svc", "bound0"), 0)

    def value(service, method):
        return metrics.REGISTRY.get_sample_value(
            "peerpods_rpcs_total", {"service": service, "method": method, "code": "OK"}
        )

    assert value("svc", "bound0") == 2
    assert value("svc", "bound9") is None
    assert value("other", "other") >= 8
