"""The rules of a server, one by one, without sockets and without waiting."""

import pytest
from twisted.internet.defer import CancelledError, Deferred

from peerpods.protocols.hypervisor_pb2 import VersionResponse
from peerpods.ttrpc import HEADER, MAX_LENGTH, Response, Status, StatusError, encode_frame
from tests.ttrpc.harness import DATA, END, REQUEST, RESPONSE, ServerSide, message, method, request, text_of


async def echo(ctx, asked):
    return VersionResponse(version=asked.version)


class Hang:
    """A handler that waits until the test lets it go, and tells whether it was cancelled."""

    def __init__(self):
        self.waiting = []
        self.cancelled = 0

    async def __call__(self, ctx, asked):
        waiter = Deferred()
        self.waiting.append(waiter)
        try:
            return VersionResponse(version=await waiter)
        except CancelledError:
            self.cancelled += 1
            raise


def alive(side, stream=9001):
    """The connection still serves."""
    return side.feed(request(stream, "Echo", message("alive")))[-1] == (stream, 0, message("alive"))


def test_unary_and_one_write_for_all_that_one_read_brought():
    side = ServerSide({"Echo": echo})
    got = side.feed(*(request(i, "Echo", message(str(i))) for i in (1, 3, 5)))
    assert got == [(i, 0, message(str(i))) for i in (1, 3, 5)]
    assert len(side.transport.writes) == 1
    assert side.connection.completed == 3


def test_answers_come_in_the_order_of_completion():
    hang = Hang()
    side = ServerSide({"Hang": hang})
    assert side.feed(request(1, "Hang"), request(3, "Hang")) == []
    hang.waiting[1].callback("b")
    hang.waiting[0].callback("a")
    assert [(s, text_of(p)) for s, _, p in side.frames()] == [(3, "b"), (1, "a")]


EVEN = "StreamID must be odd for client initiated streams"
USED = "StreamID cannot be re-used and must increment"


@pytest.mark.parametrize(
    ("stimulus", "reply"),
    [
        (request(2, "Echo"), (2, 3, EVEN)),
        (request(0, "Echo"), (0, 3, EVEN)),
        (request(1, "Echo", service="no.Such"), (1, 12, "service no.Such")),
        (request(1, "Nope"), (1, 12, "method Nope")),
        (encode_frame(1, REQUEST, 0, b"\xff\xff"), (1, 3, "unmarshal request error: a number is cut short")),
        (encode_frame(1, 9, 0, b"junk"), None),
        (encode_frame(1, 0, 0, b""), None),
        (encode_frame(1, RESPONSE, 0, b""), None),
        (encode_frame(1, DATA, 0, b"x"), (1, 3, "StreamID is no longer active")),
        (encode_frame(2, DATA, END, b""), (2, 3, "StreamID is no longer active")),
        (request(1, "Echo", message("q"), flags=0xFF), (1, 0, message("q"))),
        (request(1, "Echo", timeout_nano=-1), (1, 4, "context deadline exceeded")),
        (
            HEADER.pack(MAX_LENGTH + 1, 1, 1, 0) + bytes(MAX_LENGTH + 1),
            (1, 8, "message length 4194305 exceed maximum message size of 4194304"),
        ),
        (HEADER.pack(MAX_LENGTH + 1, 2, 1, 0) + bytes(MAX_LENGTH + 1), (2, 3, EVEN)),
        (HEADER.pack(MAX_LENGTH + 1, 1, 9, 0) + bytes(MAX_LENGTH + 1), None),
    ],
)
def test_stray_and_malformed_frames(stimulus, reply):
    side = ServerSide({"Echo": echo})
    assert side.feed(stimulus) == ([reply] if reply else [])
    assert alive(side)
    assert not side.transport.disconnecting


def test_junk_payload_is_internal():
    side = ServerSide({"Echo": echo})
    ((stream, code, text),) = side.feed(request(1, "Echo", b"\x0a\x05x"))
    assert (stream, code) == (1, 13)
    assert text.startswith("ttrpc: error unmarshalling payload:")
    assert alive(side)


def test_ids_may_come_out_of_order_but_not_twice():
    side = ServerSide({"Echo": echo})
    assert [f[:2] for f in side.feed(*(request(i, "Echo") for i in (7, 3, 11, 1, 9, 5)))] == [
        (i, 0) for i in (7, 3, 11, 1, 9, 5)
    ]
    for used in (7, 3, 11, 1, 9, 5):
        assert side.feed(request(used, "Echo")) == [(used, 3, USED)]
    # A jump keeps only the nearest ids open, in bounded memory.
    assert side.feed(request(2**32 - 1, "Echo"))[0][1] == 0
    assert side.feed(request(13, "Echo")) == [(13, 3, USED)]
    assert side.feed(request(2**32 - 3, "Echo"))[0][1] == 0
    assert len(side.connection._core._ids._gaps) <= 1024


def test_data_for_a_unary_call_hurts_only_that_call():
    hang = Hang()
    side = ServerSide({"Hang": hang, "Echo": echo})
    side.feed(request(1, "Hang"), request(3, "Hang"))
    for harmless in (4, END):
        assert side.feed(encode_frame(1, DATA, harmless, b"")) == []
    assert side.feed(encode_frame(1, DATA, 0, b"x")) == [(1, 3, "data for a stream that takes none")]
    assert hang.cancelled == 1
    hang.waiting[1].callback("ok")
    assert side.frames() == [(3, 0, message("ok"))]
    assert alive(side)


def test_errors_become_statuses():
    async def fails(ctx, asked):
        kind = {"status": StatusError(Status(9, "no", (b"\x0a\x01a",))), "none": FileNotFoundError(2, "gone", "/x")}
        raise kind.get(asked.version, PermissionError(13, "not you"))

    side = ServerSide({"Fails": fails, "Wrong": lambda ctx, asked: None})
    assert side.feed(request(1, "Fails", message("status"))) == [(1, 9, "no")]
    assert side.feed(request(3, "Fails", message("none"))) == [(3, 5, "[Errno 2] gone: '/x'")]
    assert side.feed(request(5, "Fails", message("other"))) == [(5, 7, "[Errno 13] not you")]
    assert side.feed(request(7, "Wrong"))[0][:2] == (7, 13)


def test_a_plain_error_is_unknown_and_a_mapping_decides():
    async def fails(ctx, asked):
        error = RuntimeError("odd")
        error.code = 2
        raise error

    assert ServerSide({"F": fails}).feed(request(1, "F")) == [(1, 2, "odd")]
    mapped = ServerSide({"F": fails}, map_error=lambda e: Status(14, f"mapped {e}"))
    assert mapped.feed(request(1, "F")) == [(1, 14, "mapped odd")]
    never_ok = ServerSide({"F": fails}, map_error=lambda e: Status(0, "fine?"))
    assert never_ok.feed(request(1, "F")) == [(1, 2, "fine?")]


def test_deadline_is_answered_and_the_handler_cancelled():
    hang = Hang()
    seen = []

    async def look(ctx, asked):
        seen.append((ctx.deadline, ctx.remaining(), ctx.metadata, ctx.service, ctx.method, ctx.stream))
        return await hang(ctx, asked)

    side = ServerSide({"Look": look})
    side.clock.advance(100)
    side.feed(request(1, "Look", timeout_nano=2_500_000_000, metadata=(("A-Key", "v"), ("A-Key", "w"))))
    assert seen == [(102.5, 2.5, (("A-Key", "v"), ("A-Key", "w")), "a.B", "Look", 1)]
    side.clock.advance(2.4)
    assert side.frames() == []
    side.clock.advance(0.1)
    assert side.frames() == [(1, 4, "context deadline exceeded")]
    assert hang.cancelled == 1
    assert side.connection.in_flight == 0
    assert side.clock.getDelayedCalls() == []


def test_an_answer_in_time_leaves_no_timer():
    side = ServerSide({"Echo": echo})
    side.feed(request(1, "Echo", timeout_nano=10**9))
    assert side.clock.getDelayedCalls() == []


def test_a_handler_that_ignores_its_cancellation_answers_nobody():
    waiter = Deferred()

    async def stubborn(ctx, asked):
        try:
            await Deferred()
        except CancelledError:
            return VersionResponse(version=await waiter)

    side = ServerSide({"S": stubborn, "Echo": echo})
    side.feed(request(1, "S", timeout_nano=10**9))
    side.clock.advance(1)
    side.frames()
    waiter.callback("late")
    assert side.frames() == []
    assert alive(side)


def test_a_lost_connection_cancels_its_handlers_and_no_others():
    hang = Hang()
    told = []
    side = ServerSide({"Hang": hang}, on_disconnect=lambda c: told.append((c.in_flight, [x.method for x in c.calls])))
    other, transport, _ = side.connect()
    other.dataReceived(request(1, "Hang"))
    side.feed(request(1, "Hang", timeout_nano=10**9), request(3, "Hang"))
    side.lose()
    assert told == [(2, ["Hang", "Hang"])]
    assert hang.cancelled == 2
    assert side.server.connections == {other}
    assert side.clock.getDelayedCalls() == []
    hang.waiting[0].callback("still here")
    assert b"still here" in transport.value()


def test_too_large_an_answer_is_code_8_and_the_connection_stays():
    side = ServerSide({"Big": lambda ctx, asked: VersionResponse(version="x" * MAX_LENGTH), "Echo": echo})
    ((stream, code, text),) = side.feed(request(1, "Big"))
    assert (stream, code) == (1, 8)
    assert text.endswith("exceed maximum message size of 4194304")
    assert alive(side)


def test_too_many_calls_in_flight():
    hang = Hang()
    side = ServerSide({"Hang": hang}, max_in_flight=2)
    got = side.feed(*(request(i, "Hang") for i in (1, 3, 5)))
    assert got == [(5, 8, "2 calls are in flight on this connection")]
    hang.waiting[0].callback("a")
    assert side.feed(request(7, "Hang")) == [(1, 0, message("a"))]
    assert len(hang.waiting) == 3


def test_fallback_forwards_undecoded():
    seen = []

    async def fallback(ctx, asked):
        seen.append((asked, ctx.remaining()))
        return Response(Status(5, "far", (b"\x0a\x01d",), b"\x32\x01z"), b"p", b"\x3a\x01y")

    side = ServerSide({}, fallback=fallback)
    raw = request(1, "M", b"\xff raw", service="far.Away", timeout_nano=10**9, metadata=(("K", "V"),))
    side.connection.dataReceived(raw)
    assert raw[10:] == seen[0][0].encode()
    assert seen[0][1] == 1.0
    assert (
        side.transport.value()[10:]
        == Response(Status(5, "far", (b"\x0a\x01d",), b"\x32\x01z"), b"p", b"\x3a\x01y").encode()
    )
    assert side.frames() == [(1, 5, "far")]
    assert side.feed(request(3, "M")) == [(3, 12, "method M")]


def test_a_fallback_that_gives_no_response_and_handlers_that_are_no_coroutines():
    later = Deferred()

    def fails(ctx, asked):
        raise StatusError(Status(9, "at once"))

    side = ServerSide({"Later": lambda ctx, asked: later, "Fails": fails}, fallback=lambda ctx, asked: None)
    assert side.feed(request(1, "M", service="far.Away"))[0][:2] == (1, 13)
    assert side.feed(request(3, "Fails")) == [(3, 9, "at once")]
    assert side.feed(request(5, "Later")) == []
    later.callback(VersionResponse(version="l"))
    assert side.frames() == [(5, 0, message("l"))]


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_hurt_another_connection(seed):
    import random

    chance = random.Random(seed)
    side = ServerSide({"Echo": echo, "Chat": chatty([])})
    other, transport, _ = side.connect()
    for _ in range(60):
        kind, size = chance.randrange(5), chance.randrange(40)
        body = chance.randbytes(size)
        if kind == 0:
            body = request(1, chance.choice(["Echo", "Chat", "x"]), body)[10:]
        frame = encode_frame(chance.randrange(12), chance.randrange(5), chance.randrange(8), body)
        side.feed(frame if kind < 4 else bytes(frame[:4]) + chance.randbytes(6) + body)
    assert not side.transport.disconnecting
    other.dataReceived(request(1, "Echo", message("alive")))
    assert b"alive" in transport.value()


# Streams


def chatty(log):
    async def chat(ctx, receive, send):
        while (got := await receive()) is not None:
            log.append(got.version)
            if got.version == "fail":
                raise StatusError(Status(10, "as asked"))
            if got.version == "end":
                return
            await send(VersionResponse(version=got.version))
        log.append(None)
        await send(VersionResponse(version="closed"))

    return method(chat, "bidi")


def test_bidi_with_half_close():
    log = []
    side = ServerSide({"Chat": chatty(log)})
    assert side.feed(request(1, "Chat", flags=2)) == []
    assert side.feed(encode_frame(1, DATA, 0, message("a"))) == [(1, "data", 0, message("a"))]
    assert side.feed(encode_frame(1, DATA, 0, b"")) == [(1, "data", 0, b"")]
    assert side.feed(encode_frame(1, DATA, 4, b"")) == []
    assert side.feed(encode_frame(1, DATA, END, b"")) == [(1, "data", 0, message("closed")), (1, "data", END, b"")]
    assert log == ["a", "", None]
    assert side.feed(encode_frame(1, DATA, 0, b"x")) == [(1, 3, "StreamID is no longer active")]


@pytest.mark.parametrize(
    ("word", "end"), [("fail", (1, 10, "as asked")), ("end", (1, "data", END, b""))], ids=["error", "server ends"]
)
def test_bidi_ended_by_the_server(word, end):
    side = ServerSide({"Chat": chatty([])})
    side.feed(request(1, "Chat", flags=2))
    assert side.feed(encode_frame(1, DATA, 0, message(word))) == [end]
    assert side.connection.in_flight == 0


def test_first_message_in_the_request_and_close_with_payload():
    log = []
    side = ServerSide({"Chat": chatty(log)})
    side.feed(request(1, "Chat", message("first"), flags=2), encode_frame(1, DATA, 1, message("last")))
    assert log == ["first", "last", None]
    log.clear()
    side.feed(request(3, "Chat", message("only"), flags=1))
    assert log == ["only", None]


def test_data_after_half_close_is_refused():
    async def slow(ctx, receive, send):
        await Deferred()

    side = ServerSide({"S": method(slow, "bidi")})
    side.feed(request(1, "S", flags=2), encode_frame(1, DATA, END, b""))
    assert side.feed(encode_frame(1, DATA, 0, b"x")) == [(1, 3, "data after the end of the client's stream")]
    assert side.connection.in_flight == 0


@pytest.mark.parametrize("flags", [0, 1])
def test_server_stream(flags):
    async def count(ctx, asked, send):
        for i in range(int(asked.version)):
            await send(VersionResponse(version=str(i)))
        if asked.version == "2":
            raise StatusError(Status(11, "enough"))

    side = ServerSide({"Count": method(count, "server_stream")})
    assert side.feed(request(1, "Count", message("1"), flags=flags)) == [
        (1, "data", 0, message("0")),
        (1, "data", END, b""),
    ]
    got = side.feed(request(3, "Count", message("2"), flags=flags))
    assert got[-1] == (3, 11, "enough")
    assert len(got) == 3


def test_client_stream_and_junk_in_it():
    async def join(ctx, receive):
        words = []
        while (got := await receive()) is not None:
            words.append(got.version)
        return VersionResponse(version="+".join(words))

    side = ServerSide({"Join": method(join, "client_stream")})
    side.feed(request(1, "Join", flags=6), encode_frame(1, DATA, 0, message("a")))
    assert side.feed(encode_frame(1, DATA, 0, message("b")), encode_frame(1, DATA, END, b"")) == [
        (1, 0, message("a+b"))
    ]
    side.feed(request(3, "Join", flags=2))
    ((stream, code, _),) = side.feed(encode_frame(3, DATA, 0, b"\x0a\x05x"))
    assert (stream, code) == (3, 13)


def test_a_stream_nobody_reads_stops_the_connection_and_then_fails_alone():
    async def deaf(ctx, receive):
        await Deferred()

    side = ServerSide({"Deaf": method(deaf, "client_stream"), "Echo": echo})
    side.feed(request(1, "Deaf", flags=2), *(encode_frame(1, DATA, 0, b"") for _ in range(63)))
    assert side.transport.producerState == "producing"
    side.feed(encode_frame(1, DATA, 0, b""))
    assert side.transport.producerState == "paused"
    side.clock.advance(1)
    assert side.transport.producerState == "producing"
    assert side.frames() == [(1, 8, "ttrpc: stream buffer full")]
    assert alive(side)


def test_a_stream_read_late_lets_the_connection_go_on():
    gate = Deferred()
    got = []

    async def late(ctx, receive):
        await gate
        while (m := await receive()) is not None:
            got.append(m.version)
        return VersionResponse()

    side = ServerSide({"Late": method(late, "client_stream")})
    side.feed(request(1, "Late", flags=2), *(encode_frame(1, DATA, 0, message(str(i))) for i in range(70)))
    assert side.transport.producerState == "paused"
    gate.callback(None)
    assert side.transport.producerState == "producing"
    assert side.feed(encode_frame(1, DATA, END, b"")) == [(1, 0, b"")]
    assert got == [str(i) for i in range(70)]
    assert side.clock.getDelayedCalls() == []


def test_a_client_that_does_not_read_is_not_read_and_senders_wait():
    sent = []

    async def flood(ctx, asked, send):
        for i in range(5):
            await send(VersionResponse(version=str(i)))
            sent.append(i)

    side = ServerSide({"Flood": method(flood, "server_stream")})
    assert side.transport.producer is side.connection
    side.connection.pauseProducing()
    assert side.transport.producerState == "paused"
    side.feed(request(1, "Flood"))
    assert sent == []
    side.connection.resumeProducing()
    assert sent == [0, 1, 2, 3, 4]
    assert side.transport.producerState == "producing"


def test_what_is_kept_for_a_client_that_does_not_read_is_bounded():
    hang = Hang()
    side = ServerSide({"Hang": hang})
    side.feed(*(request(1 + 2 * i, "Hang") for i in range(20)))
    side.connection.pauseProducing()
    for waiter in hang.waiting[:16]:
        waiter.callback("x" * (4_000_000))
    assert not side.transport.aborted
    for waiter in hang.waiting[16:]:
        waiter.callback("x" * (4_000_000))
    assert side.transport.aborted


def test_an_oversized_message_fails_in_the_handler():
    async def big(ctx, asked, send):
        with pytest.raises(StatusError) as caught:
            await send(VersionResponse(version="x" * MAX_LENGTH))
        await send(VersionResponse(version=str(caught.value.code)))

    side = ServerSide({"Big": method(big, "server_stream")})
    assert side.feed(request(1, "Big"))[0] == (1, "data", 0, message("8"))


def test_an_oversized_data_frame_ends_its_stream():
    side = ServerSide({"Chat": chatty([]), "Echo": echo})
    side.feed(request(1, "Chat", flags=2))
    got = side.feed(HEADER.pack(MAX_LENGTH + 1, 1, DATA, 0), bytes(MAX_LENGTH + 1))
    assert [f[:2] for f in got] == [(1, 8)]
    assert side.connection.in_flight == 0
    assert alive(side)


def test_close_lets_calls_finish_and_cuts_the_rest():
    hang = Hang()
    side = ServerSide({"Hang": hang})
    idle, idle_transport, _ = side.connect()
    side.feed(request(1, "Hang"))
    done = Deferred.fromCoroutine(side.server.close(5))
    assert idle_transport.disconnecting
    assert not side.transport.disconnecting
    assert side.feed(request(3, "Hang")) == [(3, 14, "the server is shutting down")]
    hang.waiting[0].callback("last")
    assert side.frames() == [(1, 0, message("last"))]
    assert side.transport.disconnecting
    assert not done.called
    side.lose()
    idle.connectionLost(None)
    assert done.called
    assert side.clock.getDelayedCalls() == []


def test_close_does_not_wait_for_ever():
    hang = Hang()
    side = ServerSide({"Hang": hang})
    side.feed(request(1, "Hang"))
    done = Deferred.fromCoroutine(side.server.close(5))
    side.clock.advance(5)
    assert side.transport.disconnecting
    side.clock.advance(1)
    assert side.transport.aborted
    side.lose()
    assert hang.cancelled == 1
    assert done.called


def test_two_services_of_one_name():
    from twisted.internet.task import Clock

    from peerpods.ttrpc import Server, Service

    with pytest.raises(ValueError, match="twice"):
        Server(Clock(), [Service("a", {}), Service("a", {})])


def test_call_done_is_told():
    told = []
    side = ServerSide({"Echo": echo}, on_call_done=lambda ctx, code, s: told.append((ctx.method, code, s)))
    side.feed(request(1, "Echo"), request(3, "Echo", b"\x0a\x05x"))
    assert told == [("Echo", 0, 0.0), ("Echo", 13, 0.0)]
