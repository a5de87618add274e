"""The ttrpc services that the shim and volume helpers call. The shim's quirks end here:

- CreateVM and StartVM are cancelled when their connection is lost, and only then; an idle connection that closes means
  nothing (the Go shim dials for each call, runtime-rs keeps one).
- StopVM is answered once it is written down: runtime-rs waits one second for it.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from peerpods.adaptor.calls import Calls
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import LIVE, Sandbox
from peerpods.errors import DeadlineExceeded, NotFound
from peerpods.protocols import hypervisor_pb2 as pb
from peerpods.protocols import podvminfo_pb2
from peerpods.ttrpc import CallContext, Method, Service

VERSION = "0.0.0"
"""What the existing system answers; no kata component asks."""
WAIT_MAX = 300.0
"""Seconds that GetInfo waits for a caller without a deadline."""


class Hypervisor:
    """Handlers of `hypervisor.Hypervisor` and its older name `remote.Hypervisor`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def services(self) -> list[Service]:
        """The service under both names; runtime-rs 3.11 to 3.22 used the second."""
        methods = {
            "CreateVM": Method(self.create_vm, pb.CreateVMRequest, pb.CreateVMResponse),
            "StartVM": Method(self.start_vm, pb.StartVMRequest, pb.StartVMResponse),
            "StopVM": Method(self.stop_vm, pb.StopVMRequest, pb.StopVMResponse),
            "Version": Method(self.version, pb.VersionRequest, pb.VersionResponse),
        }
        return [Service("hypervisor.Hypervisor", methods), Service("remote.Hypervisor", methods)]

    async def create_vm(self, _ctx: CallContext, request: pb.CreateVMRequest) -> pb.CreateVMResponse:
        """See `Calls.create`."""
        path = await self._calls.create(request.id, dict(request.annotations), request.networkNamespacePath)
        return pb.CreateVMResponse(agentSocketPath=path)

    async def start_vm(self, ctx: CallContext, request: pb.StartVMRequest) -> pb.StartVMResponse:
        """See `Calls.start`."""
        await self._calls.start(request.id, ctx.remaining())
        return pb.StartVMResponse()

    async def stop_vm(self, _ctx: CallContext, request: pb.StopVMRequest) -> pb.StopVMResponse:
        """See `Calls.stop`."""
        await self._calls.stop(request.id)
        return pb.StopVMResponse()

    async def version(self, _ctx: CallContext, _request: pb.VersionRequest) -> pb.VersionResponse:
        """A constant."""
        return pb.VersionResponse(version=VERSION)


class PodVMInfo:
    """Handlers of `podvminfo.PodVMInfo`: which instance serves a pod."""

    def __init__(self, reactor: IReactorTime, runner: Runner) -> None:
        self._reactor = reactor
        self._runner = runner
        self._waiting: list[tuple[str, str, Deferred[str]]] = []

    def services(self) -> list[Service]:
        """The service."""
        request, response = podvminfo_pb2.GetInfoRequest, podvminfo_pb2.GetInfoResponse
        return [Service("podvminfo.PodVMInfo", {"GetInfo": Method(self.get_info, request, response)})]

    def changed(self, after: Sandbox) -> None:
        """Wake those who wait for this pod's instance."""
        if after.instance is None or after.phase not in LIVE:
            return
        for entry in list(self._waiting):
            if entry[:2] == (after.pod, after.namespace) and entry in self._waiting:
                self._waiting.remove(entry)
                entry[2].callback(after.instance.id)

    async def get_info(self, ctx: CallContext, request: podvminfo_pb2.GetInfoRequest) -> podvminfo_pb2.GetInfoResponse:
        """The instance of a pod; with Wait as soon as it has one, within the caller's deadline.

        Raises:
            NotFound: without Wait, when the pod has no instance.
            DeadlineExceeded: with Wait, when it got none in time.
        """
        pod, namespace = request.PodName, request.PodNamespace
        found = self._find(pod, namespace)
        if found is None:
            if not request.Wait:
                raise NotFound(f"pod {namespace}/{pod} has no instance on this node")
            found = await self._wait(pod, namespace, ctx.remaining())
        return podvminfo_pb2.GetInfoResponse(VMID=found)

    def _find(self, pod: str, namespace: str) -> str | None:
        matching = [
            s
            for s in self._runner.living()
            if (s.pod, s.namespace) == (pod, namespace) and s.phase in LIVE and s.instance is not None
        ]
        if not matching:
            return None
        newest = max(matching, key=lambda s: s.created_at)
        assert newest.instance is not None
        return newest.instance.id

    async def _wait(self, pod: str, namespace: str, remaining: float | None) -> str:
        seconds = WAIT_MAX if remaining is None else min(remaining, WAIT_MAX)
        waiter: Deferred[str] = Deferred()
        entry = (pod, namespace, waiter)
        self._waiting.append(entry)

        def late(_result: object, _timeout: float) -> str:
            raise DeadlineExceeded(f"pod {namespace}/{pod} got no instance within {seconds:.0f} s")

        try:
            return await waiter.addTimeout(seconds, self._reactor, onTimeoutCancel=late)
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
