"""A pod through real sockets: shims on the agent socket, a scripted VM behind TLS."""

import os
import socket
import stat

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from peerpods.errors import AlreadyExists, ConfigError, LocalFailure, NotFound, Refused
from peerpods.protocols import relay_pb2
from peerpods.ttrpc import Code, ConnectionClosed, StatusError, decode_response
from tests.relay.peer import ID, KEYS, OTHER, Ctx

AGENT = "grpc.AgentService"
FAILURES = relay_pb2.LinkFailure


@pytest_twisted.ensureDeferred
async def test_call_and_answer_pass(rig):
    vm = await rig.up()
    vm.answer = vm.echo
    shim = await rig.shim()
    assert await shim.call_raw(AGENT, "NewMethodOf2030", b"payload") == b"payload"
    _, _, request = vm.seen[0]
    assert (request.service, request.method, request.payload) == (AGENT, "NewMethodOf2030", b"payload")


@pytest_twisted.ensureDeferred
async def test_error_text_and_code_pass_verbatim(rig):
    vm = await rig.up()

    async def fail(ctx, request):
        raise FileNotFoundError(2, "no such container")

    vm.answer = fail
    shim = await rig.shim()
    with pytest.raises(StatusError) as caught:
        await shim.call_raw(AGENT, "StatsContainer", b"")
    assert caught.value.status.code == Code.NOT_FOUND
    assert "no such container" in caught.value.status.message


@pytest_twisted.ensureDeferred
async def test_many_connections_share_one_link_with_rising_odd_ids(rig):
    vm = await rig.up()
    vm.answer = vm.echo
    shims = [await rig.shim() for _ in range(5)]
    calls = [shim.call_raw(AGENT, "Echo", b"%d-%d" % (n, i)) for i in range(20) for n, shim in enumerate(shims)]
    answers = await gatherResults(calls)
    assert answers == [b"%d-%d" % (n, i) for i in range(20) for n in range(5)]
    assert len({connection for connection, _, _ in vm.seen}) == 1
    streams = [stream for _, stream, _ in vm.seen]
    assert all(stream % 2 for stream in streams) and streams == sorted(set(streams))


@pytest_twisted.ensureDeferred
async def test_callers_ids_come_back(rig):
    vm = await rig.up()
    vm.answer = vm.echo
    first, second = await rig.raw(), await rig.raw()
    for raw in (first, second):
        raw.call(7, b"a")
        raw.call(2001, b"b")
        frames = [await raw.frame(), await raw.frame()]
        assert sorted((frame.stream, decode_response(frame.body).payload) for frame in frames) == [
            (7, b"a"),
            (2001, b"b"),
        ]


@pytest_twisted.ensureDeferred
async def test_early_calls_wait_for_the_link_and_keep_their_order(rig):
    await rig.open()
    raw = await rig.raw()
    for stream in (1, 3, 5):
        raw.call(stream, b"%d" % stream, timeout=int(10e9))
    vm = rig.vm()
    vm.answer = vm.echo
    assert (await rig.link(vm)).up
    frames = [await raw.frame() for _ in range(3)]
    assert [frame.stream for frame in frames] == [1, 3, 5]
    assert [request.payload for _, _, request in vm.seen] == [b"1", b"3", b"5"]
    assert vm.checks == 1


@pytest_twisted.ensureDeferred
async def test_deadline_while_waiting(rig):
    await rig.open()
    raw = await rig.raw()
    raw.call(1, timeout=int(50e6))
    raw.call(3, timeout=int(100e9))
    raw.call(5, timeout=-1)
    late = await raw.frame()
    early = await raw.frame()
    assert [late.stream, early.stream] == [5, 1]
    for frame in (late, early):
        assert decode_response(frame.body).status.code == Code.DEADLINE_EXCEEDED
    vm = rig.vm()
    vm.answer = vm.echo
    await rig.link(vm)
    assert (await raw.frame()).stream == 3
    assert len(vm.seen) == 1


@pytest_twisted.ensureDeferred
async def test_closing_one_connection_abandons_only_its_calls(rig):
    vm = await rig.up()
    leaver, stayer = await rig.raw(), await rig.raw()
    leaver.call(1, b"lost")
    stayer.call(1, b"kept")
    await rig.until(lambda: len(vm.held) == 2)
    leaver.transport.loseConnection()
    await rig.event("SHIM_GONE")
    vm.release()
    frame = await stayer.frame()
    assert decode_response(frame.body).payload == b"kept"
    vm.answer = vm.echo
    stayer.call(3, b"more")
    assert decode_response((await stayer.frame()).body).payload == b"more"
    assert stayer.frames == []


@pytest_twisted.ensureDeferred
async def test_link_loss_closes_the_shims(rig):
    vm = await rig.up()
    shim, silent = await rig.shim(), await rig.raw()
    pending = shim.call_raw(AGENT, "WaitProcess", b"")
    await rig.until(lambda: vm.held)
    await vm.drop()
    with pytest.raises(ConnectionClosed) as caught:
        await pending
    assert str(caught.value) == "ttrpc: closed"
    await silent.lost
    await rig.until(lambda: rig.kinds().count("SHIM_GONE") == 2)
    down = await rig.event("LINK_DOWN")
    assert down.failure == FAILURES.Value("CLOSED") and down.sandbox == ID and down.message
    assert all(event.by_relay for event in rig.events if event.kind == event.SHIM_GONE)
    (pod,) = await rig.list()
    assert not pod.up


@pytest_twisted.ensureDeferred
async def test_link_can_be_made_again_after_a_loss(rig):
    vm = await rig.up()
    await vm.drop()
    await rig.event("LINK_DOWN")
    vm.answer = vm.echo
    assert (await rig.link(vm)).up
    shim = await rig.shim()
    assert await shim.call_raw(AGENT, "Echo", b"again") == b"again"


@pytest_twisted.ensureDeferred
async def test_silent_connection_counts_neither_way(rig):
    vm = await rig.up()
    vm.answer = vm.echo
    silent = await rig.raw()
    shim = await rig.shim()
    await shim.call_raw(AGENT, "Echo", b"")
    (pod,) = await rig.list()
    assert (pod.connections, pod.active_connections, pod.was_active, pod.idle_nano) == (2, 1, True, 0)
    silent.transport.loseConnection()
    gone = await rig.event("SHIM_GONE")
    assert not gone.active and not gone.by_relay
    await shim.close()
    await rig.until(lambda: rig.kinds().count("SHIM_GONE") == 2)
    assert rig.events[-1].active and not rig.events[-1].by_relay
    await deferLater(reactor, 0.01)
    (pod,) = await rig.list()
    assert (pod.connections, pod.active_connections, pod.was_active) == (0, 0, True)
    assert pod.idle_nano >= 5_000_000
    assert rig.kinds().count("SHIM_ACTIVE") == 1


@pytest_twisted.ensureDeferred
async def test_agent_that_starts_later_is_waited_for(rig):
    vm = rig.vm()
    vm.sick = 3
    await rig.open()
    assert (await rig.link(vm)).up
    assert vm.checks == 4
    assert len(vm.server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_agent_that_never_answers(rig):
    vm = rig.vm()
    vm.sick = 10_000
    await rig.open()
    answer = await rig.link(vm, seconds=0.3)
    assert not answer.up
    assert answer.failure == FAILURES.Value("AGENT")
    assert "agent" in answer.message and "not there yet" in answer.message


@pytest_twisted.ensureDeferred
async def test_forwarder_that_comes_later_is_found(rig):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
    await rig.open()
    linking = rig.link(number)
    from twisted.internet.defer import Deferred

    linking = Deferred.fromCoroutine(linking)
    await deferLater(reactor, 0.1)
    assert not linking.called
    rig.vm(port=number)
    started = reactor.seconds()
    assert (await linking).up
    assert reactor.seconds() - started < 1.0


@pytest_twisted.ensureDeferred
async def test_nobody_there(rig):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
        await rig.open()
        answer = await rig.link(number, seconds=0.2)
    assert answer.failure == FAILURES.Value("REFUSED")
    assert str(number) in answer.message


@pytest_twisted.ensureDeferred
async def test_a_peer_that_says_nothing_is_a_timeout(rig):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        await rig.open()
        answer = await rig.link(sock.getsockname()[1], seconds=0.3)
    assert answer.failure == FAILURES.Value("TIMEOUT")


@pytest.mark.parametrize("kind", ["WRONG_PEER", "TLS"])
@pytest_twisted.ensureDeferred
async def test_lasting_failures_end_long_before_the_deadline(rig, kind):
    vm = rig.vm(OTHER) if kind == "WRONG_PEER" else rig.vm(KEYS, client_cert=OTHER.client_cert)
    await rig.open()
    started = reactor.seconds()
    answer = await rig.link(vm, seconds=60.0)
    assert answer.failure == FAILURES.Value(kind)
    assert reactor.seconds() - started < 5
    assert "PRIVATE" not in answer.message


@pytest_twisted.ensureDeferred
async def test_wrong_name_is_the_wrong_peer(rig):
    vm = rig.vm()
    import attrs

    await rig.open(keys=attrs.evolve(KEYS, server_name="podvm-other-0123abcd"))
    answer = await rig.link(vm, seconds=60.0)
    assert answer.failure == FAILURES.Value("WRONG_PEER")
    assert vm.checks == 0


@pytest_twisted.ensureDeferred
async def test_open_is_idempotent_and_private(rig):
    first = await rig.open()
    again = await rig.open()
    assert first.agent_socket == again.agent_socket == rig.path()
    assert stat.S_IMODE(os.stat(rig.path()).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(rig.path())).st_mode) == 0o700
    with pytest.raises(AlreadyExists):
        await rig.open(keys=OTHER)
    assert not any("PRIVATE" in str(value) for value in vars(rig.control.pods[ID]).values())


@pytest.mark.parametrize("sandbox", ["", "a/b", "..", "../x", "x" * 120, "a:b", "a\0b"])
@pytest_twisted.ensureDeferred
async def test_bad_ids_are_refused(rig, sandbox):
    with pytest.raises(Refused):
        await rig.open(sandbox)
    assert os.listdir(rig.pods_dir) == []


@pytest_twisted.ensureDeferred
async def test_bad_facts_leave_nothing(rig):
    import attrs

    with pytest.raises(ConfigError):
        await rig.open(keys=attrs.evolve(KEYS, client_key="junk"))
    assert os.listdir(rig.pods_dir) == []
    assert rig.control.pods == {}


@pytest_twisted.ensureDeferred
async def test_dead_socket_is_taken_over_and_a_living_one_is_not(rig):
    os.mkdir(os.path.dirname(rig.path()))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(rig.path())
        sock.listen(1)
        with pytest.raises(LocalFailure, match="in use"):
            await rig.open()
    await rig.open()
    await rig.raw()


@pytest_twisted.ensureDeferred
async def test_close_leaves_nothing_and_unknown_is_fine(rig):
    await rig.up()
    raw = await rig.raw()
    await rig.until(lambda: "SHIM_CONNECTED" in rig.kinds())
    await rig.close()
    await raw.lost
    assert os.listdir(rig.pods_dir) == []
    gone = await rig.event("SHIM_GONE")
    assert gone.by_relay
    await rig.close()
    os.mkdir(os.path.dirname(rig.path()))
    await rig.close()
    assert os.listdir(rig.pods_dir) == []
    with pytest.raises(NotFound):
        await rig.link(1)


@pytest_twisted.ensureDeferred
async def test_close_ends_a_link_in_the_making(rig):
    from twisted.internet.defer import Deferred

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        await rig.open()
        linking = Deferred.fromCoroutine(rig.link(sock.getsockname()[1], seconds=30))
        await deferLater(reactor, 0.02)
        await rig.close()
        answer = await linking
    assert answer.failure == FAILURES.Value("CLOSED")


@pytest_twisted.ensureDeferred
async def test_link_joins_and_is_up_again_at_once(rig):
    from twisted.internet.defer import Deferred

    vm = rig.vm()
    await rig.open()
    one, two = (Deferred.fromCoroutine(rig.link(vm)) for _ in range(2))
    assert (await one).up and (await two).up
    assert (await rig.link(vm)).up
    assert vm.checks == 1 and rig.kinds().count("LINK_UP") == 1


@pytest_twisted.ensureDeferred
async def test_link_uses_no_more_than_the_calls_own_time(rig):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await rig.open()
        request = relay_pb2.LinkRequest(sandbox=ID, host="127.0.0.1", port=sock.getsockname()[1])
        started = reactor.seconds()
        answer = await rig.control.link(Ctx(0.2), request)
    assert not answer.up
    assert reactor.seconds() - started < 2


@pytest.mark.parametrize(("host", "port"), [("", 15150), ("127.0.0.1", 0), ("127.0.0.1", 70000)])
@pytest_twisted.ensureDeferred
async def test_link_without_an_address(rig, host, port):
    await rig.open()
    with pytest.raises(Refused):
        await rig.control.link(Ctx(), relay_pb2.LinkRequest(sandbox=ID, host=host, port=port))


@pytest_twisted.ensureDeferred
async def test_largest_frames_pass_both_ways(rig):
    vm = await rig.up()
    vm.answer = vm.echo
    shim = await rig.shim()
    payload = os.urandom((4 << 20) - 60)
    assert await shim.call_raw(AGENT, "E", payload) == payload


@pytest_twisted.ensureDeferred
async def test_oversize_and_odd_frames_hurt_nobody(rig):
    vm = await rig.up()
    vm.answer = vm.echo
    good, bad = await rig.raw(), await rig.raw()
    bad.send(4, 1, 0, b"")
    assert decode_response((await bad.frame()).body).status.code == Code.INVALID_ARGUMENT
    bad.transport.write((5 << 20).to_bytes(4, "big") + b"\0\0\0\1\1\0" + bytes(5 << 20))
    assert decode_response((await bad.frame()).body).status.code == Code.RESOURCE_EXHAUSTED
    for kind, flags in ((3, 0), (3, 1), (3, 4), (2, 0), (9, 255)):
        bad.send(7, kind, flags, b"junk")
    bad.send(9, 1, 0, b"\xff\xff\xff")
    assert decode_response((await bad.frame()).body).status.code == Code.INVALID_ARGUMENT
    bad.call(11, b"alive")
    assert decode_response((await bad.frame()).body).payload == b"alive"
    bad.transport.write(b"\0\0\1")
    bad.transport.loseConnection()
    good.call(1, b"fine")
    assert decode_response((await good.frame()).body).payload == b"fine"


@pytest_twisted.ensureDeferred
async def test_slow_shim_stops_its_link_and_no_other_pod(rig):
    vm = await rig.up()
    other = "ffff" + "0" * 60
    other_vm = await rig.up(other)
    vm.answer = vm.echo
    other_vm.answer = other_vm.echo
    slow = await rig.raw()
    slow.transport.pauseProducing()
    payload = bytes(1_000_000)
    for stream in range(1, 81, 2):
        slow.call(stream, payload)
    pod = rig.control.pods[ID]
    await rig.until(lambda: pod._full)
    await deferLater(reactor, 0.1)
    held = sum(shim.transport.queued for shim in pod._shims.values())
    assert held < 6_000_000
    fine = await rig.shim(other)
    assert await fine.call_raw(AGENT, "Echo", b"x") == b"x"
    slow.transport.resumeProducing()
    frames = [await slow.frame() for _ in range(40)]
    assert sorted(frame.stream for frame in frames) == list(range(1, 81, 2))
    assert all(len(frame.body) > 1_000_000 for frame in frames)


@pytest_twisted.ensureDeferred
async def test_vm_that_does_not_read_stops_the_shims(rig):
    vm = await rig.up()
    (connection,) = vm.server.connections
    connection.transport.pauseProducing()
    raw = await rig.raw()
    for stream in range(1, 81, 2):
        raw.call(stream, bytes(1_000_000))
    pod = rig.control.pods[ID]
    await rig.until(lambda: pod._link_full)
    await deferLater(reactor, 0.1)
    assert pod._link.transport.queued < 8_000_000
    vm.answer = vm.echo
    connection.transport.resumeProducing()
    frames = [await raw.frame() for _ in range(40)]
    assert len(frames) == 40


@pytest_twisted.ensureDeferred
async def test_streams_pass_both_ways(rig):
    from peerpods.protocols import health_pb2
    from peerpods.ttrpc import Method, Service

    Message = health_pb2.CheckRequest

    async def bidi(ctx, receive, send):
        while (message := await receive()) is not None:
            await send(Message(service=message.service.upper()))

    async def count(ctx, request, send):
        for number in range(int(request.service)):
            await send(Message(service=str(number)))
        if request.service == "3":
            raise FileNotFoundError("gone in the middle")

    async def total(ctx, receive):
        got = 0
        while (message := await receive()) is not None:
            got += len(message.service)
        return Message(service=str(got))

    vm = rig.vm()
    vm.server.services["test.Streams"] = Service(
        "test.Streams",
        {
            "Bidi": Method(bidi, Message, Message, kind="bidi"),
            "Count": Method(count, Message, Message, kind="server_stream"),
            "Total": Method(total, Message, Message, kind="client_stream"),
        },
    )
    await rig.open()
    assert (await rig.link(vm)).up
    shim = await rig.shim()

    talk = shim.stream("test.Streams", "Bidi", None, Message, kind="bidi")
    for word in ("ab", "cd"):
        await talk.send(Message(service=word))
        assert (await talk.receive()).service == word.upper()
    await talk.close_send()
    assert await talk.receive() is None

    many = shim.stream("test.Streams", "Count", Message(service="200"), Message, kind="server_stream")
    assert [(await many.receive()).service for _ in range(200)] == [str(n) for n in range(200)]
    assert await many.receive() is None

    broken = shim.stream("test.Streams", "Count", Message(service="3"), Message, kind="server_stream")
    for _ in range(3):
        await broken.receive()
    with pytest.raises(StatusError, match="gone in the middle"):
        await broken.receive()

    sums = shim.stream("test.Streams", "Total", None, Message, kind="client_stream")
    for word in ("one", "three"):
        await sums.send(Message(service=word))
    await sums.close_send()
    assert (await sums.receive()).service == "8"
    assert rig.control.pods[ID].mux.calls == {}


@pytest_twisted.ensureDeferred
async def test_a_shim_that_never_reads_refusals_does_not_fill_the_memory(rig):
    await rig.up()
    raw = await rig.raw()
    raw.transport.pauseProducing()
    # Even ids are refused by the relay itself: nothing of this reaches the VM.
    raw.transport.write(b"\0\0\0\0\0\0\0\2\1\0" * 400_000)
    pod = rig.control.pods[ID]
    await rig.until(lambda: pod._full)
    await deferLater(reactor, 0.2)
    (shim,) = pod._shims.values()
    assert shim.transport.queued < 4_000_000
    assert not pod._link.transport._reading


@pytest_twisted.ensureDeferred
async def test_too_many_connections_are_refused(rig):
    await rig.open()
    raws = [await rig.raw() for _ in range(65)]
    await raws[-1].lost
    assert sum(1 for raw in raws if raw.gone) == 1


@pytest_twisted.ensureDeferred
async def test_another_address_replaces_the_link_and_says_so(rig):
    await rig.up()
    second = rig.vm()
    second.answer = second.echo
    raw = await rig.raw()
    await rig.until(lambda: "SHIM_CONNECTED" in rig.kinds())
    assert (await rig.link(second)).up
    await raw.lost
    assert rig.kinds().count("LINK_UP") == 2 and "LINK_DOWN" in rig.kinds()
    shim = await rig.shim()
    assert await shim.call_raw(AGENT, "Echo", b"new") == b"new"


@pytest_twisted.ensureDeferred
async def test_vm_that_sends_rubbish_hurts_only_its_own_calls(rig):
    """A distrusted guest: frames for nobody, wrong kinds, and an answer over the limit."""
    vm = await rig.up()
    (connection,) = vm.server.connections
    raw = await rig.raw()
    raw.call(1, b"held")
    await rig.until(lambda: vm.held)
    junk = b"".join(
        (0).to_bytes(4, "big") + stream.to_bytes(4, "big") + bytes([kind, 5])
        for stream in range(100, 200)
        for kind in (1, 2, 3, 9)
    )
    # Stream 3 is the held call: 1 was the relay's own Health/Check.
    over = (5 << 20).to_bytes(4, "big") + (3).to_bytes(4, "big") + b"\2\0" + bytes(5 << 20)
    connection.transport.write(junk + over)
    frame = await raw.frame()
    assert frame.stream == 1
    assert decode_response(frame.body).status.code == Code.RESOURCE_EXHAUSTED
    vm.answer = vm.echo
    raw.call(3, b"fine")
    assert decode_response((await raw.frame()).body).payload == b"fine"
