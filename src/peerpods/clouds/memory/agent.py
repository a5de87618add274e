"""A small scripted agent: Health, and the AgentService calls of an ordinary pod with programs of no substance.

Programs it plays (first word of the container's or exec's arguments, leading folders ignored): `echo WORDS`,
`cat` (stdin to stdout until stdin closes), `exit N`, `true`, `false`; anything else, `pause` too, runs until a
signal ends it. A program ended by signal n gives status 128 + n, as the real agent does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from peerpods.protocols import agent_pb2 as agent
from peerpods.protocols import health_pb2 as health

AGENT_SERVICE = "grpc.AgentService"
HEALTH_SERVICE = "grpc.Health"
_QUIET = (
    "CopyFile",
    "DestroySandbox",
    "OnlineCPUMem",
    "PauseContainer",
    "RemoveStaleVirtiofsShareMounts",
    "ReseedRandomDev",
    "ResumeContainer",
    "SetGuestDateTime",
    "SetPolicy",
    "TtyWinResize",
    "UpdateContainer",
    "UpdateEphemeralMounts",
)


@attrs.frozen(kw_only=True)
class AgentServices:
    """What a ttrpc server needs to speak for an instance: services, and what takes all other calls."""

    services: Iterable[Any]
    fallback: Callable[..., Awaitable[Any]] | None = None


class Waiter:
    """A condition that many calls may wait for; a cancelled call leaves no trace."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    async def wait(self) -> None:
        """Until the next `wake`."""
        deferred: Deferred[None] = Deferred()
        self._waiting.append(deferred)
        try:
            await deferred
        finally:
            if deferred in self._waiting:
                self._waiting.remove(deferred)

    def wake(self) -> None:
        """Let all who wait look again."""
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)


class Process:
    """One container's or exec's program."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.output = {"stdout": b"", "stderr": b""}
        self.status: int | None = None
        self._changed = Waiter()

    def start(self) -> None:
        """Run: short programs are over at once."""
        name = self.words[0].rsplit("/", 1)[-1] if self.words else ""
        if name == "echo":
            self.output["stdout"] += " ".join(self.words[1:]).encode() + b"\n"
            self.end(0)
        elif name == "exit":
            self.end(int(self.words[1]) & 255)
        elif name in ("true", "false"):
            self.end(0 if name == "true" else 1)

    def end(self, status: int) -> None:
        """The program is over; a second end changes nothing."""
        if self.status is None:
            self.status = status
        self._changed.wake()

    def feed(self, data: bytes) -> None:
        """Stdin: `cat` gives it back, others drop it."""
        if self.words and self.words[0].rsplit("/", 1)[-1] == "cat":
            self.output["stdout"] += data
            self._changed.wake()

    def close_stdin(self) -> None:
        """End of stdin ends `cat`."""
        if self.words and self.words[0].rsplit("/", 1)[-1] == "cat":
            self.end(0)

    async def read(self, name: str, size: int) -> bytes:
        """Up to `size` bytes; empty at the end."""
        while not self.output[name] and self.status is None:
            await self._changed.wait()
        data = self.output[name][:size]
        self.output[name] = self.output[name][size:]
        return data

    async def wait(self) -> int:
        """The exit status, once there is one."""
        while self.status is None:
            await self._changed.wait()
        return self.status


class GenericAgent:
    """The state of one pod's scripted agent."""

    def __init__(self, instance_id: str, say: Callable[[str], None]) -> None:
        self._id = instance_id
        self._say = say
        self.processes: dict[tuple[str, str], Process] = {}

    def services(self) -> AgentServices:
        """Health and AgentService for a ttrpc server."""
        from peerpods.ttrpc import Method, Service

        def named(name: str) -> type[Message]:
            found: type[Message] = getattr(agent, name + "Request")
            return found

        async def done(ctx: Any, request: Any) -> Empty:
            return Empty()

        methods = {name: Method(done, named(name)) for name in _QUIET}
        for name, handler in {
            "CreateSandbox": self._create_sandbox,
            "CreateContainer": self._create_container,
            "StartContainer": self._start_container,
            "RemoveContainer": self._remove_container,
            "ExecProcess": self._exec,
            "SignalProcess": self._signal,
            "WaitProcess": self._wait,
            "CloseStdin": self._close_stdin,
            "StatsContainer": self._stats,
            "GetOOMEvent": self._oom,
        }.items():
            methods[name] = Method(handler, named(name))
        methods["ReadStdout"] = Method(self._reader("stdout"), agent.ReadStreamRequest)
        methods["ReadStderr"] = Method(self._reader("stderr"), agent.ReadStreamRequest)
        methods["WriteStdin"] = Method(self._write, agent.WriteStreamRequest)
        methods["GetGuestDetails"] = Method(self._details, agent.GuestDetailsRequest)
        checks = {
            "Check": Method(self._check, health.CheckRequest),
            "Version": Method(self._version, health.CheckRequest),
        }
        return AgentServices(services=(Service(AGENT_SERVICE, methods), Service(HEALTH_SERVICE, checks)))

    async def _check(self, ctx: Any, request: Any) -> Message:
        return health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)

    async def _version(self, ctx: Any, request: Any) -> Message:
        return health.VersionCheckResponse(grpc_version="0.0.1", agent_version="scripted")

    async def _details(self, ctx: Any, request: Any) -> Message:
        details = agent.AgentDetails(version="scripted", init_daemon=True)
        return agent.GuestDetailsResponse(mem_block_size_bytes=128 << 20, agent_details=details)

    async def _create_sandbox(self, ctx: Any, request: Any) -> Empty:
        self._say(f"sandbox {request.sandbox_id}")
        return Empty()

    async def _create_container(self, ctx: Any, request: Any) -> Empty:
        process = Process(list(request.OCI.Process.Args))
        self.processes[request.container_id, ""] = process
        self._say(f"container {request.container_id}")
        return Empty()

    async def _start_container(self, ctx: Any, request: Any) -> Empty:
        self._find(request.container_id, "").start()
        return Empty()

    async def _remove_container(self, ctx: Any, request: Any) -> Empty:
        for key in [k for k in self.processes if k[0] == request.container_id]:
            self.processes.pop(key).end(137)
        return Empty()

    async def _exec(self, ctx: Any, request: Any) -> Empty:
        self._find(request.container_id, "")
        process = Process(list(request.process.Args))
        self.processes[request.container_id, request.exec_id] = process
        process.start()
        return Empty()

    async def _signal(self, ctx: Any, request: Any) -> Empty:
        self._find(request.container_id, request.exec_id).end(128 + request.signal)
        return Empty()

    async def _wait(self, ctx: Any, request: Any) -> Message:
        status = await self._find(request.container_id, request.exec_id).wait()
        return agent.WaitProcessResponse(status=status)

    async def _write(self, ctx: Any, request: Any) -> Message:
        self._find(request.container_id, request.exec_id).feed(request.data)
        return agent.WriteStreamResponse(len=len(request.data))

    async def _close_stdin(self, ctx: Any, request: Any) -> Empty:
        self._find(request.container_id, request.exec_id).close_stdin()
        return Empty()

    async def _stats(self, ctx: Any, request: Any) -> Message:
        return agent.StatsContainerResponse()

    async def _oom(self, ctx: Any, request: Any) -> Message:
        await Deferred()
        return agent.OOMEvent()

    def _reader(self, name: str) -> Callable[[Any, Any], Awaitable[Message]]:
        from peerpods.ttrpc import Code, Status, StatusError

        async def read(ctx: Any, request: Any) -> Message:
            data = await self._find(request.container_id, request.exec_id).read(name, request.len or 32768)
            if not data:
                raise StatusError(Status(int(Code.NOT_FOUND), "eof"))
            return agent.ReadStreamResponse(data=data)

        return read

    def _find(self, container: str, process: str) -> Process:
        from peerpods.ttrpc import Code, Status, StatusError

        key = (container, "" if process == container else process)
        found = self.processes.get(key)
        if found is None:
            raise StatusError(Status(int(Code.NOT_FOUND), f"no process {process!r} in container {container!r}"))
        return found
