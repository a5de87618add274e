"""The core that shares one link among a pod's shim connections."""

import random

import pytest

from peerpods.relay import mux as m
from peerpods.relay.mux import Caller, Mux, code_of
from peerpods.ttrpc import (
    Code,
    Frame,
    FrameDecoder,
    Oversize,
    Request,
    Response,
    Status,
    decode_response,
    encode_frame,
)

BODY = Request("grpc.AgentService", "ReadStdout", b"p").encode()
OK = Response(None, b"done").encode()


def frames(pieces):
    return FrameDecoder().feed(b"".join(pieces))


def request(stream, body=BODY, flags=0):
    return Frame(stream, 1, flags, body)


def timed(seconds):
    return Request("s", "m", b"", int(seconds * 1e9)).encode()


def up():
    mux = Mux()
    assert mux.link_up(0.0).link == []
    return mux


def only(out, caller):
    """What one caller hears."""
    assert set(out.shims) <= {caller}
    return frames(out.shims.get(caller, []))


def codes(out, caller):
    return [decode_response(frame.body).status.code for frame in only(out, caller)]


def test_ids_rise_and_bodies_are_untouched():
    mux, one, two = up(), Caller(1), Caller(2)
    sent = frames(mux.from_shim(one, [request(9), request(5)], 0).link + mux.from_shim(two, [request(9)], 0).link)
    assert [(frame.stream, frame.body) for frame in sent] == [(1, BODY), (3, BODY), (5, BODY)]
    out = mux.from_link([Frame(5, 2, 0, OK), Frame(1, 2, 0, OK), Frame(3, 2, 0, b"")])
    assert [(frame.stream, frame.body) for frame in frames(out.shims[one])] == [(9, OK), (5, b"")]
    assert [(frame.stream, frame.body) for frame in frames(out.shims[two])] == [(9, OK)]
    assert out.first == [two, one]
    assert mux.calls == {} and one.calls == {} and two.calls == {}


def test_an_id_may_be_used_again_after_its_answer_and_not_before():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(1)], 0)
    assert codes(mux.from_shim(one, [request(1)], 0), one) == [Code.INVALID_ARGUMENT]
    mux.from_link([Frame(1, 2, 0, OK)])
    assert [frame.stream for frame in frames(mux.from_shim(one, [request(1)], 0).link)] == [3]


def test_even_ids_and_oversize_are_refused_and_the_rest_ignored():
    mux, one = up(), Caller(1)
    out = mux.from_shim(one, [request(2), Oversize(7, 1, 0, 5 << 20), Frame(9, 2, 0, OK), Frame(9, 77, 1, b"")], 0)
    assert codes(out, one) == [Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED]
    assert out.link == [] and mux.stray == 2


def test_answers_to_nobody_are_dropped():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(1)], 0)
    out = mux.from_link(
        [Frame(3, 2, 0, OK), Frame(2, 2, 0, OK), Frame(1, 1, 0, OK), Frame(1, 9, 0, b""), Oversize(5, 2, 0, 9)]
    )
    assert out.shims == {} and mux.stray == 5
    # A unary call is never answered by data: a Go client may not survive it.
    assert mux.from_link([Frame(1, 3, 0, b"x"), Frame(1, 3, 1, b"x")]).shims == {}
    assert len(frames(mux.from_link([Frame(1, 2, 0, OK)]).shims[one])) == 1


def test_oversize_answer_fails_only_its_call():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(1), request(3)], 0)
    out = mux.from_link([Oversize(1, 2, 0, 9 << 20), Frame(3, 2, 0, OK)])
    first, second = only(out, one)
    assert first.stream == 1 and decode_response(first.body).status.code == Code.RESOURCE_EXHAUSTED
    assert (second.stream, second.body) == (3, OK)


def test_streams_pass_with_their_ids_both_ways():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(1)], 0)
    link = frames(mux.from_shim(one, [request(21, flags=2), Frame(21, 3, 0, b"a"), Frame(21, 3, 5, b"")], 0).link)
    assert [(f.stream, f.type, f.flags, f.body) for f in link] == [(3, 1, 2, BODY), (3, 3, 0, b"a"), (3, 3, 5, b"")]
    assert mux.from_shim(one, [Frame(21, 3, 0, b"late")], 0).link == []
    back = only(mux.from_link([Frame(3, 3, 0, b"b"), Frame(3, 3, 0, b"c"), Frame(3, 2, 0, OK)]), one)
    assert [(f.stream, f.type, f.body) for f in back] == [(21, 3, b"b"), (21, 3, b"c"), (21, 2, OK)]
    assert list(one.calls) == [1]


def test_server_stream_ends_by_its_closing_data():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(5, flags=1)], 0)
    assert mux.from_shim(one, [Frame(5, 3, 0, b"no")], 0).link == []
    back = only(mux.from_link([Frame(1, 3, 0, b"b"), Frame(1, 3, 5, b""), Frame(1, 3, 0, b"after")]), one)
    assert [(f.stream, f.flags, f.body) for f in back] == [(5, 0, b"b"), (5, 5, b"")]
    assert mux.calls == {} and mux.stray == 2


def test_data_for_a_unary_call_goes_nowhere():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(5)], 0)
    assert mux.from_shim(one, [Frame(5, 3, 0, b"x"), Frame(99, 3, 0, b"x")], 0).link == []


def test_calls_wait_in_order_with_their_data_and_what_is_late_is_answered():
    mux, one, two = Mux(), Caller(1), Caller(2)
    out = mux.from_shim(one, [request(1), request(3, timed(5)), request(5, flags=2), Frame(5, 3, 5, b"")], 100)
    assert out.link == [] and out.shims == {}
    mux.from_shim(two, [request(1, timed(1))], 100)
    assert mux.next_deadline() == 101
    assert codes(mux.expire(101), two) == [Code.DEADLINE_EXCEEDED]
    assert mux.next_deadline() == 105
    out = mux.link_up(105.5)
    assert codes(out, one) == [Code.DEADLINE_EXCEEDED]
    assert [(f.stream, f.type, f.flags) for f in frames(out.link)] == [(1, 1, 0), (3, 1, 2), (3, 3, 5)]
    assert mux.next_deadline() is None


def test_waiting_has_bounds_in_number_and_bytes():
    mux, one = Mux(max_waiting=2, max_waiting_bytes=1000), Caller(1)
    assert mux.from_shim(one, [request(1), request(3)], 0).shims == {}
    assert codes(mux.from_shim(one, [request(5)], 0), one) == [Code.RESOURCE_EXHAUSTED]
    mux.gone(one)
    one = Caller(2)
    big = Request("s", "m", bytes(900)).encode()
    assert mux.from_shim(one, [request(1, big, flags=2)], 0).shims == {}
    assert codes(mux.from_shim(one, [request(3, big)], 0), one) == [Code.RESOURCE_EXHAUSTED]
    assert codes(mux.from_shim(one, [Frame(1, 3, 0, bytes(200))], 0), one) == [Code.RESOURCE_EXHAUSTED]
    assert one.calls == {} and mux.waiting == {}
    assert mux.from_shim(one, [request(5, big)], 0).shims == {}


def test_no_deadline_negative_deadline_and_junk_while_waiting():
    mux, one = Mux(), Caller(1)
    out = mux.from_shim(one, [request(1, timed(-1)), request(3, b"\xff\xff")], 0)
    assert codes(out, one) == [Code.DEADLINE_EXCEEDED, Code.INVALID_ARGUMENT]
    assert mux.waiting == {}


def test_calls_in_flight_have_a_bound():
    mux, one = Mux(max_calls=3), Caller(1)
    mux.link_up(0)
    out = mux.from_shim(one, [request(i) for i in (1, 3, 5, 7)], 0)
    assert codes(out, one) == [Code.RESOURCE_EXHAUSTED]
    mux.from_link([Frame(3, 2, 0, OK)])
    assert mux.from_shim(one, [request(9)], 0).shims == {}


def test_a_gone_connection_takes_only_its_own_calls():
    mux, one, two = up(), Caller(1), Caller(2)
    mux.from_shim(one, [request(1), request(3)], 0)
    mux.from_shim(two, [request(1)], 0)
    mux.gone(one)
    out = mux.from_link([Frame(1, 2, 0, OK), Frame(3, 2, 0, OK), Frame(5, 2, 0, OK)])
    assert only(out, two)[0].stream == 1
    assert one.calls == {}


def test_link_down_forgets_calls_but_not_those_that_wait_after_it():
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(1)], 0)
    mux.link_down()
    assert one.calls == {} and not mux.up
    mux.from_shim(one, [request(3)], 0)
    assert mux.from_link([Frame(1, 2, 0, OK)]).shims == {}
    assert [frame.stream for frame in frames(mux.link_up(0).link)] == [1]


def test_own_calls_are_told_apart():
    mux = Mux()
    link_id, piece = mux.own_call(BODY)
    assert frames([piece])[0].stream == link_id == 1
    assert mux.from_link([Frame(1, 2, 0, OK)]).own == [(1, OK)]
    second, _ = mux.own_call(BODY)
    mux.forget_own(second)
    assert mux.from_link([Frame(second, 2, 0, OK)]).own == []
    third, _ = mux.own_call(BODY)
    ((_, body),) = mux.from_link([Oversize(third, 2, 0, 5 << 20)]).own
    assert not decode_response(body).ok


def test_ids_begin_again_after_the_last_one_past_those_in_use(monkeypatch):
    monkeypatch.setattr(m, "LAST_ID", 5)
    mux, one = up(), Caller(1)
    mux.from_shim(one, [request(1)], 0)
    for stream in (3, 5, 7, 9):
        (frame,) = frames(mux.from_shim(one, [request(stream)], 0).link)
        assert frame.stream in (3, 5)
        mux.from_link([Frame(frame.stream, 2, 0, OK)])


def test_counting():
    mux, one = Mux(counting=True), Caller(1)
    mux.link_up(0)
    mux.from_shim(one, [request(1), request(3), request(5, b"\xff")], 0)
    bad = Response(Status(5, "gone")).encode()
    out = mux.from_link([Frame(1, 2, 0, OK), Frame(3, 2, 0, bad), Frame(5, 2, 0, OK)])
    name = ("grpc.AgentService", "ReadStdout")
    assert out.done == [(name, 0), (name, 5)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 0),
        (b"\x0a\x00", 0),
        (b"\x0a\x00\x12\x01x", 0),
        (OK, 0),
        (b"\x0a\x05x", 2),
        (Response(Status(9, "")).encode(), 9),
    ],
)
def test_code_of(body, code):
    assert code_of(body) == code


def test_any_mix_of_frames_keeps_the_books_straight():
    """Random frames from both sides: each call is answered at most once, to its caller, under its id."""
    draw = random.Random(7)
    for _ in range(200):
        mux = Mux(max_calls=20, max_waiting=5, max_waiting_bytes=500)
        callers = [Caller(i) for i in range(3)]
        for step in range(60):
            if draw.random() < 0.05:
                (mux.link_down if mux.up else lambda: mux.link_up(step))()
            elif draw.random() < 0.05:
                index = draw.randrange(3)
                mux.gone(callers[index])
                callers[index] = Caller(100 + step)
            elif draw.random() < 0.6:
                frame = Frame(
                    draw.randrange(12), draw.choice([1, 1, 1, 2, 3, 9]), draw.choice([0, 0, 1, 2, 4, 5]), BODY
                )
                out = mux.from_shim(draw.choice(callers), [frame], step)
                assert not out.link or mux.up
            else:
                frame = Frame(draw.randrange(60), draw.choice([2, 2, 3, 1]), draw.choice([0, 1, 5]), OK)
                out = mux.from_link([frame])
                assert set(out.shims) <= set(callers)
            flying = {call for call in mux.calls.values() if call.caller is not None}
            assert flying | set(mux.waiting) == {call for caller in callers for call in caller.calls.values()}
            assert mux._bytes == sum(len(body) for call in mux.waiting for _, _, body in call.held)


def test_encode_frame_is_what_refuse_sends():
    out = m.Out()
    one = Caller(1)
    out.refuse(one, 3, Code.ABORTED, "no")
    assert out.shims[one] == [encode_frame(3, 2, 0, Response(Status(10, "no")).encode())]
