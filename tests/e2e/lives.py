"""Child process of test_recorded_lives: `python -m tests.e2e.lives LIFE` plays a life on the provider `memory`.

Runs in namespaces of its own. Real adaptor, relay and forwarder on real sockets; the agent behind the forwarder gives
the recorded answers. Prints one JSON object with what the test judges.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater

from peerpods.cli.podns import plan
from peerpods.cli.reacting import run_reactor
from peerpods.clouds.memory.guest import Guests
from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.clouds.memory.replay import RecordedAgent
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.config.settings import AdaptorSettings, ForwarderSettings, GuestSettings, RelaySettings
from peerpods.protocols import agent_pb2, hypervisor_pb2
from peerpods.ttrpc import Request, Server
from peerpods.ttrpc.unix import listen_unix
from tests.e2e.player import FIXTURES, Player, called, read_life

POD_NAMESPACE = "/run/netns/podns"


class GuardedAgent(RecordedAgent):
    """A `RecordedAgent` that answers the relay's own Health/Check outside the record, and keeps whole requests."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines)
        self.requests: list[Request] = []
        self.own_checks = 0

    async def answer(self, ctx: Any, request: Any) -> Any:
        """See the base class."""
        if request.service == "grpc.Health" and not request.metadata:
            from peerpods.protocols import health_pb2
            from peerpods.ttrpc import Response

            self.own_checks += 1
            serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
            return Response(None, serving.SerializeToString())
        self.requests.append(attrs.evolve(request, payload=bytes(request.payload)))
        return await super().answer(ctx, request)


@attrs.define
class ForwarderGuest:
    """An instance whose port is a real forwarder's, with the scripted agent behind it."""

    port: int
    service: Any
    agent: Any
    listening: Any
    folder: str

    async def close(self) -> None:
        """End all; idempotent."""
        service, self.service = self.service, None
        if service is not None:
            await service.stopService()
            await self.listening.stopListening()
            await self.agent.close(0.0)
            shutil.rmtree(self.folder, ignore_errors=True)


class ForwarderGuests(Guests):
    """Boots instances that hold a forwarder, as a VM does."""

    def __init__(self, reactor: Any, script: Any) -> None:
        super().__init__(reactor, script)
        self.reactor = reactor
        self.script = script
        self.user_data: dict[str, bytes] = {}
        self.built: list[Any] = []

    async def boot(self, instance_id: str, user_data: bytes, *, silent: bool, say: Callable[[str], None]) -> Any:
        """What the reader, the forwarder's unit and the agent do in a VM."""
        from peerpods.clouds.memory.guest import GuestView
        from peerpods.forwarder.service import ForwarderService
        from peerpods.userdata import parse

        root = tempfile.mkdtemp(prefix="vm-", dir="/run")
        files = parse(user_data)
        for path, data in files.items():
            place = Path(root + path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        self.user_data = files
        view = GuestView(
            instance_id=instance_id, files=files, say=say, soon=lambda function: self.reactor.callLater(0, function)
        )
        made = self.script(view)
        server = Server(self.reactor, made.services, fallback=made.fallback)
        path = f"{root}/agent.sock"
        listening = await listen_unix(self.reactor, path, server)
        service = ForwarderService(
            ForwarderSettings(
                config=f"{root}/run/peerpod/apf.json",
                listen="127.0.0.1:0",
                kata_agent_socket=path,
                pod_namespace=POD_NAMESPACE,
            ),
            self.reactor,
            build_network=lambda apf, where: self.built.append((apf, where)),
            root=root,
            os_release=f"{root}/etc/os-release",
        )
        service.startService()
        assert service.port is not None
        return ForwarderGuest(service.port.getHost().port, service, server, listening, root)


def other_namespace(netns: str) -> Callable[[str, Request], Request]:
    """The one edit of the play: the recorded network namespace becomes one that is there."""

    def edit(_peer: str, request: Request) -> Request:
        if request.method != "CreateVM":
            return request
        message = hypervisor_pb2.CreateVMRequest.FromString(request.payload)
        message.networkNamespacePath = netns
        return attrs.evolve(request, payload=message.SerializeToString())

    return edit


def as_forwarded(request: Request) -> bytes:
    """The payload that the agent must get for a recorded one: the documented edits, and only these (wire.md 5.5)."""
    if request.method == "CreateSandbox":
        sandbox = agent_pb2.CreateSandboxRequest.FromString(request.payload)
        del sandbox.dns[:]
        return sandbox.SerializeToString(deterministic=True)
    if request.method == "CreateContainer":
        container = agent_pb2.CreateContainerRequest.FromString(request.payload)
        container.OCI.Linux.Namespaces.add(Type="network", Path=POD_NAMESPACE)
        return container.SerializeToString(deterministic=True)
    return request.payload


def as_got(request: Request) -> bytes:
    """The payload that the agent got, in the form of `as_forwarded`."""
    kinds = {"CreateSandbox": agent_pb2.CreateSandboxRequest, "CreateContainer": agent_pb2.CreateContainerRequest}
    kind = kinds.get(request.method)
    return kind.FromString(request.payload).SerializeToString(deterministic=True) if kind else request.payload


def judge_agent_side(recorded: list[Request], got: list[Request]) -> list[str]:
    """What differs between the calls of the record and those that reached the agent."""
    wrong = []
    names = [request.method for request in got]
    if names != [request.method for request in recorded]:
        wrong.append(f"order: {names}")
    for number, (was, now) in enumerate(zip(recorded, got, strict=False)):
        where = f"call {number} {was.method}"
        if as_forwarded(was) != as_got(now):
            wrong.append(f"{where}: payload")
        if (was.service, was.metadata) != (now.service, now.metadata):
            wrong.append(f"{where}: service or metadata {now.service} {now.metadata}")
        if bool(was.timeout_nano) != bool(now.timeout_nano) or now.timeout_nano > was.timeout_nano:
            wrong.append(f"{where}: timeout {now.timeout_nano} for {was.timeout_nano}")
    return wrong


def judge_answers(player: Player) -> list[str]:
    """Where an answer's status or payload is not the recorded one; CreateVM's socket path is the exception."""
    return [
        f"{told.name}: {told.given} for {told.recorded}"
        for told in player.told
        if told.given != told.recorded and told.request.method != "CreateVM"
    ]


async def settled(reactor: Any, condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait for the adaptor to have cleaned up."""
    end = reactor.seconds() + seconds
    while not condition() and reactor.seconds() < end:
        await deferLater(reactor, 0.02)
    return condition()


async def on_memory(reactor: Any, life: str, netns: str, device: str) -> dict[str, Any]:
    """Play one life; gives the facts that the test judges."""
    from peerpods.adaptor.service import AdaptorService
    from peerpods.relay.service import RelayService

    folder = tempfile.mkdtemp(prefix="pp-", dir="/run")
    agent = GuardedAgent((FIXTURES / f"{life}.jsonl").read_text().splitlines())
    guests = ForwarderGuests(reactor, agent.script)
    provider = MemoryProvider(MemorySettings(), reactor, guests=guests)
    pods = f"{folder}/pods"
    relay = RelayService(RelaySettings(control=f"{folder}/relay.sock", pods_dir=pods), reactor)
    settings = AdaptorSettings(
        provider="memory",
        socket=f"{folder}/hypervisor.sock",
        admin=f"{folder}/admin.sock",
        pods_dir=pods,
        state_dir=f"{folder}/state",
        relay=f"{folder}/relay.sock",
        node="node-01",
        host_interface=device,
    )
    adaptor = AdaptorService(settings, GuestSettings(), provider, reactor)
    events = read_life(life)
    player = Player(reactor=reactor, hypervisor=settings.socket, edit=other_namespace(netns))
    await relay.startService()
    await adaptor.startService()
    try:
        await player.play(events)
        sandbox = next(iter(adaptor.runner.sandboxes.values()))
        gone = await settled(reactor, lambda: not adaptor.runner.living() and not provider.store.records)
    finally:
        await adaptor.stopService()
        await relay.stopService()
        await provider.close_all()
    return {
        "answers": judge_answers(player),
        "answered": len(player.told),
        "agent_side": judge_agent_side(called(events, "agent"), agent.requests),
        "agent_calls": len(agent.requests),
        "unknown": [call[1] for call in agent.unknown],
        "unanswered": player.unanswered,
        "agent_socket": player.agent_socket.removeprefix(pods),
        "sandbox": sandbox.id,
        "own_checks": agent.own_checks,
        "spec": attrs.asdict(sandbox.spec),
        "network": [(apf.pod_name, apf.network.addresses, where) for apf, where in guests.built],
        "files": sorted(guests.user_data),
        "gone": gone,
        "left": sorted(str(path) for path in Path(folder).rglob("*") if "pods/" in str(path)),
    }


def main() -> None:
    """Make a pod's namespace, play, print."""
    name = "life"
    add = [sys.executable, "-m", "peerpods.cli.podns", "add", name]
    netns = subprocess.run(add, capture_output=True, text=True, check=True).stdout.strip()
    found = run_reactor(lambda reactor: on_memory(reactor, sys.argv[1], netns, plan(name)[0]))
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
