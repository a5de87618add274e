"""One pod's life as `peerpods run` lives it, over the two sockets of a node."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import blockingCallFromThread

from peerpods import oci_spec
from peerpods.errors import GuestError
from peerpods.protocols import agent_pb2
from peerpods.shim import Agent, Hypervisor, Stopwatch, new_id, vm_annotations
from peerpods.ttrpc import StatusError

PULL_TIMEOUT = 300.0  # create_container_timeout as documented for large images


@attrs.frozen(kw_only=True)
class RunWish:
    """What the user asked for."""

    name: str
    namespace: str
    image: str
    command: tuple[str, ...]
    netns: str
    vcpus: int = 0
    memory_mib: int = 0
    stdin: bool = False
    terminal: bool = False
    keep: bool = False


@attrs.define(kw_only=True)
class Outcome:
    """What `--json` prints."""

    sandbox: str
    instance: str = ""
    phases: dict[str, float] = attrs.field(factory=dict)
    exit_code: int = 125


@attrs.define(kw_only=True)
class Session:
    """Creates, runs and ends one sandbox with one container."""

    reactor: Any
    hypervisor: Hypervisor
    wish: RunWish
    out: Callable[[bytes], None]
    err: Callable[[bytes], None]
    watch: Stopwatch
    note: Callable[[str], None] = attrs.field(default=lambda _text: None)
    sandbox: str = attrs.field(factory=new_id)
    outcome: Outcome = attrs.field(init=False)
    agent: Agent | None = None
    _vm: bool = False

    def __attrs_post_init__(self) -> None:
        self.outcome = Outcome(sandbox=self.sandbox, phases=self.watch.phases)

    async def run(self) -> Outcome:
        """The whole life. The sandbox is stopped whatever happens, except after success with `keep`."""
        container = new_id()
        try:
            agent = await self._start_pod()
            await self._create_container(agent, container)
            self.outcome.exit_code = await self.watch.measure("run", self._run_container(agent, container))
            if self.wish.keep:
                await self._keep()
        finally:
            if self._vm:
                await self.watch.measure("stop", self._stop(container))
        return self.outcome

    async def _start_pod(self) -> Agent:
        wish, watch = self.wish, self.watch
        notes = vm_annotations(wish.name, wish.namespace, vcpus=wish.vcpus, memory_mib=wish.memory_mib)
        path = await watch.measure("create_vm", self.hypervisor.create_vm(self.sandbox, notes, wish.netns))
        self._vm = True
        await watch.measure("start_vm", self.hypervisor.start_vm(self.sandbox))
        self.outcome.instance = await self.hypervisor.instance_of(wish.name, wish.namespace)
        agent = self.agent = await Agent.connect(self.reactor, path, self.sandbox)
        await watch.measure("agent_check", agent.check())
        await watch.measure("create_sandbox", self._start_sandbox(agent))
        return agent

    async def _start_sandbox(self, agent: Agent) -> None:
        await agent.start_sandbox(self.wish.name, [])
        pause = oci_spec.ContainerWish(
            container_id=self.sandbox,
            sandbox_id=self.sandbox,
            pod=self.wish.name,
            namespace=self.wish.namespace,
            image="pause",
            args=("/pause",),
        )
        await agent.create(pause, {}, 60.0)
        await agent.start(self.sandbox)
        agent.keep_watch()

    async def _create_container(self, agent: Agent, container: str) -> None:
        wish = self.wish
        asked = oci_spec.ContainerWish(
            container_id=container,
            sandbox_id=self.sandbox,
            pod=wish.name,
            namespace=wish.namespace,
            image=wish.image,
            args=wish.command,
            terminal=wish.terminal,
        )
        files = {
            "/etc/hostname": f"{wish.name}\n".encode(),
            "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
        }
        await self.watch.measure("pull_and_create", agent.create(asked, files, PULL_TIMEOUT))
        await self.watch.measure("start", agent.start(container))

    async def _run_container(self, agent: Agent, container: str) -> int:
        streams = [Deferred.fromCoroutine(agent.read_all("ReadStdout", container, self.out))]
        if self.wish.terminal:
            size = shutil.get_terminal_size()
            request = agent_pb2.TtyWinResizeRequest(
                container_id=container, exec_id=container, row=size.lines, column=size.columns
            )
            await agent.call("TtyWinResize", request)
        else:
            streams.append(Deferred.fromCoroutine(agent.read_all("ReadStderr", container, self.err)))
        if self.wish.stdin:
            _feed_stdin(self.reactor, agent, container)
        lost = agent.client.when_lost()
        ended: Deferred[Any] = gatherResults(streams, consumeErrors=True)
        await ended
        if not agent.client.connected:
            lost.addErrback(lambda _failure: None)
            raise GuestError("the connection to the pod's agent was lost while the container ran", sandbox=self.sandbox)
        return await agent.wait(container)

    async def _keep(self) -> None:
        self.note(f"kept: peerpods inspect {self.sandbox[:12]}; press Ctrl-C to end the pod")
        await Deferred()

    async def _stop(self, container: str) -> None:
        agent, self.agent = self.agent, None
        if agent is not None and agent.client.connected:
            await agent.remove(container)
            await agent.destroy()
        await self.hypervisor.stop_vm(self.sandbox)
        if agent is not None:
            await agent.close()


def _feed_stdin(reactor: Any, agent: Agent, container: str) -> None:
    """Pass standard input on from a thread of its own (a file or a pipe may block); it ends with the process."""

    def pump() -> None:
        while data := os.read(0, 32768):
            blockingCallFromThread(reactor, _as_deferred, agent.write_stdin(container, data))
        blockingCallFromThread(reactor, _as_deferred, agent.close_stdin(container))

    def guarded() -> None:
        with contextlib.suppress(StatusError, OSError, RuntimeError):  # the container may end before its input does
            pump()

    threading.Thread(target=guarded, name="stdin", daemon=True).start()


def _as_deferred(coroutine: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)


class RawTerminal:
    """Puts the terminal in raw mode for `-t`, and back."""

    def __init__(self, wanted: bool) -> None:
        self._saved = termios.tcgetattr(0) if wanted and sys.stdin.isatty() else None

    def __enter__(self) -> None:
        if self._saved is not None:
            tty.setraw(0)

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)


def progress(stream: Any) -> Callable[[str, float], None]:
    """Prints each phase with its time as it ends."""
    began = time.monotonic()

    def report(name: str, milliseconds: float) -> None:
        print(f"[{time.monotonic() - began:7.2f}s] {name:<16} {milliseconds:9.1f} ms", file=stream, flush=True)

    return report
