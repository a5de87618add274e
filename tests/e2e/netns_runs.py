"""Child process of test_netns_run: `peerpods run --provider netns` in its ways, in one box with one registry.

Prints one JSON object: scenario to what a user sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peerpods.cli.node import Node
from peerpods.cli.podns import plan
from peerpods.demo import proof
from peerpods.demo.dialogue import Dialogue
from peerpods.demo.story import peerpods, sandboxes
from peerpods.demo.world import wait_for
from tests.e2e.stage import REFERENCE, Stage, staged

RUN_SECONDS = 60.0


def words(node: Node, *rest: str) -> list[str]:
    """`peerpods run` against a standing adaptor."""
    return peerpods("run", f"--socket={node.socket}", f"--image={REFERENCE}", *rest)


def ran(command: list[str], data: bytes | None = None) -> dict[str, Any]:
    """Run to the end; what came out where."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=RUN_SECONDS, check=False)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return {"code": done.returncode, "out": out, "err": err}


def apart(node: Node) -> dict[str, Any]:
    """Output and errors apart, and the container's own exit code."""
    return ran(words(node, "--", "sh", "-c", "echo to out; echo to err >&2; exit 7"))


def fed(node: Node) -> dict[str, Any]:
    """Standard input of several reads' size, whole and in order."""
    data = b"".join(b"%07d\n" % number for number in range(40_000))
    return ran(words(node, "-i", "--", "sh", "-c", "cksum 2>/dev/null || sha256sum"), data)


def on_terminal(node: Node) -> dict[str, Any]:
    """A terminal on both ends: echo, size, carriage returns."""
    ours, theirs = pty.openpty()
    script = "tty; read -r line; stty size; echo got $line"
    process = subprocess.Popen(
        words(node, "-i", "-t", "--", "sh", "-c", script),
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "91", "LINES": "17"},
    )
    os.close(theirs)
    heard, asked = b"", False
    until = time.monotonic() + 15
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while time.monotonic() < until and process.poll() is None:
            if select.select([ours], [], [], 0.5)[0]:
                heard += os.read(ours, 4096)
            if not asked and b"/dev/pts" in heard:
                os.write(ours, b"a word\r")
                asked = True
    os.close(ours)
    process.kill()
    return {"code": process.wait(10), "out": heard.decode(errors="replace"), "err": ""}


def killed_adaptor(node: Node) -> dict[str, Any]:
    """kill -9 of the adaptor while a container talks; the next adaptor goes on with the same sandbox."""
    script = 'echo ready; while read -r line; do echo "got $line"; done; exit 3'
    with Dialogue.start(words(node, "-i", "--", "sh", "-c", script)) as talk:
        talk.expect("ready", RUN_SECONDS)
        (before,) = sandboxes(node)
        assert node.adaptor is not None
        node.adaptor.kill()
        talk.ask("without", "got without")
        journal = ran(peerpods("ps", f"--socket={node.admin}", f"--state-dir={node.state}", "--json"))
        node.start_adaptor()
        (after,) = sandboxes(node)
        talk.ask("with", "got with")
        talk.close_stdin()
        code = talk.wait(RUN_SECONDS)
    same = [key for key in ("sandbox", "pod", "state", "instance") if before[key] == after[key]]
    return {"code": code, "same": same, "state": after["state"], "journal": journal, "err": ""}


def beside(node: Node) -> dict[str, Any]:
    """A pod's network, IPv4 and IPv6, before and after another adaptor came and went on the same machine."""
    podns = [sys.executable, "-m", "peerpods.cli.podns"]
    place = subprocess.run([*podns, "add", "beside"], capture_output=True, text=True, check=True).stdout.strip()
    _, v4, v6 = plan("beside")
    head, _, last = v4.rpartition(".")
    gateways = [f"{head}.{int(last) + 1}", f"{v6}1"]
    script = "echo ready; while read -r host; do ping -c 1 -W 5 $host >/dev/null && echo got $host || echo lost; done"
    with Dialogue.start(words(node, "-i", f"--netns={place}", "--", "sh", "-c", script)) as talk:
        talk.expect("ready", RUN_SECONDS)
        for gateway in gateways:
            talk.ask(gateway, f"got {gateway}")
        other = ran(peerpods("run", "--provider=memory", "--", "true"))
        for gateway in gateways:
            talk.ask(gateway, f"got {gateway}")
        talk.close_stdin()
        code = talk.wait(RUN_SECONDS)
    subprocess.run([*podns, "remove", "beside"], check=True)
    return {"code": code, "other": other["code"], "err": other["err"]}


def interrupted(node: Node, number: int) -> dict[str, Any]:
    """A signal while the container runs."""
    with Dialogue.start(words(node, "--", "sh", "-c", "echo ready; sleep 600")) as talk:
        talk.expect("ready", RUN_SECONDS)
        talk.process.send_signal(number)
        code = talk.wait(30)
    return {"code": code, "gone": wait_for(lambda: not sandboxes(node), 20)}


def interrupted_early(stage: Stage) -> dict[str, Any]:
    """Ctrl-C with a private node, while the VM starts."""
    process = subprocess.Popen(
        private(stage, "--", "true"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return {"code": process.returncode, "out": out, "err": first + err}


def private(stage: Stage, *rest: str) -> list[str]:
    """`peerpods run` that starts an adaptor and a relay of its own."""
    return peerpods("run", "--provider=netns", f"--config={stage.config}", f"--image={REFERENCE}", *rest)


@contextlib.contextmanager
def clean(facts: dict[str, Any], name: str) -> Iterator[None]:
    """Note what is left behind after a part."""
    before = proof.take()
    yield
    left = proof.left_over(before, proof.take())
    left += [str(path) for path in Path("/run").glob("pp-*")] + [str(p) for p in Path("/run").glob("peerpods-netns/*")]
    facts[name] = left


def main() -> None:
    """All scenarios."""
    facts: dict[str, Any] = {}
    with staged() as stage:
        with clean(facts, "left_private"):
            command = "echo told; exit 5"
            facts["json"] = ran(private(stage, "--json", "--cpus=1", "--memory=512", "--", "sh", "-c", command))
            facts["early"] = interrupted_early(stage)
        with clean(facts, "left_node"), stage.node() as node:
            facts["apart"] = apart(node)
            facts["fed"] = fed(node)
            facts["terminal"] = on_terminal(node)
            facts["beside"] = beside(node)
            facts["killed"] = killed_adaptor(node)
            facts["interrupt"] = interrupted(node, signal.SIGINT)
            facts["terminate"] = interrupted(node, signal.SIGTERM)
            facts["missing"] = ran(words(node, "--", "no-such-program"))
    print(json.dumps(facts))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
