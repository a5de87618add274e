"""Plays the kata shim: the calls it makes, in its order and with its timeouts (shim-trace.md section 3).

`peerpods run` and the end-to-end tests drive pods with it. It knows neither adaptor nor relay, only their sockets.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater

from peerpods import oci_spec
from peerpods.protocols import agent_pb2, health_pb2, hypervisor_pb2, podvminfo_pb2
from peerpods.ttrpc import Client, StatusError, connect_client

METADATA = (("containerd-namespace-ttrpc", "k8s.io"),)
START_TIMEOUT = 600.0  # remote_hypervisor_timeout
READ_LENGTH = 32768
_CHECK_EVERY = 5.0
_CHECK_TIMEOUT = 30.0
_CALL_TIMEOUT = 60.0
_SANDBOX_TIMEOUT = 300.0


@attrs.define(kw_only=True)
class Hypervisor:
    """The hypervisor socket as the Go shim uses it: a new connection for each call."""

    reactor: Any
    path: str

    async def call(
        self,
        method: str,
        request: Message,
        answer: type[Message],
        timeout: float | None,
        service: str = "hypervisor.Hypervisor",
    ) -> Any:
        """One call on a connection of its own.

        Raises:
            StatusError: the adaptor's answer.
            OSError, twisted.internet.error.ConnectError: nobody listens.
        """
        client = await connect_client(self.reactor, UNIXClientEndpoint(self.reactor, self.path))
        try:
            return await client.call(service, method, request, answer, timeout=timeout)
        finally:
            await client.close()

    async def create_vm(self, sandbox: str, notes: dict[str, str], netns: str) -> str:
        """CreateVM; gives the agent socket's path."""
        request = hypervisor_pb2.CreateVMRequest(id=sandbox, annotations=notes, networkNamespacePath=netns)
        answer = await self.call("CreateVM", request, hypervisor_pb2.CreateVMResponse, None)
        return str(answer.agentSocketPath)

    async def start_vm(self, sandbox: str) -> None:
        """StartVM with the shim's 600 s."""
        request = hypervisor_pb2.StartVMRequest(id=sandbox)
        await self.call("StartVM", request, hypervisor_pb2.StartVMResponse, START_TIMEOUT)

    async def stop_vm(self, sandbox: str) -> None:
        """StopVM, without a bound as the Go shim does."""
        await self.call("StopVM", hypervisor_pb2.StopVMRequest(id=sandbox), hypervisor_pb2.StopVMResponse, None)

    async def instance_of(self, pod: str, namespace: str) -> str:
        """Which instance serves a pod, by PodVMInfo; "" when the adaptor does not know."""
        request = podvminfo_pb2.GetInfoRequest(PodName=pod, PodNamespace=namespace)
        try:
            answer = await self.call("GetInfo", request, podvminfo_pb2.GetInfoResponse, 10.0, "podvminfo.PodVMInfo")
        except StatusError:
            return ""
        return str(answer.VMID)


def vm_annotations(
    pod: str, namespace: str, *, vcpus: int = 0, memory_mib: int = 0, machine_type: str = "", image: str = ""
) -> dict[str, str]:
    """The nine annotations of CreateVM; always all nine, "" or "0" when unset."""
    prefix = "io.katacontainers.config.hypervisor."
    return {
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.sandbox-namespace": namespace,
        prefix + "machine_type": machine_type,
        prefix + "image": image,
        prefix + "default_vcpus": str(vcpus),
        prefix + "default_memory": str(memory_mib),
        prefix + "cc_init_data": "",
        prefix + "default_gpus": "0",
        prefix + "default_gpu_model": "",
    }


def new_id() -> str:
    """A sandbox or container id as a CRI makes them: 64 hexadecimal digits."""
    return secrets.token_hex(32)


@attrs.define(kw_only=True)
class Agent:
    """The agent socket of one sandbox: one connection for its whole life."""

    reactor: Any
    client: Client
    sandbox: str
    _outstanding: list[Deferred[Any]] = attrs.field(factory=list)
    dead: str = ""
    """Why the health check failed; "" while it does not."""

    @classmethod
    async def connect(cls, reactor: Any, path: str, sandbox: str) -> Agent:
        """Dial the agent socket, once."""
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, path))
        return cls(reactor=reactor, client=client, sandbox=sandbox)

    async def call(
        self,
        method: str,
        request: Message,
        answer: type[Message] = Empty,
        *,
        timeout: float | None = _CALL_TIMEOUT,
        service: str = "grpc.AgentService",
    ) -> Any:
        """One agent call."""
        return await self.client.call(service, method, request, answer, timeout=timeout, metadata=METADATA)

    async def check(self) -> None:
        """Health/Check with the shim's 30 s."""
        await self.call(
            "Check",
            health_pb2.CheckRequest(),
            health_pb2.HealthCheckResponse,
            timeout=_CHECK_TIMEOUT,
            service="grpc.Health",
        )

    async def start_sandbox(self, pod: str, dns: Iterable[str]) -> None:
        """CreateSandbox and GetGuestDetails."""
        await self.call(
            "CreateSandbox", oci_spec.create_sandbox(self.sandbox, pod, list(dns)), timeout=_SANDBOX_TIMEOUT
        )
        await self.call(
            "GetGuestDetails",
            agent_pb2.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True),
            agent_pb2.GuestDetailsResponse,
        )

    async def create(self, wish: oci_spec.ContainerWish, files: dict[str, bytes], timeout: float) -> None:
        """CopyFile for each file, then CreateContainer. The image pull happens inside the latter."""
        mounts = []
        for destination, data in files.items():
            base = destination.rsplit("/", 1)[-1]
            path = f"{oci_spec.SHARED}/{wish.container_id}-{secrets.token_hex(8)}-{base}"
            await self.call("CopyFile", oci_spec.copy_file(path, data))
            mounts.append((destination, path))
        request = oci_spec.create_container(attrs.evolve(wish, files=tuple(mounts)))
        await self.call("CreateContainer", request, timeout=timeout)

    async def start(self, container: str) -> None:
        """StartContainer."""
        await self.call("StartContainer", agent_pb2.StartContainerRequest(container_id=container))

    def keep_watch(self) -> None:
        """What stays outstanding for the sandbox's life: GetOOMEvent, WaitProcess(pause), Health/Check every 5 s."""
        self._hold(self.call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), agent_pb2.OOMEvent, timeout=None))
        self._hold(self.wait(self.sandbox))
        self._hold(self._tick())

    def _hold(self, work: Awaitable[Any]) -> None:
        held: Deferred[Any] = Deferred.fromCoroutine(_quiet(work))
        self._outstanding.append(held)

    async def _tick(self) -> None:
        while self.client.connected and not self.dead:
            await deferLater(self.reactor, _CHECK_EVERY)
            try:
                await self.check()
            except StatusError as error:
                self.dead = error.status.message

    async def wait(self, container: str, exec_id: str = "") -> int:
        """WaitProcess without bound; gives the exit status."""
        request = agent_pb2.WaitProcessRequest(container_id=container, exec_id=exec_id or container)
        answer = await self.call("WaitProcess", request, agent_pb2.WaitProcessResponse, timeout=None)
        return int(answer.status)

    async def read_all(self, method: str, container: str, write: Callable[[bytes], None], exec_id: str = "") -> None:
        """Read one output stream to its end. The next read goes out after each answer; an error status ends it too."""
        request = agent_pb2.ReadStreamRequest(container_id=container, exec_id=exec_id or container, len=READ_LENGTH)
        while True:
            try:
                answer = await self.call(method, request, agent_pb2.ReadStreamResponse, timeout=None)
            except StatusError:
                return
            if not answer.data:
                return
            write(answer.data)

    async def write_stdin(self, container: str, data: bytes, exec_id: str = "") -> None:
        """WriteStdin of all the data, in the shim's pieces of at most 32 KiB."""
        for start in range(0, len(data), READ_LENGTH):
            piece = data[start : start + READ_LENGTH]
            request = agent_pb2.WriteStreamRequest(container_id=container, exec_id=exec_id or container, data=piece)
            await self.call("WriteStdin", request, agent_pb2.WriteStreamResponse, timeout=None)

    async def close_stdin(self, container: str, exec_id: str = "") -> None:
        """CloseStdin."""
        await self.call("CloseStdin", agent_pb2.CloseStdinRequest(container_id=container, exec_id=exec_id or container))

    async def signal(self, container: str, number: int) -> None:
        """SignalProcess to the container's init."""
        await self.call("SignalProcess", agent_pb2.SignalProcessRequest(container_id=container, signal=number))

    async def remove(self, container: str) -> None:
        """The end of a container as the shim does it: signal 9, wait, remove, stale mounts; errors are ignored."""
        steps: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: self.signal(container, 9),
            lambda: self._bounded_wait(container),
            lambda: self.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container)),
            lambda: self.call("RemoveStaleVirtiofsShareMounts", agent_pb2.RemoveStaleVirtiofsShareMountsRequest()),
        )
        for step in steps:
            await _quiet(step())

    async def _bounded_wait(self, container: str) -> None:
        waiting = Deferred.fromCoroutine(self.wait(container))
        await waiting.addTimeout(_CALL_TIMEOUT, self.reactor)

    async def destroy(self) -> None:
        """Remove the pause container and destroy the sandbox; errors are ignored as in the shim."""
        await self.remove(self.sandbox)
        await _quiet(self.call("DestroySandbox", agent_pb2.DestroySandboxRequest()))

    async def close(self) -> None:
        """Close the connection; what is outstanding ends."""
        await self.client.close()
        for held in self._outstanding:
            held.cancel()
        self._outstanding.clear()


async def _quiet(work: Awaitable[Any]) -> None:
    """Await and forget failures that the shim forgets too."""
    try:
        await work
    except (StatusError, CancelledError, DeferredTimeout) as error:
        del error


@attrs.define
class Stopwatch:
    """Durations of named phases in milliseconds, in order."""

    phases: dict[str, float] = attrs.field(factory=dict)
    report: Callable[[str, float], None] = attrs.field(default=lambda _name, _ms: None)

    async def measure(self, name: str, work: Awaitable[Any]) -> Any:
        """Await a piece of work and note how long it took."""
        began = time.monotonic()
        result = await work
        self.phases[name] = round((time.monotonic() - began) * 1000, 1)
        self.report(name, self.phases[name])
        return result
