"""A connection as a pure object: bytes in, events and bytes out.

`ServerCore` and `ClientCore` know frames, stream ids and the state of each stream, and nothing else: no socket, no
clock, no handler. The caller feeds what it received to `receive`, acts on the events, and writes what `take` gives.
A wrong frame is answered, or ignored, here; nothing a peer sends raises.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from peerpods.ttrpc.envelope import Request, Response, decode_request, decode_response
from peerpods.ttrpc.frame import MAX_LENGTH, MAX_STREAM, Flag, Frame, FrameDecoder, FrameType, Oversize, encode_frame
from peerpods.ttrpc.status import Code, Status, StatusError, oversize_status

_REQUEST, _RESPONSE, _DATA = int(FrameType.REQUEST), int(FrameType.RESPONSE), int(FrameType.DATA)
_CLOSED, _OPEN, _NO_DATA = int(Flag.REMOTE_CLOSED), int(Flag.REMOTE_OPEN), int(Flag.NO_DATA)
_END = _CLOSED | _NO_DATA

REMEMBERED_GAPS = 1024  # skipped ids below the highest seen that may still be used, per connection


class Shape(enum.Enum):
    """Which sides of a call may send more than one message.

    Attributes:
        client_streams: the client's messages come in data frames.
        server_streams: the server's messages go in data frames.
    """

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI = "bidi"

    def __init__(self, kind: str) -> None:
        self.client_streams = kind in ("client_stream", "bidi")
        self.server_streams = kind in ("server_stream", "bidi")


class CallStarted(NamedTuple):
    """Server: a call to run. For shapes where the client streams, messages follow as MessageReceived."""

    stream: int
    shape: Shape
    request: Request


class MessageReceived(NamedTuple):
    """Either side: one message of a stream, encoded."""

    stream: int
    payload: bytes


class RemoteClosed(NamedTuple):
    """Either side: the peer sends no more messages on this stream. For a client the call has ended well."""

    stream: int


class CallAborted(NamedTuple):
    """Server: the core has answered this call itself because of what the client sent; stop its handler."""

    stream: int
    status: Status


class Answered(NamedTuple):
    """Client: the last frame of a call."""

    stream: int
    response: Response


class CallFailed(NamedTuple):
    """Client: the answer to this call was unusable."""

    stream: int
    status: Status


ServerEvent = CallStarted | MessageReceived | RemoteClosed | CallAborted
ClientEvent = Answered | MessageReceived | RemoteClosed | CallFailed
Route = Callable[[Request], Shape | Status]


class StreamIds:
    """Which ids a client has used, in bounded memory.

    Ids are odd and used once. They may come out of order (the Rust client allocates and writes in two steps), so
    the nearest REMEMBERED_GAPS skipped ids stay usable; older ones count as used.
    """

    __slots__ = ("_gaps", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._gaps: dict[int, None] = {}  # in rising order of insertion

    def use(self, stream: int) -> bool:
        """Take an odd id; False when it was used before (or so long ago that nobody knows)."""
        if stream > self.highest:
            first = max(self.highest + 2, stream - 2 * REMEMBERED_GAPS)
            if first < stream:
                for gap in range(first, stream, 2):
                    self._gaps[gap] = None
                while len(self._gaps) > REMEMBERED_GAPS:
                    del self._gaps[next(iter(self._gaps))]
            self.highest = stream
            return True
        if stream in self._gaps:
            del self._gaps[stream]
            return True
        return False


class _Core:
    """What both sides share: the decoder and the bytes waiting to be written."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._out: list[bytes] = []

    def take(self) -> bytes:
        """The bytes to write now, joined; empty when there are none."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data


class _ServerStream:
    __slots__ = ("receiving", "shape")

    def __init__(self, shape: Shape, receiving: bool) -> None:
        self.shape = shape
        self.receiving = receiving


class ServerCore(_Core):
    """The server's side.

    Args:
        route: tells the shape of the call a request asks for, or the status to refuse it with.
        max_in_flight: calls that may be open at once; the next is refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, route: Route, max_in_flight: int = 1024) -> None:
        super().__init__()
        self._route = route
        self._max = max_in_flight
        self._ids = StreamIds()
        self._streams: dict[int, _ServerStream] = {}

    def __contains__(self, stream: int) -> bool:
        return stream in self._streams

    @property
    def in_flight(self) -> int:
        """Calls that have begun and are not answered."""
        return len(self._streams)

    def receive(self, data: bytes) -> list[ServerEvent]:
        """Take bytes from the client."""
        events: list[ServerEvent] = []
        for frame in self._decoder.feed(data):
            if frame.type == _REQUEST:
                self._request(frame, events)
            elif frame.type == _DATA:
                self._data(frame, events)
        return events

    def _refuse(self, stream: int, code: Code, text: str) -> None:
        self._write_response(stream, Response(Status(code, text)))

    def _abort(self, stream: int, status: Status, events: list[ServerEvent]) -> None:
        self._write_response(stream, Response(status))
        if self._streams.pop(stream, None) is not None:
            events.append(CallAborted(stream, status))

    def _request(self, frame: Frame | Oversize, events: list[ServerEvent]) -> None:
        stream = frame.stream
        if not stream & 1:
            self._refuse(stream, Code.INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
            return
        if not self._ids.use(stream):
            self._refuse(stream, Code.INVALID_ARGUMENT, "StreamID cannot be re-used and must increment")
            return
        if isinstance(frame, Oversize):
            self._write_response(stream, Response(oversize_status(frame.length, MAX_LENGTH)))
            return
        try:
            request = decode_request(frame.body)
        except ValueError as error:
            self._refuse(stream, Code.INVALID_ARGUMENT, f"unmarshal request error: {error}")
            return
        if len(self._streams) >= self._max:
            self._refuse(stream, Code.RESOURCE_EXHAUSTED, f"{self._max} calls are in flight on this connection")
            return
        shape = self._route(request)
        if isinstance(shape, Status):
            self._write_response(stream, Response(shape))
            return
        receiving = shape.client_streams and not frame.flags & _CLOSED
        self._streams[stream] = _ServerStream(shape, receiving)
        events.append(CallStarted(stream, shape, request))
        if shape.client_streams:
            if request.payload:
                events.append(MessageReceived(stream, request.payload))
            if not receiving:
                events.append(RemoteClosed(stream))

    def _data(self, frame: Frame | Oversize, events: list[ServerEvent]) -> None:
        stream = frame.stream
        state = self._streams.get(stream)
        if isinstance(frame, Oversize):
            self._abort(stream, oversize_status(frame.length, MAX_LENGTH), events)
            return
        if state is None:
            self._refuse(stream, Code.INVALID_ARGUMENT, "StreamID is no longer active")
            return
        if not frame.flags & _NO_DATA:
            # A closing frame with an empty body is only a close: Go peers put no message there.
            message = bool(frame.body) or not frame.flags & _CLOSED
            if message and not state.receiving:
                text = "data after the end of the client's stream"
                if not state.shape.client_streams:
                    text = "data for a stream that takes none"
                self._abort(stream, Status(Code.INVALID_ARGUMENT, text), events)
                return
            if message:
                events.append(MessageReceived(stream, frame.body))
        if frame.flags & _CLOSED and state.receiving:
            state.receiving = False
            events.append(RemoteClosed(stream))

    def _write_response(self, stream: int, response: Response) -> None:
        body = response.encode()
        if len(body) > MAX_LENGTH:
            body = Response(oversize_status(len(body), MAX_LENGTH)).encode()
        self._out.append(encode_frame(stream, _RESPONSE, 0, body))

    def respond(self, stream: int, response: Response) -> bool:
        """End a call with an answer; one that is too long becomes RESOURCE_EXHAUSTED. False when it had ended."""
        if self._streams.pop(stream, None) is None:
            return False
        self._write_response(stream, response)
        return True

    def send_message(self, stream: int, payload: bytes) -> bool:
        """Send one message of a call whose server streams. False when the call has ended.

        Raises StatusError when the message is too long: nothing is sent and the call goes on.
        """
        if stream not in self._streams:
            return False
        if len(payload) > MAX_LENGTH:
            raise StatusError(oversize_status(len(payload), MAX_LENGTH))
        self._out.append(encode_frame(stream, _DATA, 0, payload))
        return True

    def finish(self, stream: int) -> bool:
        """End a call whose server streams, well. False when it had ended."""
        if self._streams.pop(stream, None) is None:
            return False
        self._out.append(encode_frame(stream, _DATA, _END, b""))
        return True


class _ClientStream:
    __slots__ = ("open", "shape")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.open = shape.client_streams  # whether we may still send


class ClientCore(_Core):
    """The client's side. Ids are 1, 3, 5, … and each is taken together with writing its request."""

    def __init__(self, first: int = 1) -> None:
        super().__init__()
        self._next = first
        self._streams: dict[int, _ClientStream] = {}

    def __contains__(self, stream: int) -> bool:
        return stream in self._streams

    @property
    def in_flight(self) -> int:
        """Calls whose answer is awaited."""
        return len(self._streams)

    def start(self, request: Request, shape: Shape = Shape.UNARY) -> int:
        """Begin a call; gives its stream id.

        Raises StatusError RESOURCE_EXHAUSTED when the request is too long or the ids are used up: nothing is sent.
        """
        body = request.encode()
        if len(body) > MAX_LENGTH:
            raise StatusError(oversize_status(len(body), MAX_LENGTH))
        stream = self._next
        if stream > MAX_STREAM:
            raise StatusError(
                Status(Code.RESOURCE_EXHAUSTED, "the connection has used all its stream ids, open another")
            )
        self._next += 2
        flags = 0
        if shape is not Shape.UNARY:
            flags = _OPEN if shape.client_streams else _CLOSED
        self._streams[stream] = _ClientStream(shape)
        self._out.append(encode_frame(stream, _REQUEST, flags, body))
        return stream

    def send_message(self, stream: int, payload: bytes) -> bool:
        """Send one message. False when the call has ended or is closed on our side.

        Raises StatusError when the message is too long: nothing is sent.
        """
        state = self._streams.get(stream)
        if state is None or not state.open:
            return False
        if len(payload) > MAX_LENGTH:
            raise StatusError(oversize_status(len(payload), MAX_LENGTH))
        self._out.append(encode_frame(stream, _DATA, 0, payload))
        return True

    def close_send(self, stream: int) -> bool:
        """Say that no more messages come from us. False when that was said, or the call has ended."""
        state = self._streams.get(stream)
        if state is None or not state.open:
            return False
        state.open = False
        self._out.append(encode_frame(stream, _DATA, _END, b""))
        return True

    def forget(self, stream: int) -> None:
        """Stop caring for a call. Nothing is sent: the protocol has no cancel, and a late answer is dropped."""
        self._streams.pop(stream, None)

    def receive(self, data: bytes) -> list[ClientEvent]:
        """Take bytes from the server. Frames for calls that are not ours (any more) are dropped."""
        events: list[ClientEvent] = []
        for frame in self._decoder.feed(data):
            state = self._streams.get(frame.stream)
            if state is None:
                continue
            if isinstance(frame, Oversize):
                if frame.type in (_RESPONSE, _DATA):
                    self._fail(frame.stream, oversize_status(frame.length, MAX_LENGTH), events)
            elif frame.type == _RESPONSE:
                self._response(frame, events)
            elif frame.type == _DATA:
                self._data(frame, state, events)
        return events

    def _fail(self, stream: int, status: Status, events: list[ClientEvent]) -> None:
        del self._streams[stream]
        events.append(CallFailed(stream, status))

    def _response(self, frame: Frame, events: list[ClientEvent]) -> None:
        try:
            response = decode_response(frame.body)
        except ValueError as error:
            self._fail(frame.stream, Status(Code.INTERNAL, f"the answer is not a response: {error}"), events)
            return
        del self._streams[frame.stream]
        events.append(Answered(frame.stream, response))

    def _data(self, frame: Frame, state: _ClientStream, events: list[ClientEvent]) -> None:
        stream = frame.stream
        if not state.shape.server_streams:
            status = Status(Code.INTERNAL, "the server sent a data frame to a call with a single answer")
            self._fail(stream, status, events)
            return
        if not frame.flags & _NO_DATA and (frame.body or not frame.flags & _CLOSED):
            events.append(MessageReceived(stream, frame.body))
        if frame.flags & _CLOSED:
            del self._streams[stream]
            events.append(RemoteClosed(stream))
