"""A container: made from a request, run by crun, removed without a trace."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from peerpods.agent import cgroup, spec
from peerpods.agent.cgroup import Cgroups
from peerpods.agent.crun import Crun, write_json
from peerpods.agent.process import Process, with_pipes, with_terminal
from peerpods.agent.wait import reap_strays
from peerpods.errors import NotFound, Refused
from peerpods.protocols import oci_pb2

FINISHED_EXECS_MAX = 64
"""Records of ended execs that stay readable, per container; older ones are forgotten."""
EXECS_MAX = 1024
REMOVE_SECONDS = 30.0


@attrs.frozen(kw_only=True)
class Tools:
    """What all containers of a sandbox use."""

    reactor: Any
    crun: Crun
    cgroups: Cgroups
    state: Path
    numbers: Iterator[int] = attrs.Factory(itertools.count)
    """Names of short-lived files: ids are too long for the path of a socket."""

    def scratch(self, suffix: str) -> Path:
        """A file name nobody else uses, short enough for a socket."""
        return self.state / f"{next(self.numbers)}{suffix}"


class Container:
    """One container, from `create` to `remove`."""

    def __init__(self, tools: Tools, container_id: str, wanted: oci_pb2.Spec, place: spec.Place) -> None:
        self.id = container_id
        self.spec = wanted
        self.place = place
        self.rootfs_storages: list[str] = []
        self._tools = tools
        self._bundle = tools.state / "bundles" / container_id
        self._init: Process | None = None
        self._execs: dict[str, Process] = {}
        self._paused = False

    @property
    def init(self) -> Process:
        """The first process.

        Raises:
            NotFound: before `create` has succeeded.
        """
        if self._init is None:
            raise NotFound(f"init process not found: container {self.id} is not created yet")
        return self._init

    async def create(self) -> None:
        """Make it with its process held before exec. On failure nothing is left."""
        self._bundle.mkdir(parents=True)
        write_json(self._bundle / "config.json", spec.config(self.spec, self.place))
        try:
            self._init = await self._launch(
                self.spec.Process.Terminal,
                lambda console: self._tools.crun.create_words(self.id, self._bundle, console),
            )
        except Exception:
            await self._forget()
            raise

    async def _launch(self, terminal: bool, words: Any) -> Process:
        tools = self._tools
        pid_file = tools.scratch(".pid")

        async def launch(console: str | None, fds: tuple[int, int, int]) -> Any:
            return await tools.crun.launch(words(console), pid_file, fds)

        if terminal:
            return await with_terminal(tools.reactor, launch, tools.scratch(".tty"))
        return await with_pipes(tools.reactor, launch)

    async def start(self) -> None:
        """Let its process run."""
        await self._tools.crun.start(self.id)

    async def execute(self, exec_id: str, wanted: oci_pb2.Process) -> Process:
        """Run one more process in it.

        Raises:
            Refused: when the id is in use, or too many run.
        """
        if exec_id in self._execs:
            raise Refused(f"exec {exec_id} exists already in container {self.id}")
        if len(self._execs) >= EXECS_MAX:
            raise Refused(f"container {self.id} has {EXECS_MAX} execs already")
        described = spec.process(wanted, self.place.oom_floor)
        if "capabilities" not in described and self.spec.Process.HasField("Capabilities"):
            # The shim fills none (spec/wire 3.6): an exec may do what its container may.
            described["capabilities"] = spec.capabilities(self.spec.Process.Capabilities)
        file = self._tools.scratch(".json")
        write_json(file, described)
        try:
            process = await self._launch(
                wanted.Terminal, lambda console: self._tools.crun.exec_words(self.id, file, console)
            )
        finally:
            file.unlink(missing_ok=True)
        self._execs[exec_id] = process
        self._trim()
        return process

    def _trim(self) -> None:
        finished = [key for key, process in self._execs.items() if process.child.status is not None]
        for key in finished[: max(0, len(finished) - FINISHED_EXECS_MAX)]:
            self._execs.pop(key).close()

    def process(self, exec_id: str) -> Process:
        """The process of an exec, or the first one for "" and the container's own id.

        Raises:
            NotFound: when there is none.
        """
        if exec_id in ("", self.id):
            return self.init
        found = self._execs.get(exec_id)
        if found is None:
            raise NotFound(f"process not found: container {self.id}, exec {exec_id[:80]!r}")
        return found

    def signal(self, exec_id: str, number: int) -> None:
        """Send a signal. To a process that has ended: nothing happens.

        SIGKILL to the container reaches all its processes. SIGTERM to a first process without a handler for it becomes
        SIGKILL: the kernel would drop it (process 1 of a pid namespace).
        """
        process = self.process(exec_id)
        first = process is self._init
        if first and number == signal.SIGTERM and not catches(process.child.pid, number):
            number = signal.SIGKILL
        process.child.kill(number)
        if first and number == signal.SIGKILL and self.place.pid:
            # In the pod's pid namespace the kernel does not end the others with the first.
            self._kill_all()

    def _kill_all(self) -> None:

        for pid in cgroup.processes(self._tools.cgroups, self.place.cgroup) if self.place.cgroup else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def pause(self) -> None:
        """Freeze all its processes."""
        await self._tools.crun.pause(self.id)
        self._paused = True

    async def resume(self) -> None:
        """Let them go on."""
        await self._tools.crun.resume(self.id)
        self._paused = False

    async def update(self, wanted: oci_pb2.LinuxResources) -> None:
        """Change its limits, as far as this place has them."""
        resources = spec.resources(wanted, self._tools.cgroups.controllers) if self.place.cgroup else {}
        if resources:
            await self._tools.crun.update(self.id, resources, self._tools.scratch(".json"))

    async def remove(self) -> None:
        """Kill what runs, wait for its end, and remove everything but the root's files. Idempotent."""
        if self._paused:
            await self.resume()
        if self._init is not None and self._init.child.status is None:
            self.signal("", signal.SIGKILL)
            reap_strays()
            await self._ended(self._init)
        await self._forget()

    async def _ended(self, process: Process) -> None:
        """Wait for a killed process, not for ever: one in an unkillable state is left to `crun delete`."""
        wait: Deferred[int] = process.child.wait()
        wait.addTimeout(REMOVE_SECONDS, self._tools.reactor, onTimeoutCancel=lambda *_: None)
        await wait

    async def _forget(self) -> None:
        await self._tools.crun.delete(self.id)
        for process in [*self._execs.values(), *([self._init] if self._init else [])]:
            process.close()
        shutil.rmtree(self._bundle, ignore_errors=True)


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (true when that cannot be read: it has ended)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    mask = next((int(line.split()[1], 16) for line in text.splitlines() if line.startswith("SigCgt:")), 0)
    return bool(mask >> (number - 1) & 1)
