"""Child process: the recorded guest-pull life on the provider `netns`: whole node, tunnel, forwarder, agent, registry.

Nothing of the recorded calls is changed but the pod's namespace: the registry serves under the recorded name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from peerpods.cli.reacting import run_reactor
from peerpods.demo import proof
from peerpods.demo.story import sandboxes
from peerpods.demo.world import wait_for
from peerpods.protocols import agent_pb2
from tests.e2e.lives import other_namespace
from tests.e2e.player import Player, Told, read_life
from tests.e2e.stage import log_of, staged

LIFE = "shim-guest-pull"


def shown(told: Told) -> dict[str, Any]:
    """What is the same each time in an answer, beside what was recorded."""
    facts: dict[str, Any] = {"call": told.request.method}
    for name, answer in (("recorded", told.recorded), ("given", told.given)):
        facts[name] = {"code": answer.status.code if answer.status else 0}
        if told.request.method == "WaitProcess":
            facts[name]["status"] = agent_pb2.WaitProcessResponse.FromString(answer.payload).status
        elif told.request.method == "ReadStdout":
            facts[name]["data"] = agent_pb2.ReadStreamResponse.FromString(answer.payload).data.decode()
        elif not told.request.method.endswith(("VM", "GuestDetails", "Check", "ReadStderr")):
            facts[name]["payload"] = answer.payload.hex()
    if told.given.status:
        facts["text"] = told.given.status.message
    return facts


def main() -> None:
    """Set up, play, print."""
    add = [sys.executable, "-m", "peerpods.cli.podns", "add", "life"]
    netns = subprocess.run(add, capture_output=True, text=True, check=True).stdout.strip()
    made: list[Player] = []
    with staged() as stage, stage.node() as node:

        async def play(reactor: Any) -> None:
            player = Player(
                reactor=reactor, hypervisor=node.socket, edit=other_namespace(netns), within=60, ordered=False
            )
            made.append(player)
            await player.play(read_life(LIFE))

        before = proof.take()
        try:
            run_reactor(play)
        except AssertionError:
            print(log_of(node.adaptor)[-3000:], file=sys.stderr)
            raise
        gone = wait_for(lambda: not sandboxes(node), 20)
        left = proof.left_over(before, proof.take())
    answers = [shown(told) for told in made[0].told]
    print(json.dumps({"answers": answers, "unanswered": made[0].unanswered, "gone": gone, "left": left}))


if __name__ == "__main__":
    main()
