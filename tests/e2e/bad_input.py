"""Child process of test_bad_input: each bad input on the whole path, with real services as processes, in one box.

Prints one JSON object: name to what a user is told, and what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyroute2 import netns

from peerpods.cli.children import twistd
from peerpods.cli.node import Node
from peerpods.cli.reacting import run_reactor
from peerpods.demo import proof
from peerpods.demo.story import peerpods, sandboxes
from peerpods.demo.world import wait_for
from peerpods.protocols import agent_pb2
from peerpods.shim import Agent, Hypervisor, new_id, vm_annotations
from peerpods.ttrpc import StatusError
from tests.e2e.boxed import ROOT
from tests.e2e.netns_runs import ran, words
from tests.e2e.stage import NAME, Stage, staged

NOBODY = 65534
POD = "io.kubernetes.cri.sandbox-name"


async def told(work: Any) -> dict[str, Any]:
    """What the shim is told."""
    try:
        answer = await work
    except StatusError as error:
        return {"code": error.status.code, "text": error.status.message}
    return {"code": 0, "text": str(answer)}


async def bad_calls(hypervisor: Hypervisor, empty: str) -> dict[str, Any]:
    """Calls that an adaptor must refuse."""
    notes = vm_annotations("web", "lab")
    unnamed = {key: value for key, value in notes.items() if key != POD}

    def create(sandbox: str, annotations: dict[str, str], path: str) -> Any:
        return told(hypervisor.create_vm(sandbox, annotations, path))

    return {
        "start_unknown": await told(hypervisor.start_vm("f" * 64)),
        "stop_unknown": await told(hypervisor.stop_vm("f" * 64)),
        "id_empty": await create("", notes, empty),
        "id_slash": await create("a/b", notes, empty),
        "id_dots": await create("..", notes, empty),
        "id_long": await create("a" * 120, notes, empty),
        "no_annotations": await create(new_id(), {}, empty),
        "no_pod_name": await create(new_id(), unnamed, empty),
        "no_netns": await create(new_id(), notes, ""),
        "netns_missing": await create(new_id(), notes, "/run/netns/none-such"),
        "netns_without_address": await create(new_id(), notes, empty),
    }


async def kept_out(reactor: Any, hypervisor: Hypervisor, place: str) -> dict[str, Any]:
    """What the guard in the VM refuses reaches the shim as such."""
    sandbox = new_id()
    path = await hypervisor.create_vm(sandbox, vm_annotations("guarded", "lab"), place)
    await hypervisor.start_vm(sandbox)
    agent = await Agent.connect(reactor, path, sandbox)
    await agent.start_sandbox("guarded", [])
    outside = agent_pb2.CopyFileRequest(path="/etc/passwd", file_size=1, file_mode=0o100644, data=b"x")
    facts = {
        "guard_copy": await told(agent.call("CopyFile", outside)),
        "guard_order": await told(agent.start("never-created")),
        "guard_method": await told(agent.call("ReadEverything", agent_pb2.GetOOMEventRequest())),
    }
    await hypervisor.stop_vm(sandbox)
    await agent.close()
    return facts


def memory(stage: Stage, name: str, settings: str = "", *flags: str) -> Node:
    """A node with provider memory."""
    config = stage.folder / f"{name}.toml"
    config.write_text(f"[provider.memory]\n{settings}\n")
    return Node.make("memory", str(config), flags)


def failing_start(stage: Stage, name: str, settings: str, seconds: int = 5) -> dict[str, Any]:
    """`peerpods run` on a cloud whose VMs do not come up."""
    node = memory(stage, name, settings, f"--start-timeout={seconds}")
    try:
        node.start()
        seen = ran(peerpods("run", f"--socket={node.socket}", f"--name={name}", "--", "true"))
        seen["gone"] = wait_for(lambda: not sandboxes(node), 20)
        seen["pods"] = os.listdir(node.folder / "pods")
        return seen
    finally:
        node.stop()


def full_disk(stage: Stage) -> dict[str, Any]:
    """No room for the journal; then there is."""
    node = memory(stage, "full")
    state = Path(node.state)
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(state)], check=True)
    command = peerpods("run", f"--socket={node.socket}", "--", "true")
    try:
        node.start()
        with (state / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        seen = ran(command)
        seen["left"] = sandboxes(node) + os.listdir(node.folder / "pods")
        (state / "filler").unlink()
        seen["after"] = ran(command)["code"]
        return seen
    finally:
        for child in (node.adaptor, node.relay):
            if child is not None:
                child.stop()
        subprocess.run(["umount", str(state)], check=True)
        node.stop()


def second_adaptor(node: Node) -> dict[str, Any]:
    """An adaptor on a living one's socket, one on its state folder, and one on a dead one's socket."""

    def another(**changes: str) -> dict[str, Any]:
        paths = {
            "socket": node.socket,
            "admin": f"{node.folder}/admin-2.sock",
            "state-dir": f"{node.folder}/state-2",
            "pods-dir": f"{node.folder}/pods",
            "relay": f"{node.folder}/relay.sock",
            "http": "",
        }
        flags = [f"--{name}={value}" for name, value in {**paths, **changes}.items()]
        return ran(twistd("adaptor", "--provider=memory", *flags))

    facts = {
        "socket": another(),
        "state": another(**{"state-dir": node.state, "socket": f"{node.folder}/hypervisor-2.sock"}),
    }
    assert node.adaptor is not None
    node.adaptor.kill()
    stale = stat.S_ISSOCK(os.stat(node.socket).st_mode)
    node.start_adaptor()
    return {**facts, "taken_over": stale and node.adaptor.process.poll() is None}


def open_the_way() -> None:
    """Let everybody reach our interpreter and sources, in this mount namespace."""
    wanted = [Path(sys.prefix), ROOT]
    for number, path in enumerate(wanted):
        kept = Path(f"/run/kept-{number}")
        kept.mkdir()
        subprocess.run(["mount", "--bind", str(path), str(kept)], check=True)
    for number, path in enumerate(wanted):
        closed = [p for p in reversed(path.parents) if p.exists() and not p.stat().st_mode & stat.S_IXOTH]
        if closed:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed[0])], check=True)
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", f"/run/kept-{number}", str(path)], check=True)


def without_root() -> dict[str, Any]:
    """Services and the command as a user who is not root."""
    open_the_way()
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "HOME=/tmp"]
    relay = ["--control=/run/nobody/relay.sock", "--pods-dir=/run/nobody/pods", "--http="]
    adaptor = ["--provider=memory", "--socket=/run/nobody/h.sock", "--state-dir=/run/nobody/state", "--http="]
    os.chdir("/")
    return {
        "adaptor": ran([*drop, *twistd("adaptor", *adaptor)]),
        "relay": ran([*drop, *twistd("relay", *relay)]),
        "run": ran([*drop, *peerpods("run", "--provider=memory", "--", "true")]),
    }


def images(node: Node) -> dict[str, Any]:
    """Images that cannot be had."""

    def run_image(reference: str) -> dict[str, Any]:
        command = peerpods("run", f"--socket={node.socket}", f"--image={reference}", "--", "true")
        return {**ran(command), "gone": wait_for(lambda: not sandboxes(node), 20)}

    return {
        "image_missing": run_image(f"{NAME}/none/such:1"),
        "registry_down": run_image(f"{NAME}:81/busybox:1"),
    }


def dead_forwarder(stage: Stage, forwarder: str) -> dict[str, Any]:
    """A VM whose forwarder does not serve."""
    text = Path(stage.config).read_text() + f'[provider.netns]\nforwarder = "{forwarder}"\n'
    config = stage.folder / "dead.toml"
    config.write_text(text)
    node = Node.make("netns", str(config), ("--start-timeout=5",))
    try:
        node.start()
        seen = ran(words(node, "--", "true"))
        seen["gone"] = wait_for(lambda: not sandboxes(node), 20)
        return seen
    finally:
        node.stop()


def one_by_one(stage: Stage, facts: dict[str, Any]) -> None:
    """What needs an adaptor that stands: bad calls, adaptors beside it, a guard that refuses, images."""
    place = subprocess.run(podns("guarded"), capture_output=True, text=True, check=True).stdout.strip()
    node = memory(stage, "calls")
    try:
        node.start()
        with stage.node() as guarded:

            async def calls(reactor: Any) -> None:
                facts.update(await bad_calls(Hypervisor(reactor=reactor, path=node.socket), "/run/netns/empty"))
                facts.update(await kept_out(reactor, Hypervisor(reactor=reactor, path=guarded.socket), place))

            run_reactor(calls)
            facts.update(images(guarded))
        facts["calls_left"] = sandboxes(node) + os.listdir(node.folder / "pods")
        facts["second"] = second_adaptor(node)
    finally:
        node.stop()


def podns(name: str, action: str = "add") -> list[str]:
    """Makes or removes a pod's namespace."""
    return [sys.executable, "-m", "peerpods.cli.podns", action, name]


def at_once(stage: Stage, facts: dict[str, Any]) -> None:
    """What waits for a time to pass."""
    with ThreadPoolExecutor(5) as pool:
        waiting = {
            "never_boots": pool.submit(failing_start, stage, "slow", "boot-delay = 600"),
            "refuses": pool.submit(failing_start, stage, "refusing", 'guest = "refuses"'),
            "hangs": pool.submit(failing_start, stage, "silent", 'guest = "silent"', 8),
            "forwarder_deaf": pool.submit(dead_forwarder, stage, "sleep 600"),
            "full": pool.submit(full_disk, stage),
        }
        facts.update({name: future.result() for name, future in waiting.items()})


def main() -> None:
    """All of them."""
    facts: dict[str, Any] = {}
    with staged() as stage:
        before = proof.take()
        netns.create("empty")
        one_by_one(stage, facts)
        at_once(stage, facts)
        netns.remove("empty")
        subprocess.run(podns("guarded", "remove"), check=True)
        facts["left"] = proof.left_over(before, proof.take()) + [str(path) for path in Path("/run").glob("pp-*")]
    facts["without_root"] = without_root()
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
