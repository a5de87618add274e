"""Calls between client and agent, as bytes: ids, order, refusals, deadlines, loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.forwarder.calls import MAX_IN_FLIGHT, Calls, read_head
from peerpods.forwarder.guard import AGENT, HEALTH, Guard, Stage
from peerpods.ttrpc import (
    MAX_LENGTH,
    Code,
    FrameDecoder,
    Request,
    Response,
    Status,
    decode_request,
    decode_response,
    encode_frame,
)
from tests.forwarder.recorded import LIVES, frames
from tests.forwarder.test_guard import container, of, sandbox
from tests.forwarder.test_rewrite import PATH


class Bench:
    """`Calls` between two hands."""

    def __init__(self, guard=None, act=lambda verdict: None):
        self.guard = guard or Guard(PATH)
        self.refusals = []
        self.now = 50.0
        self.calls = Calls(self.guard, lambda name, status: self.refusals.append((name, status)), act)

    def ask(self, stream, method="WaitProcess", payload=b"", service=AGENT, timeout=0, send=True):
        body = Request(service, method, payload, timeout).encode()
        self.raw(encode_frame(stream, 1, 0, body), send)

    def raw(self, data, send=True):
        self.calls.client_data(data, self.now)
        if send:
            self.calls.send(self.now)

    def at_agent(self):
        data, self.calls.to_agent[:] = b"".join(self.calls.to_agent), []
        return [(frame.stream, decode_request(frame.body)) for frame in FrameDecoder().feed(data)]

    def at_client(self):
        data, self.calls.to_client[:] = b"".join(self.calls.to_client), []
        return [(frame.stream, decode_response(frame.body)) for frame in FrameDecoder().feed(data)]

    def reply(self, stream, payload=b"", status=None):
        self.calls.agent_data(encode_frame(stream, 2, 0, Response(status, payload).encode()))


def codes(answers):
    return [(stream, answer.status.code if answer.status else 0) for stream, answer in answers]


def test_ids_are_our_own_and_the_callers_come_back():
    bench = Bench()
    bench.ask(7)
    bench.ask(101, "ReadStdout")
    assert [(stream, request.method) for stream, request in bench.at_agent()] == [(1, "WaitProcess"), (3, "ReadStdout")]
    bench.reply(3, b"out")
    bench.reply(1, status=Status(5, "eof"))
    assert [(stream, answer.payload) for stream, answer in bench.at_client()] == [(101, b"out"), (7, b"")]
    assert bench.calls.in_flight == 0


@pytest.mark.parametrize("life", LIVES)
def test_a_recorded_life_keeps_every_byte_but_the_ids_and_the_edits(life):
    bench, ours = Bench(), {}
    passed = 0
    for is_request, frame in frames(life):
        stream = int.from_bytes(frame[4:8], "big")
        if is_request:
            bench.raw(frame)
            data, bench.calls.to_agent[:] = b"".join(bench.calls.to_agent), []
            assert bench.at_client() == []
            request = decode_request(frame[10:])
            if request.method not in ("CreateSandbox", "CreateContainer"):
                assert data[10:] == frame[10:]
            else:
                sent = decode_request(data[10:])
                assert (sent.service, sent.metadata, sent.timeout_nano) == (
                    request.service,
                    request.metadata,
                    request.timeout_nano,
                )
            ours[stream] = data[4:8]
            passed += 1
        elif stream in ours:
            bench.calls.agent_data(frame[:4] + ours.pop(stream) + frame[8:])
            assert b"".join(bench.calls.to_client) == frame
            bench.calls.to_client.clear()
    assert passed > 20
    assert bench.guard.stage is Stage.DESTROYED


def test_the_1025th_call_is_refused_and_the_others_live():
    bench = Bench()
    for number in range(MAX_IN_FLIGHT + 1):
        bench.ask(2 * number + 1)
    assert len(bench.at_agent()) == MAX_IN_FLIGHT == 1024
    assert codes(bench.at_client()) == [(2 * MAX_IN_FLIGHT + 1, Code.RESOURCE_EXHAUSTED)]
    bench.reply(1)
    bench.ask(2 * MAX_IN_FLIGHT + 3)
    assert len(bench.at_agent()) == 1


def test_calls_wait_in_order_for_the_agent_and_their_deadline_shrinks():
    bench = Bench()
    bench.ask(1, "Check", service=HEALTH, timeout=30 * 10**9, send=False)
    bench.ask(3, "WaitProcess", send=False)
    assert bench.calls.waiting
    bench.now += 12
    bench.calls.agent_up()
    bench.calls.send(bench.now)
    sent = bench.at_agent()
    assert [(stream, request.method) for stream, request in sent] == [(1, "Check"), (3, "WaitProcess")]
    assert sent[0][1].timeout_nano == 18 * 10**9
    assert sent[1][1].timeout_nano == 0


def test_calls_whose_time_is_over_end():
    bench = Bench()
    bench.ask(1, "Check", service=HEALTH, timeout=10**9, send=False)
    bench.ask(3, send=False)
    bench.calls.expire(bench.now + 0.9, 150, "x")
    assert bench.at_client() == []
    bench.calls.expire(bench.now + 1.0, 150, "x")
    assert codes(bench.at_client()) == [(1, Code.DEADLINE_EXCEEDED)]
    bench.calls.expire(bench.now + 150, 150, "no agent")
    assert codes(bench.at_client()) == [(3, Code.UNAVAILABLE)]
    assert not bench.calls.waiting
    bench.calls.send(bench.now)
    assert bench.at_agent() == []


def test_a_deadline_that_is_over_on_arrival_is_answered_at_once():
    bench = Bench()
    bench.ask(1, timeout=-5)
    assert codes(bench.at_client()) == [(1, Code.DEADLINE_EXCEEDED)]
    assert bench.at_agent() == []


def test_a_late_answer_is_dropped_but_the_guard_hears_it():
    bench = Bench()
    bench.ask(1, "CreateSandbox", sandbox(), timeout=10**9)
    bench.at_agent()
    bench.calls.expire(bench.now + 2, 150, "x")
    assert codes(bench.at_client()) == [(1, Code.DEADLINE_EXCEEDED)]
    assert bench.guard.stage is Stage.CREATING
    bench.reply(1)
    assert bench.at_client() == []
    assert bench.guard.stage is Stage.READY


def test_a_call_that_ended_while_it_waited_frees_its_place_in_the_order():
    bench = Bench()
    bench.ask(1, "CreateSandbox", sandbox(), timeout=10**9, send=False)
    bench.calls.expire(bench.now + 2, 150, "x")
    assert bench.guard.stage is Stage.NEW


def test_the_guard_follows_the_status_of_the_answer():
    bench = Bench()
    bench.ask(1, "CreateSandbox", sandbox())
    bench.reply(1, status=Status(0, ""))  # as Rust says OK
    bench.ask(3, "CreateContainer", container())
    bench.reply(3, status=Status(13, "no"))
    assert bench.guard.containers == {}
    bench.ask(5, "CreateContainer", container())
    bench.reply(5)
    bench.ask(7, "StartContainer", of())
    assert [request.method for _, request in bench.at_agent()][-1] == "StartContainer"


def test_an_answer_that_is_no_response_counts_as_a_failure_and_travels_on():
    bench = Bench()
    bench.ask(1, "CreateSandbox", sandbox())
    bench.calls.agent_data(encode_frame(1, 2, 0, b"\xff\xff"))
    assert b"".join(bench.calls.to_client) == encode_frame(1, 2, 0, b"\xff\xff")
    assert bench.guard.stage is Stage.NEW


def test_a_lost_agent_ends_what_was_there_and_keeps_what_waits():
    bench = Bench()
    bench.ask(1)
    bench.ask(3, "CreateSandbox", sandbox())
    bench.ask(5, send=False)
    bench.calls.agent_lost("the agent closed its connection")
    answers = bench.at_client()
    assert codes(answers) == [(1, Code.UNAVAILABLE), (3, Code.UNAVAILABLE)]
    assert answers[0][1].status.message == "the agent closed its connection"
    assert bench.guard.stage is Stage.NEW
    bench.at_agent()
    bench.calls.agent_up()
    bench.calls.send(bench.now)
    assert [stream for stream, _ in bench.at_agent()] == [1], "a new connection begins at 1"
    bench.reply(1, b"x")
    assert codes(bench.at_client()) == [(5, 0)]


def test_half_a_frame_of_a_lost_agent_does_not_reach_the_next():
    bench = Bench()
    bench.ask(1)
    bench.calls.agent_data(encode_frame(1, 2, 0, b"\x12\x05hello")[:12])
    bench.calls.agent_lost("x")
    bench.at_client()
    bench.at_agent()
    bench.calls.agent_up()
    bench.ask(3)
    bench.reply(1, b"whole")
    assert [answer.payload for _, answer in bench.at_client()] == [b"whole"]


def test_a_lost_client_leaves_only_what_changes_the_sandbox_to_wait_for():
    bench = Bench()
    bench.ask(1)
    assert not bench.calls.unsettled
    bench.ask(3, "CreateSandbox", sandbox())
    bench.ask(5, "DestroySandbox", send=False)
    assert bench.guard.stage is Stage.DESTROYED
    bench.calls.client_lost()
    assert bench.guard.stage is Stage.CREATING, "a call that never reached the agent has not happened"
    assert bench.calls.unsettled
    bench.reply(3)
    assert not bench.calls.unsettled
    assert bench.guard.stage is Stage.READY
    assert bench.at_client() == []


def test_refusals_are_answered_and_told_without_content():
    bench = Bench()
    bench.ask(1, "ReseedRandomDev", b"secret")
    bench.ask(3, "CreateContainer", b"\x0a\x06secret")
    assert codes(bench.at_client()) == [(1, Code.PERMISSION_DENIED), (3, Code.FAILED_PRECONDITION)]
    assert bench.at_agent() == []
    assert [name for name, _ in bench.refusals] == [f"{AGENT}/ReseedRandomDev", f"{AGENT}/CreateContainer"]
    assert "secret" not in repr(bench.refusals)


def test_what_the_shell_finds_can_still_refuse():
    bench = Bench(act=lambda verdict: Status(7, "a link is in the way"))
    bench.ask(1, "CreateSandbox", sandbox())
    assert codes(bench.at_client()) == [(1, 7)]
    assert bench.guard.stage is Stage.NEW
    assert bench.calls.in_flight == 0


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (encode_frame(2, 1, 0, b""), Code.INVALID_ARGUMENT),
        (encode_frame(0, 1, 0, b""), Code.INVALID_ARGUMENT),
        (encode_frame(9, 1, 0, b"\xff"), Code.INVALID_ARGUMENT),
        (encode_frame(9, 1, 0, b""), Code.PERMISSION_DENIED),
        (encode_frame(9, 1, 0, b"\x0a\x01a\x0a\x01b"), Code.INVALID_ARGUMENT),
        (encode_frame(9, 1, 0, b"\x0a\x02\xff\xff"), Code.INVALID_ARGUMENT),
        (encode_frame(9, 3, 0, b"data"), Code.INVALID_ARGUMENT),
        (encode_frame(9, 3, 0, b""), Code.INVALID_ARGUMENT),
        ((MAX_LENGTH + 1).to_bytes(4, "big") + encode_frame(9, 1, 0, b"")[4:] + bytes(MAX_LENGTH + 1), 8),
    ],
)
def test_a_malformed_frame_gets_an_error_and_the_next_call_passes(frame, code):
    bench = Bench()
    bench.raw(frame)
    assert [found for _, found in codes(bench.at_client())] == [code]
    bench.ask(11)
    assert len(bench.at_agent()) == 1


@pytest.mark.parametrize(
    "frame",
    [encode_frame(9, 2, 0, b""), encode_frame(9, 7, 0, b"x"), encode_frame(9, 3, 4, b""), encode_frame(9, 3, 5, b"")],
)
def test_frames_without_meaning_are_ignored(frame):
    bench = Bench()
    bench.raw(frame)
    assert bench.at_client() == []


def test_an_id_is_used_once():
    bench = Bench()
    bench.ask(5)
    bench.ask(5)
    bench.ask(3)
    assert codes(bench.at_client()) == [(5, Code.INVALID_ARGUMENT)]
    assert len(bench.at_agent()) == 2


def test_a_data_frame_ends_the_call_it_names_and_never_reaches_the_agent():
    bench = Bench()
    bench.ask(1)
    bench.at_agent()
    bench.raw(encode_frame(1, 3, 0, b"x"))
    assert codes(bench.at_client()) == [(1, Code.INVALID_ARGUMENT)]
    assert bench.at_agent() == []
    bench.reply(1)
    assert bench.at_client() == []


def test_flags_of_a_request_do_not_reach_the_agent():
    bench = Bench()
    bench.raw(encode_frame(1, 1, 0xFF, Request(AGENT, "WaitProcess").encode()))
    assert bench.calls.to_agent[0][9] == 0


def test_answers_to_nothing_are_dropped():
    bench = Bench()
    bench.ask(1)
    bench.reply(99, b"stray")
    bench.calls.agent_data(encode_frame(1, 1, 0, b"a request from the agent"))
    assert bench.at_client() == []
    bench.calls.agent_data(encode_frame(1, 3, 0, b"data"))
    assert codes(bench.at_client()) == [(1, Code.INTERNAL)]


def test_an_oversized_answer_is_that_calls_alone():
    bench = Bench()
    bench.ask(1)
    bench.ask(3)
    length = MAX_LENGTH + 1
    bench.calls.agent_data(length.to_bytes(4, "big") + encode_frame(1, 2, 0, b"")[4:] + bytes(length))
    assert codes(bench.at_client()) == [(1, Code.RESOURCE_EXHAUSTED)]
    bench.reply(3, b"fine")
    assert codes(bench.at_client()) == [(3, 0)]


def test_a_rewritten_request_that_no_longer_fits_is_refused():
    bench = Bench()
    bench.ask(1, "CreateSandbox", sandbox())
    bench.reply(1)
    bench.at_agent()
    from peerpods.protocols import agent_pb2

    message = agent_pb2.CreateContainerRequest.FromString(container())
    message.OCI.Hostname = "x"
    size = len(Request(AGENT, "CreateContainer", message.SerializeToString()).encode())
    message.OCI.Hostname = "x" * (MAX_LENGTH - size - 9)
    bench.ask(3, "CreateContainer", message.SerializeToString())
    assert codes(bench.at_client()) == [(1, 0), (3, Code.RESOURCE_EXHAUSTED)]
    assert bench.guard.containers == {}


def test_used_up_ids_are_an_error_not_a_reuse():
    bench = Bench()
    bench.calls._next = 2**32 - 1
    bench.ask(1)
    bench.ask(3, "CreateSandbox", sandbox())
    assert [stream for stream, _ in bench.at_agent()] == [2**32 - 1]
    assert codes(bench.at_client()) == [(3, Code.RESOURCE_EXHAUSTED)]
    assert bench.guard.stage is Stage.NEW


def test_header_progress_is_seen():
    bench = Bench()
    assert not bench.calls.in_header
    frame = encode_frame(1, 1, 0, Request(AGENT, "WaitProcess").encode())
    for size in range(1, 10):
        bench.raw(frame[size - 1 : size])
        assert bench.calls.in_header
    bench.raw(frame[9:10])
    assert not bench.calls.in_header
    bench.raw(frame[10:])
    assert len(bench.at_agent()) == 1


def test_the_head_is_what_a_full_decode_says():
    body = Request(AGENT, "X", b"payload", -7, (("k", "v"),), b"\x7a\x01a").encode()
    head = read_head(body)
    assert (head.service, head.method, body[head.start : head.stop], head.timeout_nano) == (AGENT, "X", b"payload", -7)


@given(st.binary(max_size=80))
def test_any_body_gives_a_head_equal_to_a_full_decode_or_an_error(body):
    try:
        head = read_head(body)
    except ValueError:
        return
    full = decode_request(body)
    assert (head.service, head.method, body[head.start : head.stop]) == (full.service, full.method, full.payload)
    assert head.timeout_nano == full.timeout_nano


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.binary(max_size=40), max_size=6))
def test_no_bytes_from_either_side_raise(from_client, from_agent):
    bench = Bench()
    bench.ask(1)
    for data in from_client:
        bench.raw(data)
    for data in from_agent:
        bench.calls.agent_data(data)
