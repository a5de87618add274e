"""Time and back-pressure of a link, on a clock."""

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from peerpods.forwarder.guard import AGENT, Guard
from peerpods.forwarder.link import AGENT_WAIT, HEADER_TIME, MAX_REFUSAL_LINES, MAX_WAITING, Link
from peerpods.ttrpc import Code, FrameDecoder, Request, decode_response, encode_frame


class Transport(StringTransport):
    def abortConnection(self):
        self.disconnecting = True


class Alone:
    """A link whose agent is not there."""

    def __init__(self, path):
        self.clock = Clock()
        self.ended = []
        self.link = Link(
            self.clock, Guard("/n"), str(path / "none"), changed=lambda: None, ended=self.ended.append, root=str(path)
        )
        self.transport = Transport()
        self.link.makeConnection(self.transport)

    def ask(self, stream, payload=b"", timeout=0):
        body = Request(AGENT, "WriteStdin", payload, timeout).encode()
        self.link.dataReceived(encode_frame(stream, 1, 0, body))

    def answers(self):
        frames = FrameDecoder().feed(self.transport.value())
        self.transport.clear()
        return [(frame.stream, decode_response(frame.body).status.code) for frame in frames]

    def close(self):
        self.link.connectionLost()
        assert self.ended == [self.link]
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def alone(tmp_path):
    made = Alone(tmp_path)
    yield made
    if not made.ended:
        made.close()


def test_a_header_that_does_not_come_whole_in_time_ends_the_connection(alone):
    alone.link.dataReceived(b"\0")
    alone.clock.advance(HEADER_TIME - 1)
    alone.link.dataReceived(b"\0\0")
    assert not alone.transport.disconnecting
    alone.clock.advance(1)
    assert alone.transport.disconnecting, "more bytes do not begin the time anew"


def test_whole_headers_have_all_the_time(alone):
    frame = encode_frame(1, 1, 0, Request(AGENT, "GetMetrics").encode())
    alone.link.dataReceived(frame[:9])
    alone.clock.advance(HEADER_TIME - 0.1)
    alone.link.dataReceived(frame[9:12])
    alone.clock.pump([1] * 60)
    assert not alone.transport.disconnecting
    alone.link.dataReceived(frame[12:] + frame[:3])
    alone.clock.advance(HEADER_TIME)
    assert alone.transport.disconnecting


def test_without_an_agent_calls_end_at_their_deadline_or_after_the_longest_wait(alone):
    alone.ask(1, timeout=5 * 10**9)
    alone.ask(3)
    alone.clock.pump([1] * 4)
    assert alone.answers() == []
    alone.clock.pump([1] * 2)
    assert alone.answers() == [(1, Code.DEADLINE_EXCEEDED)]
    alone.clock.pump([1] * int(AGENT_WAIT))
    assert alone.answers() == [(3, Code.UNAVAILABLE)]


def test_nobody_is_dialled_when_nothing_waits(alone):
    alone.ask(1, timeout=10**9)
    alone.clock.pump([0.5] * 6)
    assert len(alone.clock.getDelayedCalls()) == 1, "only the sweep is left"


def test_what_waits_is_bounded_and_then_the_client_is_not_read(alone):
    for number in range(MAX_WAITING // (1 << 20)):
        alone.ask(2 * number + 1, bytes(1 << 20), timeout=5 * 10**9)
        assert (alone.transport.producerState == "paused") is (number == MAX_WAITING // (1 << 20) - 1)
    alone.clock.pump([1] * 7)
    assert alone.transport.producerState == "producing"
    assert len(alone.answers()) == MAX_WAITING // (1 << 20)


def test_a_header_is_not_late_when_it_is_we_who_do_not_read(alone):
    for number in range(MAX_WAITING // (1 << 20)):
        alone.ask(2 * number + 1, bytes(1 << 20))
    alone.link.dataReceived(b"\0\0")
    alone.clock.pump([1] * 30)
    assert not alone.transport.disconnecting


def test_hostile_frames_are_answered_and_leave_no_trace(alone, capsys):
    junk = b"".join(
        encode_frame(4 * number + 1, 1, 0, b"\xff") + encode_frame(4 * number + 3, 3, 0, b"x") for number in range(500)
    )
    for _ in range(20):
        alone.link.dataReceived(junk)
    assert len(alone.transport.value()) > 20 * 1000 * 10
    assert alone.link.calls.in_flight == 0
    assert capsys.readouterr().err.count('"refused"') <= MAX_REFUSAL_LINES


def test_a_client_that_goes_leaves_nothing_behind(alone):
    alone.ask(1)
    alone.link.dataReceived(b"\0")
    alone.close()
