"""Plays a recorded life as the shim did: the same bytes on the same connections in the same order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from peerpods.protocols import hypervisor_pb2
from peerpods.ttrpc import Request, Response, decode_request, decode_response
from peerpods.ttrpc.frame import Frame, FrameDecoder, encode_frame

FIXTURES = Path(__file__).parent.parent / "fixtures"
LIVES = ("shim-normal-life", "shim-guest-pull")
WITHIN = 20.0  # seconds for one answer
Edit = Callable[[str, Request], Request]
"""(peer, recorded request) to the request that is sent."""


@attrs.frozen(kw_only=True)
class Event:
    """One line of a recording that the player acts on."""

    peer: str
    kind: str
    """OPEN, FRAME (of the shim), RES (its answer), CLOSE (by the shim)."""
    connection: int
    frame: bytes = b""

    @property
    def stream(self) -> int:
        """Of the frame."""
        return int.from_bytes(self.frame[4:8], "big")

    @property
    def request(self) -> Request:
        """The request in a FRAME."""
        return decode_request(self.frame[10:])

    @property
    def response(self) -> Response:
        """The answer in a RES."""
        return decode_response(self.frame[10:])


def read_life(name: str) -> list[Event]:
    """The events of tests/fixtures/<name>.jsonl in order."""
    found = []
    for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["ev"] in ("OPEN", "FRAME", "RES", "CLOSE"):
            frame = bytes.fromhex(event.get("hex", ""))
            found.append(Event(peer=event["peer"], kind=event["ev"], connection=event["conn"], frame=frame))
    return found


def called(events: list[Event], peer: str) -> list[Request]:
    """The requests that one peer got, in order."""
    return [event.request for event in events if event.peer == peer and event.kind == "FRAME"]


class Wire(Protocol):
    """One connection of the shim: keeps every answer frame in order of arrival."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._waiting: dict[int, Deferred[Frame]] = {}
        self.answers: dict[int, Frame] = {}
        self.order: list[int] = []
        self.ended: Deferred[None] = Deferred()
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            assert isinstance(frame, Frame), frame
            assert frame.stream not in self.answers, f"stream {frame.stream} was answered twice"
            self.answers[frame.stream] = frame
            self.order.append(frame.stream)
            if (waiter := self._waiting.pop(frame.stream, None)) is not None:
                waiter.callback(frame)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        for waiter in self._waiting.values():
            waiter.errback(ConnectionError("the connection was lost before the answer came"))
        self.ended.callback(None)

    def answer(self, stream: int) -> Deferred[Frame]:
        """The answer on a stream, now or later."""
        waiter: Deferred[Frame] = Deferred()
        if stream in self.answers:
            waiter.callback(self.answers[stream])
        elif self.lost:
            waiter.errback(ConnectionError("the connection is lost"))
        else:
            self._waiting[stream] = waiter
        return waiter


@attrs.define(kw_only=True)
class Told:
    """One call, what the record has as its answer, and what came."""

    peer: str
    request: Request
    recorded: Response
    given: Response

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.request.service}/{self.request.method}"


@attrs.define(kw_only=True)
class Player:
    """One play of a life.

    Args:
        hypervisor: path of the adaptor's socket.
        edit: what is changed in a request before it is sent (the network namespace's path, at least).
        ordered: whether answers must come in the recorded order; a real agent's need not where nothing orders them.
    """

    reactor: Any
    hypervisor: str
    edit: Edit
    within: float = WITHIN
    ordered: bool = True
    agent_socket: str = ""
    told: list[Told] = attrs.field(factory=list)
    unanswered: list[str] = attrs.field(factory=list)
    """Calls of the record without an answer there (long polls) that had none here either when the shim closed."""
    _wires: dict[tuple[str, int], Wire] = attrs.field(factory=dict)
    _sent: dict[tuple[str, int, int], Request] = attrs.field(factory=dict)

    async def play(self, events: list[Event]) -> None:
        """Act on each event in turn; an answer of the record is awaited before anything after it is done."""
        ordered: dict[tuple[str, int], list[int]] = {}
        for event in events:
            key = (event.peer, event.connection)
            if event.kind == "OPEN":
                path = self.hypervisor if event.peer == "hyp" else self.agent_socket
                self._wires[key] = await connectProtocol(UNIXClientEndpoint(self.reactor, path), Wire())
                ordered[key] = []
            elif event.kind == "FRAME":
                self._send(event)
            elif event.kind == "RES":
                ordered[key].append(event.stream)
                await self._await_answer(event)
            elif event.kind == "CLOSE":
                await self._close(event, ordered[key])

    def _send(self, event: Event) -> None:
        request = self.edit(event.peer, event.request)
        frame = event.frame if request == event.request else encode_frame(event.stream, 1, 0, request.encode())
        self._sent[event.peer, event.connection, event.stream] = request
        transport = self._wires[event.peer, event.connection].transport
        assert transport is not None
        transport.write(frame)

    async def _await_answer(self, event: Event) -> None:
        request = self._sent[event.peer, event.connection, event.stream]
        answer = self._wires[event.peer, event.connection].answer(event.stream)
        try:
            frame = await answer.addTimeout(self.within, self.reactor)
        except Exception as error:
            raise AssertionError(f"{request.service}/{request.method} (stream {event.stream}): {error!r}") from error
        assert (frame.type, frame.flags) == (2, 0)
        given = decode_response(frame.body)
        self.told.append(Told(peer=event.peer, request=request, recorded=event.response, given=given))
        if request.method == "CreateVM":
            assert given.status is None, given.status
            self.agent_socket = hypervisor_pb2.CreateVMResponse.FromString(given.payload).agentSocketPath

    async def _close(self, event: Event, recorded: list[int]) -> None:
        """The shim closes: until then exactly the recorded answers came, in the recorded order."""
        wire = self._wires[event.peer, event.connection]
        assert set(recorded) <= set(wire.order)
        if self.ordered:
            assert wire.order[: len(recorded)] == recorded, (wire.order, recorded)
        for stream in set(wire.order) - set(recorded):
            # Only the end of the sandbox (INTERNAL, UNAVAILABLE) may answer what the record leaves open.
            answer = decode_response(wire.answers[stream].body)
            assert answer.status is not None and answer.status.code in (13, 14), answer
        for (peer, connection, stream), request in self._sent.items():
            if (peer, connection) == (event.peer, event.connection) and stream not in recorded:
                self.unanswered.append(request.method)
        if wire.transport is not None and not wire.lost:
            wire.transport.loseConnection()
            await wire.ended.addTimeout(self.within, self.reactor)
