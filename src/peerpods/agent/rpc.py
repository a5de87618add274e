"""The agent's two ttrpc services: the methods of spec/wire 3.1 that this agent has, and how errors travel (3.3)."""

# ruff: noqa: ASYNC230, ASYNC240  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from twisted.internet.defer import CancelledError

from peerpods.agent import copyfile, spec, storage
from peerpods.agent.container import Container
from peerpods.agent.sandbox import Sandbox
from peerpods.errors import NotFound, PeerPodError, Refused
from peerpods.obs.log import get_logger
from peerpods.protocols import agent_pb2 as pb
from peerpods.protocols import health_pb2
from peerpods.ttrpc import CallContext, Code, Method, Service, Status, StatusError

VERSION = "peerpods development agent 0.1.0"
API_VERSION = "0.0.1"
DIAGNOSTIC_MAX = 4096
BLOCK_SIZE = Path("/sys/devices/system/memory/block_size_bytes")
log = get_logger("agent")


def map_error(error: BaseException) -> Status:
    """Status of a failed call: almost everything is INTERNAL, as with the kata agent."""
    if isinstance(error, StatusError):
        return error.status
    if isinstance(error, CancelledError):
        return Status(Code.CANCELLED, "the caller has gone")
    if isinstance(error, PeerPodError):
        return Status(error.code, str(error))
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        where = f" ({error.filename})" if error.filename else ""
        return Status(Code.INTERNAL, f"{name}: {error.strerror or error}{where}")
    log.error("call_failed", error=repr(error))
    return Status(Code.INTERNAL, f"{type(error).__name__}: {error}")


class AgentRpc:
    """Handlers of grpc.AgentService."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def service(self) -> Service:
        """The service. Methods that are not here answer UNIMPLEMENTED."""
        handlers: dict[str, tuple[Callable[..., Any], type[Any]]] = {
            "CreateSandbox": (self.create_sandbox, pb.CreateSandboxRequest),
            "DestroySandbox": (self.destroy_sandbox, pb.DestroySandboxRequest),
            "GetGuestDetails": (self.guest_details, pb.GuestDetailsRequest),
            "CreateContainer": (self.create_container, pb.CreateContainerRequest),
            "StartContainer": (self.start_container, pb.StartContainerRequest),
            "RemoveContainer": (self.remove_container, pb.RemoveContainerRequest),
            "ExecProcess": (self.exec_process, pb.ExecProcessRequest),
            "SignalProcess": (self.signal_process, pb.SignalProcessRequest),
            "WaitProcess": (self.wait_process, pb.WaitProcessRequest),
            "UpdateContainer": (self.update_container, pb.UpdateContainerRequest),
            "StatsContainer": (self.stats_container, pb.StatsContainerRequest),
            "PauseContainer": (self.pause_container, pb.PauseContainerRequest),
            "ResumeContainer": (self.resume_container, pb.ResumeContainerRequest),
            "RemoveStaleVirtiofsShareMounts": (self.nothing, pb.RemoveStaleVirtiofsShareMountsRequest),
            "WriteStdin": (self.write_stdin, pb.WriteStreamRequest),
            "ReadStdout": (self.read_stdout, pb.ReadStreamRequest),
            "ReadStderr": (self.read_stderr, pb.ReadStreamRequest),
            "CloseStdin": (self.close_stdin, pb.CloseStdinRequest),
            "TtyWinResize": (self.resize, pb.TtyWinResizeRequest),
            "GetOOMEvent": (self.oom_event, pb.GetOOMEventRequest),
            "CopyFile": (self.copy_file, pb.CopyFileRequest),
            "GetDiagnosticData": (self.diagnostic_data, pb.GetDiagnosticDataRequest),
            "GetMetrics": (self.metrics, pb.GetMetricsRequest),
            "SetPolicy": (self.set_policy, pb.SetPolicyRequest),
        }
        return Service(
            "grpc.AgentService", {name: Method(handler, request) for name, (handler, request) in handlers.items()}
        )

    async def create_sandbox(self, _: CallContext, request: pb.CreateSandboxRequest) -> Empty:
        log.info("create_sandbox", sandbox=request.sandbox_id)
        await self._sandbox.create(request)
        return Empty()

    async def destroy_sandbox(self, _: CallContext, request: pb.DestroySandboxRequest) -> Empty:
        log.info("destroy_sandbox")
        await self._sandbox.destroy()
        return Empty()

    async def guest_details(self, _: CallContext, request: pb.GuestDetailsRequest) -> pb.GuestDetailsResponse:
        details = pb.AgentDetails(version=VERSION, storage_handlers=storage.HANDLERS, supports_seccomp=True)
        result = pb.GuestDetailsResponse(agent_details=details)
        if request.mem_block_size and BLOCK_SIZE.exists():
            result.mem_block_size_bytes = int(BLOCK_SIZE.read_text(), 16)
        return result

    async def create_container(self, ctx: CallContext, request: pb.CreateContainerRequest) -> Empty:
        log.info("create_container", container=request.container_id)
        await self._sandbox.create_container(request, ctx.remaining())
        return Empty()

    def _known(self, container_id: str, code: Code = Code.INTERNAL) -> Container:
        # Which code an unknown id gets differs by method in the kata agent (spec/wire 3.1, 3.3).
        try:
            return self._sandbox.container(container_id)
        except NotFound as error:
            text = "Invalid container id" if code == Code.INTERNAL else "invalid container id"
            raise StatusError(Status(code, f"{text}: {container_id[:80]!r}")) from error

    async def start_container(self, _: CallContext, request: pb.StartContainerRequest) -> Empty:
        log.info("start_container", container=request.container_id)
        await self._known(request.container_id).start()
        return Empty()

    async def remove_container(self, _: CallContext, request: pb.RemoveContainerRequest) -> Empty:
        log.info("remove_container", container=request.container_id)
        self._known(request.container_id)
        await self._sandbox.remove_container(request.container_id)
        return Empty()

    async def exec_process(self, _: CallContext, request: pb.ExecProcessRequest) -> Empty:
        if not request.exec_id or not request.process.Args:
            raise Refused("an exec needs an exec id and arguments")
        log.info("exec_process", container=request.container_id, exec=request.exec_id)
        await self._known(request.container_id).execute(request.exec_id, request.process)
        return Empty()

    async def signal_process(self, _: CallContext, request: pb.SignalProcessRequest) -> Empty:
        self._sandbox.process(request.container_id, request.exec_id)
        self._sandbox.container(request.container_id).signal(request.exec_id, request.signal)
        return Empty()

    async def wait_process(self, _: CallContext, request: pb.WaitProcessRequest) -> pb.WaitProcessResponse:
        process = self._sandbox.process(request.container_id, request.exec_id)
        return pb.WaitProcessResponse(status=await process.child.wait())

    async def update_container(self, _: CallContext, request: pb.UpdateContainerRequest) -> Empty:
        await self._known(request.container_id, Code.INVALID_ARGUMENT).update(request.resources)
        return Empty()

    async def stats_container(self, _: CallContext, request: pb.StatsContainerRequest) -> pb.StatsContainerResponse:
        self._known(request.container_id, Code.INVALID_ARGUMENT)
        return pb.StatsContainerResponse(cgroup_stats=self._sandbox.stats(request.container_id))

    async def pause_container(self, _: CallContext, request: pb.PauseContainerRequest) -> Empty:
        await self._known(request.container_id, Code.INVALID_ARGUMENT).pause()
        return Empty()

    async def resume_container(self, _: CallContext, request: pb.ResumeContainerRequest) -> Empty:
        await self._known(request.container_id, Code.INVALID_ARGUMENT).resume()
        return Empty()

    async def nothing(self, _: CallContext, request: Any) -> Empty:
        """There is no shared filesystem whose mounts could be stale."""
        return Empty()

    async def write_stdin(self, _: CallContext, request: pb.WriteStreamRequest) -> pb.WriteStreamResponse:
        process = self._sandbox.process(request.container_id, request.exec_id)
        return pb.WriteStreamResponse(len=await process.stdin.write(request.data))

    async def read_stdout(self, _: CallContext, request: pb.ReadStreamRequest) -> pb.ReadStreamResponse:
        process = self._sandbox.process(request.container_id, request.exec_id)
        return pb.ReadStreamResponse(data=await process.stdout.read(request.len))

    async def read_stderr(self, _: CallContext, request: pb.ReadStreamRequest) -> pb.ReadStreamResponse:
        process = self._sandbox.process(request.container_id, request.exec_id)
        if process.stderr is None:
            return pb.ReadStreamResponse()  # a terminal has one stream: this one has ended
        return pb.ReadStreamResponse(data=await process.stderr.read(request.len))

    async def close_stdin(self, _: CallContext, request: pb.CloseStdinRequest) -> Empty:
        await self._sandbox.process(request.container_id, request.exec_id).stdin.end()
        return Empty()

    async def resize(self, _: CallContext, request: pb.TtyWinResizeRequest) -> Empty:
        process = self._sandbox.process(request.container_id, request.exec_id)
        if process.stderr is not None:
            raise StatusError(Status(Code.UNAVAILABLE, "no tty"))
        process.stdout.resize(request.row, request.column)
        return Empty()

    async def oom_event(self, _: CallContext, request: pb.GetOOMEventRequest) -> pb.OOMEvent:
        return pb.OOMEvent(container_id=await self._sandbox.oom.next())

    async def copy_file(self, _: CallContext, request: pb.CopyFileRequest) -> Empty:
        copyfile.copy_file(request)
        return Empty()

    async def diagnostic_data(
        self, _: CallContext, request: pb.GetDiagnosticDataRequest
    ) -> pb.GetDiagnosticDataResponse:
        if request.log_type != "termination_log":
            raise Refused(f"log type {request.log_type[:80]!r} is not known", remedy="ask for termination_log")
        path = spec.termination_log(self._known(request.container_id).spec)
        if not path or not Path(path).is_file():
            return pb.GetDiagnosticDataResponse()
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - DIAGNOSTIC_MAX))
            return pb.GetDiagnosticDataResponse(data=file.read(DIAGNOSTIC_MAX).decode(errors="replace"))

    async def metrics(self, _: CallContext, request: pb.GetMetricsRequest) -> pb.Metrics:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pb.Metrics(
            metrics="# TYPE peerpods_agent_containers gauge\n"
            f"peerpods_agent_containers {self._sandbox.containers}\n"
            "# TYPE peerpods_agent_resident_bytes gauge\n"
            f"peerpods_agent_resident_bytes {pages * os.sysconf('SC_PAGE_SIZE')}\n"
        )

    async def set_policy(self, _: CallContext, request: pb.SetPolicyRequest) -> Empty:
        raise StatusError(
            Status(Code.NOT_FOUND, "SetPolicy is not supported: the development agent enforces no policy")
        )


def health_service() -> Service:
    """grpc.Health."""

    async def check(_: CallContext, request: health_pb2.CheckRequest) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def version(_: CallContext, request: health_pb2.CheckRequest) -> health_pb2.VersionCheckResponse:
        return health_pb2.VersionCheckResponse(grpc_version=API_VERSION, agent_version=VERSION)

    return Service(
        "grpc.Health",
        {
            "Check": Method(check, health_pb2.CheckRequest),
            "Version": Method(version, health_pb2.CheckRequest),
        },
    )
