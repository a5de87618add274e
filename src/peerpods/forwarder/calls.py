"""One connection's calls between client and agent: which answer belongs to whom. Pure: bytes in, bytes out.

Frames pass undecoded under new stream ids; of a request only the envelope's fields are looked at, and of the few calls
that the guard checks, the request itself. Each agent connection is given its own `Calls.agent_up`, and its ids begin
at 1 there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import attrs

from peerpods.forwarder.guard import Guard, Pass
from peerpods.ttrpc.connection import StreamIds
from peerpods.ttrpc.envelope import Request, Response, decode_request, decode_response
from peerpods.ttrpc.fields import fields, read_varint
from peerpods.ttrpc.frame import (
    HEADER_SIZE,
    MAX_LENGTH,
    MAX_STREAM,
    Flag,
    Frame,
    FrameDecoder,
    FrameType,
    Oversize,
    encode_frame,
    encode_header,
)
from peerpods.ttrpc.status import DEADLINE, Code, Status, oversize_status

MAX_IN_FLIGHT = 1024  # calls of one connection; security.md 6, duty 3, with the reading
_REQUEST, _RESPONSE, _DATA = int(FrameType.REQUEST), int(FrameType.RESPONSE), int(FrameType.DATA)
_KNOWN = {0x0A, 0x12, 0x1A, 0x20}


class Head(NamedTuple):
    """What the forwarder reads of a request's envelope."""

    service: str
    method: str
    start: int
    """Of the payload in the body."""
    stop: int
    timeout_nano: int


def read_head(body: bytes) -> Head:
    """Read an envelope that every decoder reads alike: no field twice, none with a wrong wire type.

    Raises:
        ValueError: when it is not such a one.
    """
    service = method = ""
    start = stop = nano = 0
    seen = 0
    for tag, _, pos, end in fields(body):
        number = tag >> 3
        if number > 5:
            continue
        if tag not in _KNOWN:
            if tag == 0x2A:
                continue
            raise ValueError(f"field {number} has the wrong wire type")
        if seen >> number & 1:
            raise ValueError(f"field {number} is there twice")
        seen |= 1 << number
        if tag == 0x0A:
            service = body[pos:end].decode()
        elif tag == 0x12:
            method = body[pos:end].decode()
        elif tag == 0x1A:
            start, stop = pos, end
        else:
            nano = read_varint(body, pos)[0]
            nano -= (nano >> 63) << 64
    return Head(service, method, start, stop, nano)


@attrs.define(eq=False)
class Call:
    """A call that passed the guard."""

    stream: int
    """The client's id."""
    name: str
    """service/method, for logs."""
    body: bytes | None
    """Until it is sent."""
    verdict: Pass
    arrived: float
    deadline: float | None
    agent_stream: int = 0
    """0 until it is sent."""

    def settle(self, ok: bool) -> None:
        """Tell the guard how it ended."""
        if self.verdict.settle is not None:
            self.verdict.settle(ok)


class Calls:
    """The calls of one client connection.

    Args:
        guard: decides.
        refused: told of each refusal: (service/method, status).
        act: carries out what a call needs right before it passes; gives a status to refuse it with.
    """

    def __init__(
        self,
        guard: Guard,
        refused: Callable[[str, Status], None],
        act: Callable[[Pass], Status | None],
    ) -> None:
        self._guard = guard
        self._refused = refused
        self._act = act
        self._client = FrameDecoder()
        self._agent = FrameDecoder()
        self._ids = StreamIds()
        self._next = 1
        self._open: dict[int, Call] = {}  # by the client's id
        self._sent: dict[int, Call] = {}  # by the agent's id
        self._waiting: list[Call] = []
        self.to_client: list[bytes] = []
        """What is to be written to the client; the owner empties it."""
        self.to_agent: list[bytes] = []
        """What is to be written to the agent; the owner empties it."""

    # -- what the owner asks

    @property
    def in_header(self) -> bool:
        """Whether the client has begun a header and not finished it."""
        return 0 < self._client.buffered < HEADER_SIZE

    @property
    def waiting(self) -> bool:
        """Whether calls wait for the agent."""
        return bool(self._waiting)

    @property
    def in_flight(self) -> int:
        """Calls that wait for the agent or are there; those too for whose answer nobody waits any more."""
        return len(self._sent) + len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Size of the calls that wait for the agent."""
        return sum(len(call.body or b"") for call in self._waiting)

    @property
    def unsettled(self) -> bool:
        """Whether a call is at the agent whose answer changes the guard's state."""
        return any(call.verdict.settle is not None for call in self._sent.values())

    # -- from the client

    def client_data(self, data: bytes, now: float) -> None:
        """Take bytes from the client. Calls that pass wait until `send`."""
        for frame in self._client.feed(data):
            if isinstance(frame, Oversize):
                if frame.type in (_REQUEST, _DATA):
                    self._drop_open(frame.stream)
                    self._ids.use(frame.stream)
                    self._answer(frame.stream, oversize_status(frame.length, MAX_LENGTH))
            elif frame.type == _REQUEST:
                self._request(frame, now)
            elif frame.type == _DATA and frame.flags & Flag.NO_DATA == 0:
                self._drop_open(frame.stream)
                self._answer(frame.stream, Status(Code.INVALID_ARGUMENT, "the agent's calls take no data frames"))

    def _request(self, frame: Frame, now: float) -> None:
        stream = frame.stream
        if not stream & 1:
            text = "StreamID must be odd for client initiated streams"
            self._answer(stream, Status(Code.INVALID_ARGUMENT, text))
            return
        if not self._ids.use(stream):
            self._answer(stream, Status(Code.INVALID_ARGUMENT, "StreamID has been used on this connection"))
            return
        if self.in_flight >= MAX_IN_FLIGHT:
            text = f"{MAX_IN_FLIGHT} calls are in flight, wait for an answer before the next"
            self._refuse(stream, "", Status(Code.RESOURCE_EXHAUSTED, text))
            return
        body = frame.body
        try:
            head = read_head(body)
        except ValueError as error:
            self._refuse(stream, "", Status(Code.INVALID_ARGUMENT, f"the request cannot be read: {error}"))
            return
        name = f"{head.service[:60]}/{head.method[:60]}"
        if head.timeout_nano < 0:
            self._answer(stream, DEADLINE)
            return
        checked = self._guard.needs_payload(head.service, head.method)
        verdict = self._guard.check(head.service, head.method, body[head.start : head.stop] if checked else b"")
        if isinstance(verdict, Status):
            self._refuse(stream, name, verdict)
            return
        if verdict.payload is not None:
            body = _with(decode_request(body), payload=verdict.payload)
        deadline = now + head.timeout_nano / 1e9 if head.timeout_nano else None
        call = Call(stream, name, body, verdict, now, deadline)
        if len(body) > MAX_LENGTH:
            call.settle(False)
            self._refuse(stream, name, oversize_status(len(body), MAX_LENGTH))
            return
        self._open[stream] = call
        self._waiting.append(call)

    # -- to the agent

    def send(self, now: float) -> None:
        """The agent is there: pass on the calls that wait, in order."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            body = call.body
            if self._open.get(call.stream) is not call or body is None:
                continue
            refusal = self._act(call.verdict)
            if refusal is None and self._next > MAX_STREAM:
                refusal = Status(Code.RESOURCE_EXHAUSTED, "the agent connection has used all its stream ids")
            if refusal is not None:
                self._drop_open(call.stream)
                self._refuse(call.stream, call.name, refusal)
                continue
            if call.deadline is not None and now > call.arrived:
                body = _with(decode_request(body), timeout_nano=max(1, int((call.deadline - now) * 1e9)))
            call.agent_stream = self._next
            self._next += 2
            self._sent[call.agent_stream] = call
            call.body = None
            self.to_agent += (encode_header(len(body), call.agent_stream, _REQUEST, 0), body)

    def agent_up(self) -> None:
        """A new connection to the agent: its ids begin anew."""
        self._agent = FrameDecoder()
        self._next = 1

    def agent_lost(self, text: str) -> None:
        """The agent is gone: the calls that were there end with UNAVAILABLE; those that wait go on waiting."""
        sent, self._sent = self._sent, {}
        for call in sent.values():
            call.settle(False)
            if self._open.pop(call.stream, None) is not None:
                self._answer(call.stream, Status(Code.UNAVAILABLE, text))

    # -- from the agent

    def agent_data(self, data: bytes) -> None:
        """Take bytes from the agent. What is no answer to a call of ours is dropped."""
        for frame in self._agent.feed(data):
            call = self._sent.get(frame.stream)
            if call is None or frame.type not in (_RESPONSE, _DATA):
                continue
            del self._sent[frame.stream]
            stays = self._open.pop(call.stream, None) is not None
            if isinstance(frame, Oversize):
                status: Status | None = oversize_status(frame.length, MAX_LENGTH)
            elif frame.type == _DATA:
                status = Status(Code.INTERNAL, "the agent answered with a data frame")
            else:
                status = None
            call.settle(status is None and isinstance(frame, Frame) and _ok(frame.body, call))
            if not stays:
                continue
            if status is not None:
                self._answer(call.stream, status)
            elif isinstance(frame, Frame):
                self.to_client += (encode_header(len(frame.body), call.stream, _RESPONSE, frame.flags), frame.body)

    # -- time and end

    def expire(self, now: float, longest_wait: float, text: str) -> None:
        """End the calls whose deadline has passed, and those that have waited `longest_wait` seconds for the agent."""
        for call in list(self._open.values()):
            if call.deadline is not None and call.deadline <= now:
                self._end(call, DEADLINE)
            elif not call.agent_stream and now - call.arrived >= longest_wait:
                self._end(call, Status(Code.UNAVAILABLE, text))
        self._prune()

    def _prune(self) -> None:
        self._waiting = [call for call in self._waiting if self._open.get(call.stream) is call]

    def _end(self, call: Call, status: Status) -> None:
        """Answer a call for the agent. If it is there, the guard still hears of the agent's own answer."""
        del self._open[call.stream]
        if not call.agent_stream:
            call.settle(False)
        self._answer(call.stream, status)

    def client_lost(self) -> None:
        """Nobody waits for answers any more; calls that have not reached the agent never will."""
        for call in self._waiting:
            if self._open.get(call.stream) is call:
                call.settle(False)
        self._waiting.clear()
        self._open.clear()

    def _drop_open(self, stream: int) -> None:
        call = self._open.pop(stream, None)
        if call is not None and not call.agent_stream:
            call.settle(False)
            self._prune()

    def _answer(self, stream: int, status: Status) -> None:
        self.to_client.append(encode_frame(stream, _RESPONSE, 0, Response(status).encode()))

    def _refuse(self, stream: int, name: str, status: Status) -> None:
        self._refused(name, status)
        self._answer(stream, status)


def _with(request: Request, *, payload: bytes | None = None, timeout_nano: int | None = None) -> bytes:
    return Request(
        request.service,
        request.method,
        request.payload if payload is None else payload,
        request.timeout_nano if timeout_nano is None else timeout_nano,
        request.metadata,
        request.unknown,
    ).encode()


def _ok(body: bytes, call: Call) -> bool:
    if call.verdict.settle is None:
        return True
    try:
        return decode_response(body).ok
    except ValueError:
        return False
