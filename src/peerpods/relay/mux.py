"""All shim connections of one pod on one link: a pure core. Frames in, bytes to send out; bodies are never opened.

Each call of a shim gets the next odd stream id of the link, allocated with the write; the answer gets the caller's id
back. While the link is down, calls wait within their own deadline, bounded in number and bytes. Neither side is
trusted: what does not fit a call in flight is dropped (wire.md 1.5, 1.6: one stray DATA frame kills a Go peer).
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from peerpods.ttrpc import (
    HEADER,
    MAX_LENGTH,
    Code,
    Flag,
    Frame,
    FrameType,
    Oversize,
    Response,
    Status,
    decode_request,
    decode_response,
    encode_frame,
    peek_method,
)

MAX_CALLS = 1024
"""Calls of one pod in flight; the forwarder takes no more either."""
MAX_WAITING = 256
"""Calls of one pod that wait for the link."""
MAX_WAITING_BYTES = 16 << 20
LAST_ID = (1 << 32) - 1

_REQUEST = int(FrameType.REQUEST)
_RESPONSE = int(FrameType.RESPONSE)
_DATA = int(FrameType.DATA)
_CLOSED = int(Flag.REMOTE_CLOSED)
_OPEN = int(Flag.REMOTE_OPEN)
_STREAMING = _CLOSED | _OPEN


Name = tuple[str, str]
"""(service, method)."""


class Caller:
    """One shim connection, as the core sees it."""

    __slots__ = ("calls", "completed", "id")

    def __init__(self, id: int) -> None:
        self.id = id
        self.calls: dict[int, Call] = {}
        """Its stream ids in use."""
        self.completed = 0
        """Calls answered by the VM."""


class Call:
    """A call on its way."""

    __slots__ = ("caller", "deadline", "held", "link_id", "method", "sending", "stream", "streaming")

    def __init__(self, caller: Caller | None, stream: int, flags: int) -> None:
        self.caller = caller
        """None for the relay's own calls."""
        self.stream = stream
        self.streaming = bool(flags & _STREAMING)
        self.sending = bool(flags & _OPEN)
        """The client may send DATA still."""
        self.link_id = 0
        """0 while it waits for the link."""
        self.held: list[tuple[int, int, bytes]] = []
        """(type, flags, body) of its frames while it waits."""
        self.deadline: float | None = None
        self.method: Name | None = None
        """For the count; None when nobody counts or the envelope makes no sense."""


@attrs.define
class Out:
    """What to send: pieces for the link, and pieces for each shim connection."""

    link: list[bytes] = attrs.field(factory=list)
    shims: dict[Caller, list[bytes]] = attrs.field(factory=dict)
    own: list[tuple[int, bytes]] = attrs.field(factory=list)
    """(link id, response body) of answers to the relay's own calls."""
    first: list[Caller] = attrs.field(factory=list)
    """Callers that completed their first call."""
    done: list[tuple[Name, int]] = attrs.field(factory=list)
    """Calls that the VM answered, with the status code."""

    def say(self, caller: Caller, *pieces: bytes) -> None:
        """Add pieces for a shim connection."""
        self.shims.setdefault(caller, []).extend(pieces)

    def refuse(self, caller: Caller, stream: int, code: Code, text: str) -> None:
        """Add an answer of the relay itself."""
        self.say(caller, encode_frame(stream, _RESPONSE, 0, Response(Status(code, text)).encode()))


def code_of(body: bytes) -> int:
    """Status code of an answer. Success is told from its first bytes: Go leaves the status out, Rust's is empty."""
    if body[:1] != b"\x0a" or body[:2] == b"\x0a\x00":
        return 0
    try:
        status = decode_response(body).status
    except ValueError:
        return int(Code.UNKNOWN)
    return status.code if status is not None else 0


class Mux:
    """The calls of one pod. `now` is in seconds, monotonic."""

    def __init__(
        self,
        *,
        max_calls: int = MAX_CALLS,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        counting: bool = False,
    ) -> None:
        self.up = False
        self.calls: dict[int, Call] = {}
        """In flight, by link id."""
        self.waiting: dict[Call, None] = {}
        self.stray = 0
        """Frames dropped because they belong to no call."""
        self._bytes = 0
        self._next = 1
        self._counting = counting
        self._max_calls = max_calls
        self._max_waiting = max_waiting
        self._max_bytes = max_waiting_bytes

    # -- from the shims

    def from_shim(self, caller: Caller, frames: Iterable[Frame | Oversize], now: float) -> Out:
        """Take frames of a shim connection."""
        out = Out()
        for frame in frames:
            if isinstance(frame, Oversize):
                text = f"message length {frame.length} exceed maximum message size of {MAX_LENGTH}"
                out.refuse(caller, frame.stream, Code.RESOURCE_EXHAUSTED, text)
            elif frame.type == _REQUEST:
                self._request(caller, frame, now, out)
            elif frame.type == _DATA:
                self._data(caller, frame, out)
            else:
                self.stray += 1
        return out

    def _request(self, caller: Caller, frame: Frame, now: float, out: Out) -> None:
        stream, type_, flags, body = frame
        if not stream & 1:
            text = "StreamID must be odd for client initiated streams"
            out.refuse(caller, stream, Code.INVALID_ARGUMENT, text)
        elif stream in caller.calls:
            out.refuse(caller, stream, Code.INVALID_ARGUMENT, f"StreamID {stream} is in use")
        elif len(self.calls) + len(self.waiting) >= self._max_calls:
            text = f"more than {self._max_calls} calls of this pod are in flight"
            out.refuse(caller, stream, Code.RESOURCE_EXHAUSTED, text)
        elif self.up:
            call = self._new(caller, stream, flags, body)
            caller.calls[stream] = call
            link_id = self._allot(call)
            out.link += (HEADER.pack(len(body), link_id, type_, flags), body)
        else:
            self._wait(caller, frame, now, out)

    def _wait(self, caller: Caller, frame: Frame, now: float, out: Out) -> None:
        stream, type_, flags, body = frame
        try:
            nano = decode_request(body).timeout_nano
        except ValueError as error:
            out.refuse(caller, stream, Code.INVALID_ARGUMENT, f"unmarshal request error: {error}")
            return
        if nano < 0:
            out.refuse(caller, stream, Code.DEADLINE_EXCEEDED, "context deadline exceeded")
            return
        if len(self.waiting) >= self._max_waiting or self._bytes + len(body) > self._max_bytes:
            text = "too many calls wait for the link to the pod's VM"
            out.refuse(caller, stream, Code.RESOURCE_EXHAUSTED, text)
            return
        call = self._new(caller, stream, flags, body)
        call.deadline = now + nano / 1e9 if nano else None
        self._hold(call, type_, flags, body)
        caller.calls[stream] = call
        self.waiting[call] = None

    def _new(self, caller: Caller, stream: int, flags: int, body: bytes) -> Call:
        call = Call(caller, stream, flags)
        if self._counting:
            try:
                call.method = peek_method(body)
            except ValueError:
                # The VM will say what is wrong with it.
                call.method = None
        return call

    def _hold(self, call: Call, type_: int, flags: int, body: bytes) -> None:
        call.held.append((type_, flags, body))
        self._bytes += len(body)

    def _data(self, caller: Caller, frame: Frame, out: Out) -> None:
        stream, type_, flags, body = frame
        call = caller.calls.get(stream)
        if call is None or not call.sending:
            self.stray += 1
            return
        if flags & _CLOSED:
            call.sending = False
        if call.link_id:
            out.link += (HEADER.pack(len(body), call.link_id, type_, flags), body)
        elif self._bytes + len(body) > self._max_bytes or len(call.held) >= self._max_waiting:
            self._drop_waiting(call)
            text = "too much data waits for the link to the pod's VM"
            out.refuse(caller, stream, Code.RESOURCE_EXHAUSTED, text)
        else:
            self._hold(call, type_, flags, body)

    def _drop_waiting(self, call: Call) -> None:
        del self.waiting[call]
        self._bytes -= sum(len(body) for _, _, body in call.held)
        if call.caller is not None:
            del call.caller.calls[call.stream]

    def _allot(self, call: Call) -> int:
        """The next odd id; after the last one it begins again, past those in use."""
        link_id = self._next
        while link_id in self.calls:
            link_id = link_id + 2 if link_id < LAST_ID else 1
        self._next = link_id + 2 if link_id < LAST_ID else 1
        call.link_id = link_id
        self.calls[link_id] = call
        return link_id

    # -- from the link

    def from_link(self, frames: Iterable[Frame | Oversize]) -> Out:
        """Take frames of the VM."""
        out = Out()
        calls = self.calls
        for frame in frames:
            if isinstance(frame, Oversize):
                self._oversize(frame, out)
                continue
            link_id, type_, flags, body = frame
            call = calls.get(link_id)
            if call is None or type_ not in (_RESPONSE, _DATA) or (type_ == _DATA and not call.streaming):
                self.stray += 1
                continue
            caller = call.caller
            if type_ == _RESPONSE or flags & _CLOSED:
                self._finish(call, out)
                if caller is None:
                    out.own.append((link_id, body))
                elif call.method is not None:
                    out.done.append((call.method, code_of(body) if type_ == _RESPONSE else 0))
            if caller is not None:
                head = HEADER.pack(len(body), call.stream, type_, flags)
                pieces = out.shims.get(caller)
                if pieces is None:
                    out.shims[caller] = [head, body]
                else:
                    pieces += (head, body)
        return out

    def _finish(self, call: Call, out: Out) -> None:
        del self.calls[call.link_id]
        caller = call.caller
        if caller is not None:
            del caller.calls[call.stream]
            caller.completed += 1
            if caller.completed == 1:
                out.first.append(caller)

    def _oversize(self, frame: Oversize, out: Out) -> None:
        call = self.calls.get(frame.stream)
        if call is None:
            self.stray += 1
            return
        self._finish(call, out)
        text = f"the VM's answer of {frame.length} bytes is over the limit of {MAX_LENGTH}"
        if call.caller is not None:
            out.refuse(call.caller, call.stream, Code.RESOURCE_EXHAUSTED, text)
        else:
            out.own.append((frame.stream, Response(Status(Code.RESOURCE_EXHAUSTED, text)).encode()))

    # -- life of link and connections

    def own_call(self, body: bytes) -> tuple[int, bytes]:
        """A call of the relay itself, also before the link counts as up: its link id and its bytes."""
        link_id = self._allot(Call(None, 0, 0))
        return link_id, encode_frame(link_id, _REQUEST, 0, body)

    def forget_own(self, link_id: int) -> None:
        """Give up a call of the relay itself; a late answer is dropped."""
        self.calls.pop(link_id, None)

    def link_up(self, now: float) -> Out:
        """The VM's agent answers: send what waited, in the order it came. What is too late is answered so."""
        out = self.expire(now)
        self.up = True
        waiting, self.waiting = self.waiting, {}
        self._bytes = 0
        for call in waiting:
            link_id = self._allot(call)
            for type_, flags, body in call.held:
                out.link += (HEADER.pack(len(body), link_id, type_, flags), body)
            call.held = []
        return out

    def link_down(self) -> None:
        """The link is gone, and the answers of all calls on it with it. Ids begin anew on the next one."""
        self.up = False
        for call in self.calls.values():
            if call.caller is not None:
                del call.caller.calls[call.stream]
        self.calls = {}
        self._next = 1

    def gone(self, caller: Caller) -> None:
        """A shim connection has closed: its calls are abandoned, late answers dropped."""
        for call in list(caller.calls.values()):
            if call.link_id:
                del self.calls[call.link_id]
                del caller.calls[call.stream]
            else:
                self._drop_waiting(call)

    def expire(self, now: float) -> Out:
        """Answer the waiting calls whose deadline has come."""
        out = Out()
        for call in list(self.waiting):
            if call.deadline is not None and call.deadline <= now and call.caller is not None:
                self._drop_waiting(call)
                out.refuse(call.caller, call.stream, Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        return out

    def next_deadline(self) -> float | None:
        """When `expire` has something to do; None when no waiting call has a deadline."""
        return min((call.deadline for call in self.waiting if call.deadline is not None), default=None)
