"""A development agent as in a VM: its own process, mount namespace and /run; the tests talk to its socket."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from twisted.internet.endpoints import UNIXClientEndpoint

from peerpods.protocols import agent_pb2 as pb
from peerpods.protocols import health_pb2
from peerpods.ttrpc import Client, StatusError, connect_client

FIXTURES = Path(__file__).parent.parent / "fixtures"
RESPONSES: dict[str, type[Any]] = {
    "WaitProcess": pb.WaitProcessResponse,
    "ReadStdout": pb.ReadStreamResponse,
    "ReadStderr": pb.ReadStreamResponse,
    "WriteStdin": pb.WriteStreamResponse,
    "StatsContainer": pb.StatsContainerResponse,
    "GetGuestDetails": pb.GuestDetailsResponse,
    "GetOOMEvent": pb.OOMEvent,
    "GetDiagnosticData": pb.GetDiagnosticDataResponse,
    "GetMetrics": pb.Metrics,
    "Check": health_pb2.HealthCheckResponse,
    "Version": health_pb2.VersionCheckResponse,
}
SANDBOX = "5a" * 32
START_SECONDS = 30.0


class Agent:
    """One agent process. `close` must be called; it fails the test when something is left."""

    def __init__(self, reactor: Any, *, setup: str = "true", listen: str = "") -> None:
        self.reactor = reactor
        self.folder = Path(tempfile.mkdtemp(prefix="pp-agent-", dir="/tmp"))
        twistd = str(Path(sys.executable).parent / "twistd")
        # As strict and as strange as a service manager may start it.
        script = f'umask 077; export NOTIFY_SOCKET=/run/nobody; mount -t tmpfs tmpfs /run && {setup} && exec "$@"'
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", twistd]
        argv += [
            "-n",
            "--pidfile=",
            "--rundir",
            str(self.folder),
            "agent",
            "--listen",
            listen or f"{self.folder}/agent.sock",
        ]
        self.log = (self.folder / "log").open("w+b")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.socket = self.root / listen[1:] if listen else self.folder / "agent.sock"
        self.client: Client

    async def connect(self) -> Agent:
        """Wait for the socket, then dial it."""
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                self.process.wait()
                words = self.words()
                shutil.rmtree(self.folder)
                raise AssertionError(words)
            time.sleep(0.02)  # another process's start: there is nothing to wait on
        self.client = await connect_client(self.reactor, UNIXClientEndpoint(self.reactor, str(self.socket)), timeout=5)
        return self

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def words(self) -> str:
        """The agent's log."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def root(self) -> Path:
        """The agent's view of the filesystem."""
        return Path(f"/proc/{self.process.pid}/root")

    def call(self, method: str, request: Any, *, service: str = "grpc.AgentService", timeout: float | None = 60) -> Any:
        """A Deferred with the answer."""
        return self.client.call(service, method, request, RESPONSES.get(method, Empty), timeout=timeout)

    async def refused(self, method: str, request: Any) -> tuple[int, str]:
        """Code and text of a call that must fail."""
        try:
            await self.call(method, request)
        except StatusError as error:
            return error.status.code, error.status.message
        raise AssertionError(f"{method} did not fail")

    async def close(self) -> None:
        """End it and check that nothing is left."""
        await self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()
        words = self.words()
        shutil.rmtree(self.folder)
        left = [str(p) for p in Path("/sys/fs/cgroup").glob("*/peerpods-*")]
        assert not left, left
        assert "Traceback" not in words, words

    # What a shim would ask, short.

    async def sandbox(self) -> None:
        """CreateSandbox as the shim sends it."""
        shm = pb.Storage(
            driver="ephemeral",
            source="shm",
            fstype="tmpfs",
            options=["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
            mount_point="/run/kata-containers/sandbox/shm",
        )
        await self.call("CreateSandbox", pb.CreateSandboxRequest(hostname="probe", sandbox_id=SANDBOX, storages=[shm]))

    def busybox_root(self, container_id: str) -> str:
        """A root with busybox for a container; its path as the agent sees it."""
        rootfs = f"/run/kata-containers/{container_id}/rootfs"
        folder = self.root / rootfs[1:]
        (folder / "bin").mkdir(parents=True)
        for name in ("proc", "dev", "sys", "etc", "tmp"):
            (folder / name).mkdir()
        shutil.copy("/bin/busybox", folder / "bin" / "busybox")
        for name in "sh cat echo sleep id stty head dd kill true hostname yes tty env ls readlink ps".split():
            (folder / "bin" / name).symlink_to("busybox")
        return rootfs

    async def run(self, container_id: str, *args: str, start: bool = True, **edits: Any) -> str:
        """Create (and start) a busybox container with a command."""
        request = recorded_container()
        request.container_id = request.exec_id = container_id
        del request.storages[:]
        spec = request.OCI
        spec.Root.Path = self.busybox_root(container_id)
        keep = [m for m in spec.Mounts if not m.source.startswith("/run/kata-containers/shared/")]
        del spec.Mounts[:]
        spec.Mounts.extend(keep)
        spec.Process.Args[:] = args
        if "network" in edits:
            spec.Linux.Namespaces.add(Type="network", Path=edits["network"])
        spec.Process.Terminal = edits.get("terminal", False)
        request.sandbox_pidns = edits.get("sandbox_pidns", False)
        if "memory" in edits:
            spec.Linux.Resources.Memory.Limit = spec.Linux.Resources.Memory.Swap = edits["memory"]
        for mount in edits.get("mounts", ()):
            spec.Mounts.add(**mount)
        for key, value in edits.get("annotations", {}).items():
            spec.Annotations[key] = value
        for storage in edits.get("storages", ()):
            request.storages.append(storage)
        await self.call("CreateContainer", request)
        if start:
            await self.call("StartContainer", pb.StartContainerRequest(container_id=container_id))
        return container_id

    async def refused_run(self, *words: str, **edits: Any) -> tuple[int, str]:
        """Code and text of a `run` that must fail; its root is removed for the next try."""
        try:
            await self.run(*words, **edits)
        except StatusError as error:
            shutil.rmtree(self.root / "run/kata-containers" / words[0])
            return error.status.code, error.status.message
        raise AssertionError("the container was made")

    async def execute(self, container_id: str, exec_id: str, *args: str, terminal: bool = False) -> str:
        """Run one more process."""
        request = pb.ExecProcessRequest(container_id=container_id, exec_id=exec_id)
        request.process.Args.extend(args)
        request.process.Env.append("PATH=/bin:/usr/bin")
        request.process.Cwd = "/"
        request.process.Terminal = terminal
        await self.call("ExecProcess", request)
        return exec_id

    async def read_all(self, container_id: str, exec_id: str = "", stream: str = "Stdout") -> bytes:
        """Everything until the end of a stream."""
        data = b""
        while True:
            request = pb.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=32768)
            answer = await self.call(f"Read{stream}", request, timeout=30)
            if not answer.data:
                return data
            data += answer.data

    async def wait(self, container_id: str, exec_id: str = "") -> int:
        """Exit status."""
        request = pb.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return int((await self.call("WaitProcess", request, timeout=30)).status)

    async def kill(self, container_id: str, number: int, exec_id: str = "") -> None:
        """A signal."""
        request = pb.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=number)
        await self.call("SignalProcess", request)

    async def remove(self, container_id: str) -> None:
        """RemoveContainer."""
        await self.call("RemoveContainer", pb.RemoveContainerRequest(container_id=container_id))


def recorded(name: str) -> list[tuple[str, str, bytes]]:
    """The agent requests of a recorded life: (service, method, payload)."""
    from peerpods.ttrpc import decode_request

    calls = []
    for line in (FIXTURES / name).read_text().splitlines():
        record = json.loads(line)
        if record.get("ev") == "FRAME" and record["peer"] != "hyp" and record["type"] == 1:
            request = decode_request(bytes.fromhex(record["hex"])[10:])
            calls.append((request.service, request.method, bytes(request.payload)))
    return calls


def recorded_container() -> Any:
    """The app container's recorded CreateContainer (guest pull)."""
    payloads = [payload for _, method, payload in recorded("shim-guest-pull.jsonl") if method == "CreateContainer"]
    return pb.CreateContainerRequest.FromString(payloads[1])
