"""The demo itself, told inside namespaces of its own: two real pods in two real VMs, and a killed adaptor between."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from peerpods.cli.node import Node
from peerpods.demo import proof, world
from peerpods.demo.checks import Broken, Teller, complain
from peerpods.demo.dialogue import Dialogue
from peerpods.demo.stage import Stage, make_stage
from peerpods.errors import PeerPodError

HELLO = world.PodPlace("pod-hello", 40)
TALK = world.PodPlace("pod-talk", 41)
_SCRIPT = (
    "mkdir -p /tmp/www; echo the page of the pod > /tmp/www/index.html; httpd -p 8081 -h /tmp/www; echo ready; "
    'while read -r word rest; do case "$word" in fetch) timeout 15 wget -qO- "$rest" || echo failed;; '
    '*) echo "got $word $rest";; esac; done; echo bye'
)


def peerpods(*words: str) -> list[str]:
    """Command line of the peerpods command with this interpreter."""
    return [sys.executable, "-m", "peerpods.cli.main", *words]


def run_words(node: Node, place: world.PodPlace, image: str, *flags: str) -> list[str]:
    """`peerpods run` against the demo's adaptor for one pod."""
    fixed = [f"--socket={node.socket}", f"--name={place.name}", "--namespace=demo", f"--netns={place.path}"]
    return peerpods("run", *fixed, f"--image={image}", *flags)


def sandboxes(node: Node) -> list[dict[str, Any]]:
    """What `peerpods ps --json` says."""
    words = peerpods("ps", f"--socket={node.admin}", f"--state-dir={node.state}", "--json")
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise Broken(f"peerpods ps failed: {done.stderr.strip()}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@attrs.define
class Story:
    """The acts, in order."""

    tell: Teller
    stage: Stage

    def first_pod(self) -> None:
        """A command that prints and exits with code 7."""
        self.tell.head("a pod whose command prints and exits with code 7")
        command = 'echo "hello from $(hostname), kernel $(uname -r)"; exit 7'
        words = run_words(self.stage.node, HELLO, self.stage.image, "--", "sh", "-c", command)
        self.tell.note("peerpods run --name pod-hello -- sh -c 'echo …; exit 7'")
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, timeout=300)
        print(f"    | {done.stdout.strip()}", flush=True)
        self.tell.check(f"hello from {HELLO.name}" in done.stdout, "the container's own output arrived")
        self.tell.check(done.returncode == 7, "its exit code 7 is that of peerpods run", f"it was {done.returncode}")

    def second_pod(self) -> None:
        """A command fed by standard input; the network both ways; the adaptor killed in the middle."""
        self.tell.head("a pod fed by standard input, with the adaptor killed in the middle")
        words = run_words(self.stage.node, TALK, self.stage.image, "-i", "--", "sh", "-c", _SCRIPT)
        self.tell.note("peerpods run -i --name pod-talk -- sh -c 'while read …'")
        with Dialogue.start(words) as talk:
            talk.expect("ready", 300)
            self.tell.check(talk.ask("how are you", "got how are you"), "standard input reaches the container")
            self._network(talk)
            self._kill_adaptor(talk)
            talk.close_stdin()
            talk.expect("bye", 30)
            code = talk.wait(60)
            self.tell.check(code == 0, "it ends with its input, exit code 0", f"it was {code}")

    def _network(self, talk: Dialogue) -> None:
        received, sent = world.tunnel_counters(TALK)
        for family, host, pod in (
            ("IPv4", world.SERVER_V4, TALK.v4),
            ("IPv6", f"[{world.SERVER_V6}]", f"[{TALK.v6}]"),
        ):
            url = f"http://{host}:{world.SERVER_PORT}/"
            self.tell.check(talk.ask(f"fetch {url}", world.PAGE, 20), f"{family}: the pod fetched {url}")
            url = f"http://{pod}:8081/"
            page = world.fetch_from_gateway(url)
            self.tell.check(page == "the page of the pod", f"{family}: the gateway fetched {url} from the pod", page)
        now_received, now_sent = world.tunnel_counters(TALK)
        grown = (now_received - received, now_sent - sent)
        self.tell.check(
            grown[0] > 500 and grown[1] > 500,
            f"all that went through the tunnel: {grown[0]} bytes from the VM, {grown[1]} to it",
        )

    def _kill_adaptor(self, talk: Dialogue) -> None:
        node = self.stage.node
        before = [s for s in sandboxes(node) if s["pod"] == TALK.name]
        self.tell.check(len(before) == 1 and before[0]["state"] == "running", "peerpods ps shows the pod running")
        assert node.adaptor is not None
        node.adaptor.kill()
        self.tell.note(f"kill -9 {node.adaptor.process.pid} (the adaptor)")
        self.tell.check(talk.ask("still there", "got still there"), "without an adaptor the output goes on")
        node.start_adaptor()
        after = [s for s in sandboxes(node) if s["pod"] == TALK.name]
        same = len(after) == 1 and after[0]["sandbox"] == before[0]["sandbox"] and after[0]["state"] == "running"
        self.tell.check(
            same, f"after its restart peerpods ps shows the same sandbox {before[0]['sandbox'][:12]}", str(after)
        )
        words = peerpods("ps", f"--socket={node.admin}")
        for line in subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines():
            print(f"    | {line}")
        self.tell.check(talk.ask("and now", "got and now"), "and the output goes on")

    def nothing_of_the_pods(self) -> None:
        """No sandbox, domain, tunnel or socket of the pods is left while the services still run."""
        self.tell.head("what is left of the pods")
        node = self.stage.node
        self.tell.check(world.wait_for(lambda: not sandboxes(node), 60), "no sandbox", str(sandboxes(node)))
        self.tell.check(not self.stage.domains(), "no libvirt domain", str(self.stage.domains()))
        self.tell.check(not self.stage.volumes(), "no volume in the pool", str(self.stage.volumes()))
        for place in (HELLO, TALK):
            self.tell.check(world.tunnel_counters(place) == (0, 0), f"no tunnel in {place.name}")
        left = [str(path) for path in (node.folder / "pods").glob("*")]
        self.tell.check(not left, "no agent socket or pod folder", str(left))


@contextlib.contextmanager
def told(folder: Path, tell: Teller, options: argparse.Namespace) -> Iterator[Story]:
    """The stage set for the story, and cleared whatever happens."""
    with ExitStack() as cleanup:
        stage = make_stage(cleanup, folder, tell, image_dir=options.image_dir, places=[HELLO, TALK])
        yield Story(tell, stage)
        tell.head("clearing the stage")


def act(options: argparse.Namespace) -> None:
    """Tell the whole story, then prove that nothing is left inside either."""
    tell = Teller()
    before = proof.take()
    with tempfile.TemporaryDirectory(prefix="peerpods-demo-") as scratch:
        with told(Path(scratch), tell, options) as story:
            story.first_pod()
            story.second_pod()
            story.nothing_of_the_pods()
        left = proof.left_over(before, proof.take("PEERPODS_DEMO="))
        left = [item for item in left if "peerpods.demo.inside" not in item]
        tell.check(not left, "no domain, namespace, device, process, socket or mount is left", "; ".join(left))
    tell.held("all of it held")


def _end_on_sigterm() -> None:
    """Treat SIGTERM as Ctrl-C, here but not in the children that pyroute2 forks and ends by SIGTERM."""
    ours = os.getpid()

    def handler(number: int, frame: Any) -> None:
        if os.getpid() != ours:
            os._exit(128 + number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGTERM, handler)


def main() -> int:
    """Entry point: 0 when all held, 1 when something did not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="peerpods.demo.story")
    parser.add_argument("--image-dir", required=True, help="folder of the local pod VM image")
    options = parser.parse_args()
    _end_on_sigterm()
    try:
        act(options)
    except (Broken, PeerPodError, OSError, subprocess.TimeoutExpired) as error:
        complain(f"this did not hold: {error}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; everything was removed")
        return 130
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
