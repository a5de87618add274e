"""An agent that gives recorded answers: for playing a recorded life against an adaptor."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from peerpods.clouds.memory.agent import AgentServices, Waiter

HEADER = 10  # bytes of a ttrpc frame header: length, stream, type, flags
Call = tuple[str, str, bytes]
"""(service, method, payload)."""


@attrs.frozen
class _Answer:
    payload: bytes
    """Of the call that it answers."""
    body: bytes | None
    """None: the call was never answered."""
    calls_before: int
    """How many calls the agent had got when it gave the answer."""
    place: int
    """Which answer of the record it is, from 0."""


class RecordedAgent:
    """Answers each call with what the record has for it, when the record has it.

    An answer waits until as many calls have come as had come in the record, and until the answers before it are
    given: the answer of a WaitProcess thus follows the signal that ended the process. Calls that the record
    leaves open stay open. A call whose payload differs (one that a forwarder rewrites) is taken for its method's
    next one. A method that the record does not have (any more) gets its first answer again, at once, and one it
    never had UNIMPLEMENTED; both are kept in `unknown`. One object serves one instance; give `script` to the
    provider.

    Args:
        lines: lines of a recording (JSON): events FRAME (request bytes in hex) and RES (answer bytes).
        in_order: False answers at once, for a player that leaves calls out.
    """

    def __init__(self, lines: Iterable[str], peer: str = "agent", *, in_order: bool = True) -> None:
        self._answers: dict[tuple[str, str], list[_Answer]] = defaultdict(list)
        self._first: dict[tuple[str, str], _Answer] = {}
        self._in_order = in_order
        self._given: set[int] = set()
        self._next = 0
        self._moved = Waiter()
        self._soon: Callable[[Callable[[], None]], object] = lambda function: function()
        self.seen: list[Call] = []
        """Calls as they came."""
        self.unknown: list[Call] = []
        self._load([json.loads(line) for line in lines if line.strip()], peer)

    def _load(self, events: list[dict[str, Any]], peer: str) -> None:
        from peerpods.ttrpc import decode_request

        bodies: dict[tuple[int, int], bytes] = {}
        answers: dict[tuple[int, int], tuple[bytes, int, int]] = {}
        for event in events:
            if event["peer"] != peer or "stream" not in event:
                continue
            key = (event["conn"], event["stream"])
            if event["ev"] == "FRAME":
                bodies[key] = bytes.fromhex(event["hex"])[HEADER:]
            elif event["ev"] == "RES":
                answers[key] = (bytes.fromhex(event["hex"])[HEADER:], len(bodies), len(answers))
        for key, body in bodies.items():
            call = decode_request(body)
            answer, before, place = answers.get(key, (None, 0, -1))
            made = _Answer(bytes(call.payload), answer, before, place)
            self._answers[call.service, call.method].append(made)
            self._first.setdefault((call.service, call.method), made)

    def script(self, view: Any) -> AgentServices:
        """The `AgentScript` to give to the provider."""
        self._soon = view.soon
        return AgentServices(services=(), fallback=self.answer)

    async def answer(self, ctx: Any, request: Any) -> Any:
        """One call, undecoded: gives a `peerpods.ttrpc.Response`."""
        from peerpods.ttrpc import Code, Response, Status, decode_response

        call = (request.service, request.method, bytes(request.payload))
        self.seen.append(call)
        self._moved.wake()
        answer = self._take(call)
        if answer is None:
            self.unknown.append(call)
            first = self._first.get(call[:2])
            if first is not None and first.body is not None:
                return decode_response(first.body)
            text = f"{call[0]}/{call[1]} is not in the record"
            return Response(Status(int(Code.UNIMPLEMENTED), text), b"")
        if answer.body is None:
            return await Deferred()
        try:
            while self._in_order and not self._due(answer):
                await self._moved.wait()
        finally:  # also when the caller has gone: those behind must not wait for it
            self._given.add(answer.place)
            while self._next in self._given:
                self._next += 1
            # Not at once: those who wait must not overtake the answer that is about to be returned.
            self._soon(self._moved.wake)
        return decode_response(answer.body)

    def _due(self, answer: _Answer) -> bool:
        return len(self.seen) >= answer.calls_before and self._next >= answer.place

    def _take(self, call: Call) -> _Answer | None:
        open_ = self._answers.get(call[:2])
        if not open_:
            return None
        index = next((i for i, answer in enumerate(open_) if answer.payload == call[2]), 0)
        return open_.pop(index)
