"""The recorded lives of a real shim: its calls to the agent, and the agent's answers, in order."""

import json
from pathlib import Path

from peerpods.ttrpc import decode_request

FIXTURES = Path(__file__).parent.parent / "fixtures"
LIVES = ("shim-normal-life", "shim-guest-pull")


def frames(life):
    """(is_request, frame bytes) of the agent's connection in the order in which they were on the wire."""
    for line in (FIXTURES / f"{life}.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["peer"] == "agent" and event["ev"] in ("FRAME", "RES"):
            yield event["ev"] == "FRAME", bytes.fromhex(event["hex"])


def requests(life):
    """(method, payload) of the calls."""
    for is_request, frame in frames(life):
        if is_request:
            request = decode_request(frame[10:])
            yield request.method, request.payload
