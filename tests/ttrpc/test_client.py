"""The rules of a client, one by one, without sockets and without waiting."""

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from peerpods.protocols.hypervisor_pb2 import VersionRequest, VersionResponse
from peerpods.ttrpc import (
    HEADER,
    MAX_LENGTH,
    ConnectionClosed,
    Request,
    Response,
    Status,
    StatusError,
    decode_request,
    encode_frame,
)
from tests.ttrpc.harness import DATA, END, REQUEST, RESPONSE, ClientSide, message


def failure(deferred, kind=StatusError):
    caught = []
    deferred.addErrback(caught.append)
    (found,) = caught
    assert found.check(kind), found
    return found.value


def result(deferred):
    got = []
    deferred.addCallback(got.append)
    assert got, "no result yet"
    return got[0]


def call(side, word="q", **options):
    return side.client.call("a.B", "V", VersionRequest(version=word), VersionResponse, **options)


def test_ids_are_odd_and_rise_and_answers_find_their_call():
    side = ClientSide()
    calls = [call(side, str(i)) for i in range(3)]
    frames = side.frames()
    assert [(f.stream, f.type, f.flags) for f in frames] == [(1, REQUEST, 0), (3, REQUEST, 0), (5, REQUEST, 0)]
    side.answer(5, Response(None, message("c")))
    side.answer(1, Response(Status(0), message("a")), flags=0xFF)
    assert result(calls[2]).version == "c"
    assert result(calls[0]).version == "a"
    assert not calls[1].called


def test_request_on_the_wire():
    side = ClientSide()
    call(side, timeout=1.5, metadata={"X-Key": "Value"})
    (frame,) = side.frames()
    assert decode_request(frame.body) == Request("a.B", "V", message("q"), 1_500_000_000, (("x-key", "Value"),))


def test_status_with_details():
    side = ClientSide()
    asked = call(side)
    side.answer(1, Response(Status(5, "gone", (b"\x0a\x01a",))))
    error = failure(asked)
    assert error.status == Status(5, "gone", (b"\x0a\x01a",))
    assert str(error) == "gone"


def test_deadline_is_local_and_silent_and_a_late_answer_is_dropped():
    side = ClientSide()
    asked = call(side, timeout=2)
    side.frames()
    side.clock.advance(2)
    assert failure(asked).code == 4
    assert side.frames() == []
    side.answer(1, Response(None, message("late")))
    assert side.client.in_flight == 0


def test_no_time_left_sends_nothing():
    side = ClientSide()
    assert failure(call(side, timeout=0)).code == 4
    assert failure(call(side, timeout=-1)).code == 4
    assert side.frames() == []


def test_cancel_abandons_the_call():
    side = ClientSide()
    asked = call(side, timeout=5)
    asked.cancel()
    failure(asked, CancelledError)
    side.answer(1, Response(None, message("late")))
    assert side.client.in_flight == 0
    assert side.clock.getDelayedCalls() == []


def test_a_lost_connection_fails_all_calls_with_the_known_text():
    side = ClientSide()
    calls = [call(side), call(side, timeout=5)]
    lost = side.client.when_lost()
    side.lose()
    assert [str(failure(c, ConnectionClosed)) for c in calls] == ["ttrpc: closed"] * 2
    assert failure(call(side), ConnectionClosed).code == 14
    assert lost.called
    assert side.client.when_lost().called
    assert not side.client.connected
    assert side.clock.getDelayedCalls() == []


def test_too_large_a_request_fails_here():
    side = ClientSide()
    asked = side.client.call_raw("a.B", "V", bytes(MAX_LENGTH))
    assert failure(asked).code == 8
    assert side.frames() == []
    call(side)
    assert side.frames()[0].stream == 1


def test_too_large_an_answer_fails_only_its_call():
    side = ClientSide()
    first, second = call(side), call(side)
    side.client.dataReceived(HEADER.pack(MAX_LENGTH + 1, 1, RESPONSE, 0) + bytes(MAX_LENGTH + 1))
    assert failure(first).code == 8
    side.answer(3, Response(None, message("b")))
    assert result(second).version == "b"


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(1, RESPONSE, 0, b"\xff"),
        encode_frame(1, RESPONSE, 0, Response(None, b"\x0a\x05x").encode()),
        encode_frame(1, DATA, 0, b"x"),
    ],
    ids=["junk envelope", "junk payload", "data for a unary call"],
)
def test_unusable_answers_fail_only_their_call(frame):
    side = ClientSide()
    first, second = call(side), call(side)
    side.client.dataReceived(frame)
    assert failure(first).code == 13
    side.answer(3, Response(None, message("b")))
    assert result(second).version == "b"


def test_frames_that_are_not_for_us_are_ignored():
    side = ClientSide()
    asked = call(side)
    for stray in (
        encode_frame(99, RESPONSE, 0, b""),
        encode_frame(2, DATA, END, b""),
        encode_frame(1, REQUEST, 0, b"x"),
        encode_frame(1, 77, 0, b"x"),
        HEADER.pack(MAX_LENGTH + 1, 99, RESPONSE, 0) + bytes(MAX_LENGTH + 1),
    ):
        side.client.dataReceived(stray)
    side.answer(1, Response(None, message("a")))
    assert result(asked).version == "a"


def test_forward_keeps_everything_but_the_time():
    side = ClientSide()
    asked = Request("a.B", "M", b"\xffraw", 77, (("Key", "v"), ("Key", "w")), b"\x32\x01z")
    answer = side.client.forward(asked, timeout=3)
    (frame,) = side.frames()
    assert decode_request(frame.body) == Request(
        "a.B", "M", b"\xffraw", 3 * 10**9, (("Key", "v"), ("Key", "w")), b"\x32\x01z"
    )
    whole = Response(Status(7, "no", (b"\x0a\x01a",), b"\x32\x01q"), b"p", b"\x3a\x01y")
    side.answer(1, whole)
    assert result(answer) == whole
    side.client.forward(asked)
    assert decode_request(side.frames()[0].body).timeout_nano == 0


def test_bounds_on_what_may_wait():
    side = ClientSide(max_in_flight=2)
    call(side), call(side)
    assert failure(call(side)).code == 8
    side = ClientSide()
    side.client.pauseProducing()
    for _ in range(6):
        last = side.client.call_raw("a.B", "V", bytes(3 << 20))
    assert not last.called
    assert failure(side.client.call_raw("a.B", "V", b"")).code == 8
    side.client.resumeProducing()
    assert not call(side).called


def test_ids_used_up():
    side = ClientSide()
    side.client._core._next = 2**32 - 1
    call(side)
    assert side.frames()[0].stream == 2**32 - 1
    assert failure(call(side)).code == 8


# Streams


def open_stream(side, kind, first=None, **options):
    return side.client.stream("a.B", "S", first, VersionResponse, kind=kind, **options)


def test_server_stream():
    side = ClientSide()
    stream = open_stream(side, "server_stream", VersionRequest(version="q"))
    (frame,) = side.frames()
    assert (frame.flags, decode_request(frame.body).payload) == (1, message("q"))
    side.data(1, 0, message("a"))
    side.data(1, 0, b"")
    side.data(1, END)
    assert result(stream.receive()).version == "a"
    assert result(stream.receive()).version == ""
    assert result_none(stream)
    assert failure(stream.send(VersionRequest())).code == 9
    assert side.frames() == []


def result_none(stream):
    got = []
    stream.receive().addCallback(got.append)
    return got == [None]


def test_server_stream_error_comes_after_its_messages():
    side = ClientSide()
    stream = open_stream(side, "server_stream", VersionRequest())
    side.data(1, 0, message("a"))
    side.answer(1, Response(Status(9, "broken")))
    assert result(stream.receive()).version == "a"
    assert str(failure(stream.receive())) == "broken"


def test_client_stream_and_half_close():
    side = ClientSide()
    stream = open_stream(side, "client_stream")
    stream.send(VersionRequest(version="a"))
    stream.close_send()
    stream.close_send()
    waiting = stream.receive()
    assert [(f.type, f.flags, f.body) for f in side.frames()[1:]] == [(DATA, 0, message("a")), (DATA, END, b"")]
    side.answer(1, Response(None, message("sum")))
    assert result(waiting).version == "sum"
    assert result_none(stream)
    assert failure(stream.send(VersionRequest())).code == 9


def test_bidi_sends_an_empty_first_message_as_data():
    side = ClientSide()
    open_stream(side, "bidi", VersionRequest())
    assert [(f.type, f.flags, f.body) for f in side.frames()][1:] == [(DATA, 0, b"")]
    open_stream(side, "bidi", VersionRequest(version="x"))
    (frame,) = side.frames()
    assert (frame.flags, decode_request(frame.body).payload) == (2, message("x"))


def test_no_data_follows_a_finished_stream():
    side = ClientSide()
    stream = open_stream(side, "bidi")
    side.data(1, END)
    side.frames()
    failure(stream.send(VersionRequest()))
    stream.close_send()
    stream.cancel()
    assert side.frames() == []


def test_stream_deadline_cancel_and_loss():
    side = ClientSide()
    timed, given_up, cut = (open_stream(side, "bidi", timeout=t) for t in (1, None, None))
    waits = [s.receive() for s in (timed, given_up, cut)]
    side.clock.advance(1)
    given_up.cancel()
    side.lose()
    assert [failure(w).code for w in waits] == [4, 1, 14]
    assert failure(cut.send(VersionRequest()), ConnectionClosed)
    assert side.clock.getDelayedCalls() == []


def test_a_stream_nobody_reads_stops_the_connection_and_then_fails_alone():
    side = ClientSide()
    stream = open_stream(side, "server_stream", VersionRequest())
    other = call(side)
    for _ in range(64):
        side.data(1, 0, b"")
    assert side.transport.producerState == "paused"
    side.clock.advance(1)
    assert side.transport.producerState == "producing"
    assert failure(stream.receive()).code == 8
    side.answer(3, Response(None, message("b")))
    assert result(other).version == "b"


def test_send_waits_while_the_server_does_not_read():
    side = ClientSide()
    stream = open_stream(side, "bidi")
    side.client.pauseProducing()
    sending = stream.send(VersionRequest())
    assert not sending.called
    side.client.resumeProducing()
    assert sending.called


def test_wrong_use():
    side = ClientSide()
    with pytest.raises(ValueError, match="unary"):
        open_stream(side, "unary")
    with pytest.raises(StatusError):
        open_stream(side, "bidi", timeout=0)
    stream = open_stream(side, "bidi")
    stream.receive()
    with pytest.raises(RuntimeError):
        stream.receive()


@pytest_twisted.ensureDeferred
async def test_connect_call_close_over_a_real_socket(tmp_path):
    from twisted.internet.endpoints import UNIXClientEndpoint
    from twisted.internet.error import ConnectError

    from peerpods.ttrpc import Method, Server, Service, connect_client
    from peerpods.ttrpc.unix import listen_unix

    async def version(ctx, asked):
        return VersionResponse(version=asked.version)

    gone = []
    server = Server(reactor, [Service("a.B", {"V": Method(version, VersionRequest)})], on_disconnect=gone.append)
    path = str(tmp_path / "s")
    with pytest.raises(ConnectError):
        await connect_client(reactor, UNIXClientEndpoint(reactor, path))
    port = await listen_unix(reactor, path, server)
    client = await connect_client(reactor, UNIXClientEndpoint(reactor, path))
    big = "x" * (2 << 20)
    got = await client.call("a.B", "V", VersionRequest(version=big), VersionResponse, timeout=30)
    assert got.version == big
    await client.close()
    await client.close()
    await port.stopListening()
    await server.close(1)
    assert len(gone) == 1
