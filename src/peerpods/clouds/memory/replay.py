"""An agent that gives recorded answers: for playing a recorded life against an adaptor."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred

from peerpods.clouds.memory.agent import AgentServices

HEADER = 10  # bytes of a ttrpc frame header: length, stream, type, flags


class RecordedAgent:
    """Answers each (service, method, payload) with what the record has for it, in the record's order.

    Calls that the record leaves open stay open. A call that it does not know gets UNIMPLEMENTED and is kept
    in `unknown`. One object serves one instance; give `script` to the provider.

    Args:
        lines: lines of a recording (JSON): events FRAME (request bytes in hex) and RES (answer bytes).
    """

    def __init__(self, lines: Iterable[str], peer: str = "agent") -> None:
        self._answers: dict[tuple[str, str, bytes], deque[bytes | None]] = defaultdict(deque)
        self._spare: dict[tuple[str, str], bytes] = {}
        self.seen: list[tuple[str, str, bytes]] = []
        """Calls as they came: (service, method, payload)."""
        self.unknown: list[tuple[str, str, bytes]] = []
        self._load([json.loads(line) for line in lines if line.strip()], peer)

    def _load(self, events: list[dict[str, Any]], peer: str) -> None:
        from peerpods.ttrpc import decode_request

        bodies: dict[tuple[int, int], bytes] = {}
        answers: dict[tuple[int, int], bytes] = {}
        order: list[tuple[int, int]] = []
        for event in events:
            if event["peer"] != peer or "stream" not in event:
                continue
            key = (event["conn"], event["stream"])
            if event["ev"] == "FRAME":
                bodies[key] = bytes.fromhex(event["hex"])[HEADER:]
                order.append(key)
            elif event["ev"] == "RES":
                answers[key] = bytes.fromhex(event["hex"])[HEADER:]
        for key in order:
            call = decode_request(bodies[key])
            answer = answers.get(key)
            self._answers[call.service, call.method, call.payload].append(answer)
            if answer is not None:
                self._spare.setdefault((call.service, call.method), answer)

    def script(self, view: Any) -> AgentServices:
        """The `AgentScript` to give to the provider."""
        return AgentServices(services=(), fallback=self.answer)

    async def answer(self, ctx: Any, request: Any) -> Any:
        """One call: the recorded answer, or the method's first one when the payload differs (rewritten)."""
        from peerpods.ttrpc import Code, Response, Status, decode_response

        call = (request.service, request.method, bytes(request.payload))
        self.seen.append(call)
        queue = self._answers.get(call)
        if queue:
            body = queue.popleft()
            if body is None:
                return await Deferred()
        else:
            body = self._spare.get(call[:2])
            if body is None:
                self.unknown.append(call)
                return Response(Status(int(Code.UNIMPLEMENTED), f"{call[0]}/{call[1]} is not in the record"), b"")
        return decode_response(body)
