"""A world outside the adaptor that survives its crashes: a small cloud, a relay, a network, on one clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from peerpods.adaptor.calls import Calls, Policy
from peerpods.adaptor.executor import Executor, Place, World
from peerpods.adaptor.hypervisor import PodVMInfo
from peerpods.adaptor.journal import Journal
from peerpods.adaptor.ports import Alone, ClusterPort, LinkFacts, RelayAway, RelayForgot, RelayKeys
from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import Sandbox, Secrets
from peerpods.adaptor.watch import Watch
from peerpods.aio import spawn
from peerpods.clouds.interface import Capabilities, CreateRequest
from peerpods.errors import CloudError, CloudFailure, LinkError, LinkFailure, Refused
from peerpods.model import Instance, InstanceState, PodNetwork, SandboxId, Tunnel, TunnelKind

ID = "a" * 64
NETNS = "/run/netns/pod-a"
NETWORK = PodNetwork(
    interface="eth0", mac="02:00:00:00:00:01", mtu=1500, addresses=("10.0.0.2/24",), node_address="192.0.2.1"
)
ANNOTATIONS = {NAME: "web", NAMESPACE: "lab"}


def at_once(function: Callable[[], Any]) -> Deferred[Any]:
    """The journal's `defer` without a thread."""
    try:
        return succeed(function())
    except Exception:
        failed: Deferred[Any] = Deferred()
        failed.errback(Failure())
        return failed


class Crash:
    """Kills the adaptor at one of its steps: from then on nothing it asks for ever happens or is answered."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.at: int | None = None
        self.dead = False

    def step(self, name: str) -> bool:
        """Count a step; True when the adaptor is dead, this step included."""
        if self.dead:
            return True
        self.steps.append(name)
        if self.at is not None and len(self.steps) - 1 == self.at:
            self.dead = True
        return self.dead


@attrs.define
class FakeCloud:
    """The cloud's side, and the provider in front of it. Every call is two steps: before it and after it."""

    clock: Clock
    instances: dict[str, Instance] = attrs.field(factory=dict)
    created: int = 0
    calls: list[str] = attrs.field(factory=list)
    user_data: list[bytes] = attrs.field(factory=list)
    requests: list[CreateRequest] = attrs.field(factory=list)
    create_errors: list[CloudError] = attrs.field(factory=list)
    partial_errors: list[CloudError] = attrs.field(factory=list)
    delete_errors: list[CloudError] = attrs.field(factory=list)
    create_delay: float = 0.0
    address_delay: float | None = 0.0
    address_at_create: bool = False
    delete_delay: float = 0.0
    console_text: bytes = b""
    tunnel: TunnelKind = TunnelKind.VXLAN
    max_user_data: int = 65536
    watchers: list[Callable[[Any], None]] = attrs.field(factory=list)
    addresses: tuple[str, ...] = ("192.0.2.7",)


class FakeProvider:
    """One adaptor's provider object on a FakeCloud."""

    name = "fake"

    def __init__(self, cloud: FakeCloud, crash: Crash) -> None:
        self.cloud = cloud
        self.crash = crash

    def capabilities(self) -> Capabilities:
        return Capabilities(max_user_data=self.cloud.max_user_data, console=True, events=True)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def verify(self) -> None: ...

    async def _before(self, name: str) -> None:
        if self.crash.step(f"{name}:before"):
            await Deferred()
        self.cloud.calls.append(name)

    async def _after(self, name: str) -> None:
        if self.crash.step(f"{name}:after"):
            await Deferred()

    async def create(self, request: CreateRequest) -> Instance:
        await self._before("create")
        cloud = self.cloud
        cloud.requests.append(request)
        if cloud.create_errors:
            raise cloud.create_errors.pop(0)
        made: Deferred[Instance] = Deferred(lambda _: None)

        def make() -> None:
            found = next((i for i in cloud.instances.values() if i.token == request.token), None)
            if found is None:
                cloud.created += 1
                found = Instance(
                    id=f"i-{cloud.created}",
                    name=request.name,
                    token=request.token,
                    tunnel=cloud.tunnel,
                    addresses=cloud.addresses if cloud.address_at_create else (),
                    tags=tuple(sorted(request.tags.items())),
                )
                cloud.instances[found.id] = found
            if not made.called:
                made.callback(found)

        # The cloud goes on by itself, whoever waits.
        cloud.clock.callLater(cloud.create_delay, make) if cloud.create_delay else make()
        instance = await made
        await self._after("create")
        if cloud.partial_errors:
            raise cloud.partial_errors.pop(0)
        return instance

    async def wait_address(self, instance_id: str) -> Instance:
        await self._before("wait_address")
        if self.cloud.address_delay is None:
            await Deferred()
        elif self.cloud.address_delay:
            await deferLater(self.cloud.clock, self.cloud.address_delay)
        if instance_id not in self.cloud.instances:
            raise CloudError("no such instance", kind=CloudFailure.NOT_FOUND)
        instance = attrs.evolve(
            self.cloud.instances[instance_id], addresses=self.cloud.addresses, state=InstanceState.RUNNING
        )
        self.cloud.instances[instance_id] = instance
        await self._after("wait_address")
        return instance

    async def find(self, token: str) -> Instance | None:
        await self._before("find")
        found = next((i for i in self.cloud.instances.values() if i.token == token), None)
        await self._after("find")
        return found

    async def list(self, tags: Any) -> list[Instance]:
        await self._before("list")
        found = [i for i in self.cloud.instances.values() if tags.items() <= dict(i.tags).items()]
        await self._after("list")
        return found

    async def describe(self, instance_id: str) -> Instance:
        await self._before("describe")
        if instance_id not in self.cloud.instances:
            raise CloudError("no such instance", kind=CloudFailure.NOT_FOUND)
        return self.cloud.instances[instance_id]

    async def delete(self, instance_id: str) -> None:
        await self._before("delete")
        if self.cloud.delete_errors:
            raise self.cloud.delete_errors.pop(0)
        if self.cloud.delete_delay:
            await deferLater(self.cloud.clock, self.cloud.delete_delay)
        self.cloud.instances.pop(instance_id, None)
        await self._after("delete")

    async def console(self, instance_id: str, max_bytes: int = 65536) -> bytes:
        await self._before("console")
        return self.cloud.console_text[-max_bytes:]

    def watch(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        self.cloud.watchers.append(callback)
        return lambda: self.cloud.watchers.remove(callback)


@attrs.define
class FakeNode:
    """The relay and the network, which outlive an adaptor."""

    clock: Clock
    sockets: dict[str, RelayKeys] = attrs.field(factory=dict)
    links: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    tunnels: dict[str, Tunnel] = attrs.field(factory=dict)
    folders: set[str] = attrs.field(factory=set)
    namespaces: set[str] = attrs.field(factory=lambda: {NETNS})
    link_delay: float | None = 0.0
    link_errors: list[LinkError] = attrs.field(factory=list)
    open_errors: list[LinkError] = attrs.field(factory=list)
    tunnel_errors: list[Exception] = attrs.field(factory=list)
    away: bool = False
    hang: set[str] = attrs.field(factory=set)
    """Names of steps ("open", "set_up") that never end."""
    active: dict[str, int] = attrs.field(factory=dict)
    idle: dict[str, float] = attrs.field(factory=dict)
    log: list[str] = attrs.field(factory=list)


class FakeRelay:
    """The adaptor's client of the relay."""

    def __init__(self, node: FakeNode, crash: Crash) -> None:
        self.node = node
        self.crash = crash

    async def _step(self, name: str) -> None:
        if self.crash.step(name):
            await Deferred()
        if self.node.away:
            raise RelayAway("the relay does not answer", kind=LinkFailure.CLOSED)

    async def open(self, sandbox: SandboxId, keys: RelayKeys) -> str:
        await self._step("open:before")
        if "open" in self.node.hang:
            await Deferred()
        if self.node.open_errors:
            raise self.node.open_errors.pop(0)
        self.node.sockets[sandbox] = keys
        self.node.folders.add(sandbox)
        self.node.log.append(f"open {sandbox[:4]}")
        await self._step("open:after")
        return f"/run/peerpod/pods/{sandbox}/agent.ttrpc"

    async def link(self, sandbox: SandboxId, host: str, port: int, timeout: float) -> None:
        await self._step("link:before")
        if sandbox not in self.node.sockets:
            raise RelayForgot("not open", kind=LinkFailure.CLOSED)
        if self.node.link_errors:
            raise self.node.link_errors.pop(0)
        if self.node.link_delay is None:
            await Deferred()
        elif self.node.link_delay:
            await deferLater(self.node.clock, self.node.link_delay)
        self.node.links[sandbox] = (host, port)
        self.node.log.append(f"link {sandbox[:4]}")
        await self._step("link:after")

    async def close(self, sandbox: SandboxId) -> None:
        await self._step("close:before")
        self.node.sockets.pop(sandbox, None)
        self.node.links.pop(sandbox, None)
        self.node.log.append(f"close {sandbox[:4]}")
        await self._step("close:after")

    async def facts(self) -> list[LinkFacts]:
        await self._step("facts:before")
        return [
            LinkFacts(
                sandbox=SandboxId(sandbox),
                up=sandbox in self.node.links,
                active_connections=self.node.active.get(sandbox, 0),
                was_active=sandbox in self.node.active,
                idle=self.node.idle.get(sandbox, 0.0),
            )
            for sandbox in self.node.sockets
        ]


class FakeNetwork:
    """The adaptor's side of the network."""

    def __init__(self, node: FakeNode, crash: Crash) -> None:
        self.node = node
        self.crash = crash

    async def inspect(self, netns: str) -> PodNetwork:
        if self.crash.step("inspect:before"):
            await Deferred()
        if netns not in self.node.namespaces:
            raise Refused(f"there is no network namespace {netns}")
        return NETWORK

    async def choose_vni(self, used: Any) -> int:
        taken = {*used, *(t.vni for t in self.node.tunnels.values())}
        return next(vni for vni in range(555000, 556000) if vni not in taken)

    def exists(self, netns: str) -> bool:
        return netns in self.node.namespaces

    def tunnel(self, sandbox: Sandbox) -> Tunnel | None:
        if sandbox.instance is None or not sandbox.instance.addresses:
            return None
        if "plan" in self.node.hang:
            raise Refused("the VM and this node have no address family in common")
        return Tunnel(
            sandbox=sandbox.id,
            netns=sandbox.netns,
            interface="eth0",
            remote=sandbox.instance.addresses[0],
            local="192.0.2.1",
            vni=sandbox.vni,
        )

    async def set_up(self, tunnel: Tunnel) -> None:
        if self.crash.step("set_up:before"):
            await Deferred()
        if "set_up" in self.node.hang:
            await Deferred()
        if self.node.tunnel_errors:
            raise self.node.tunnel_errors.pop(0)
        self.node.tunnels[tunnel.sandbox] = tunnel
        if self.crash.step("set_up:after"):
            await Deferred()

    async def tear_down(self, tunnel: Tunnel) -> None:
        if self.crash.step("tear_down:before"):
            await Deferred()
        self.node.tunnels.pop(tunnel.sandbox, None)
        if self.crash.step("tear_down:after"):
            await Deferred()


class FakeFolders:
    def __init__(self, node: FakeNode, crash: Crash) -> None:
        self.node = node
        self.crash = crash

    def remove(self, sandbox: SandboxId) -> None:
        if not self.crash.dead:
            self.node.folders.discard(sandbox)


class FakeKeys:
    def issue(self, server_name: str) -> str:
        return f"SECRET-KEYS of {server_name}"

    def relay_keys(self, keys: str) -> RelayKeys:
        return RelayKeys(server_name=keys, server_ca="ca", client_cert="cert", client_key="key")


class FakeUserData:
    def compose(self, sandbox: Sandbox, secrets: Secrets) -> bytes:
        return f"{sandbox.pod} {secrets.keys} {secrets.initdata}".encode()


@attrs.define
class Adaptor:
    """One life of an adaptor process."""

    runner: Runner
    calls: Calls
    watch: Watch
    info: PodVMInfo
    journal: Journal
    crash: Crash
    world: World


@attrs.define
class Scene:
    """Everything, with one adaptor at a time."""

    state_dir: str
    clock: Clock = attrs.field(factory=Clock)
    cloud: FakeCloud = attrs.field(init=False)
    node: FakeNode = attrs.field(init=False)
    keep_failed: float = 0.0
    start_timeout: float = 200.0
    epoch: float = 1_000_000.0
    adaptor: Adaptor = attrs.field(init=False)
    journal_errors: list[Exception] = attrs.field(factory=list)
    make_cluster: Callable[[Crash], ClusterPort] = attrs.field(default=lambda _crash: Alone())

    def __attrs_post_init__(self) -> None:
        self.cloud = FakeCloud(self.clock)
        self.node = FakeNode(self.clock)

    def start(self, crash_at: int | None = None) -> Adaptor:
        """A fresh process on what is there. It replays its journal and compares itself with the relay."""
        crash = Crash()
        crash.at = crash_at

        def defer(function: Callable[[], Any]) -> Deferred[Any]:
            name = "secrets" if "read" in function.__name__ else "journal"
            if crash.step(f"{name}:before"):
                return Deferred()
            if name == "journal" and self.journal_errors:
                failed: Deferred[Any] = Deferred()
                failed.errback(self.journal_errors.pop(0))
                return failed
            result = at_once(function)
            return Deferred() if crash.step(f"{name}:after") else result

        journal = Journal.open(self.state_dir, defer)
        journal._database.execute("PRAGMA synchronous=OFF")
        world = World(
            provider=FakeProvider(self.cloud, crash),
            network=FakeNetwork(self.node, crash),
            relay=FakeRelay(self.node, crash),
            keys=FakeKeys(),
            user_data=FakeUserData(),
            folders=FakeFolders(self.node, crash),
            place=Place(node="node-1", cluster="lab"),
            now=lambda: self.epoch + self.clock.seconds(),
            cluster=self.make_cluster(crash),
        )
        executor = Executor(self.clock, world, journal)
        parts: dict[str, Any] = {}
        runner = Runner(
            self.clock,
            journal,
            executor,
            on_change=lambda _before, after: parts["info"].changed(after) if "info" in parts else None,
        )
        policy = Policy(pods_dir="/run/peerpod/pods", start_timeout=self.start_timeout, keep_failed=self.keep_failed)
        calls = Calls(self.clock, world, runner, policy)
        watch = Watch(self.clock, world, runner, calls, executor)
        parts["info"] = PodVMInfo(self.clock, runner)
        self.adaptor = Adaptor(runner, calls, watch, parts["info"], journal, crash, world)
        spawn(world.cluster.start(watch.host()))
        runner.load(journal.load())
        watch.start()
        self.sync()
        return self.adaptor

    def sync(self) -> None:
        """What a connection to the relay begins with."""
        adaptor = self.adaptor
        if adaptor.crash.dead or self.node.away:
            return
        adaptor.watch.before_sync()
        now: list[Any] = []
        spawn(adaptor.world.relay.facts()).addBoth(now.append)
        if now and isinstance(now[0], list):
            adaptor.watch.on_sync(now[0])

    def kill(self) -> None:
        """kill -9: nothing of the process goes on."""
        self.adaptor.crash.dead = True
        self.adaptor.watch.stop()
        self.adaptor.journal._database.close()

    def create(self, sandbox: str = ID, netns: str = NETNS, **annotations: str) -> Call:
        return Call(self.adaptor.calls.create(sandbox, {**ANNOTATIONS, **annotations}, netns))

    def begin(self, sandbox: str = ID, remaining: float | None = 599.0) -> Call:
        return Call(self.adaptor.calls.start(sandbox, remaining))

    def end(self, sandbox: str = ID) -> Call:
        return Call(self.adaptor.calls.stop(sandbox))

    def running(self, sandbox: str = ID) -> None:
        """Bring a sandbox up."""
        self.create(sandbox).ok()
        self.begin(sandbox).ok()

    def record(self, sandbox: str = ID) -> Sandbox:
        return self.adaptor.runner.sandboxes[SandboxId(sandbox)]

    def phase(self, sandbox: str = ID) -> str:
        return self.record(sandbox).phase.value

    def advance(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass in small steps."""
        for _ in range(max(1, round(seconds / step))):
            self.clock.advance(min(step, seconds))

    def leftovers(self) -> dict[str, Any]:
        """What is outside the adaptor; empty values all when nothing leaked."""
        return {
            "instances": sorted(self.cloud.instances),
            "sockets": sorted(self.node.sockets),
            "links": sorted(self.node.links),
            "tunnels": sorted(self.node.tunnels),
            "folders": sorted(self.node.folders),
        }

    def nothing_left(self) -> None:
        assert not any(self.leftovers().values()), self.leftovers()
        assert self.adaptor.journal._database.execute("SELECT count(*) FROM secrets").fetchone()[0] == 0


class Call:
    """One call of the shim's, under way or done."""

    def __init__(self, coroutine: Any) -> None:
        self.deferred = spawn(coroutine)
        self.outcome: list[Any] = []
        self.deferred.addBoth(self.outcome.append)

    @property
    def done(self) -> bool:
        return bool(self.outcome)

    def ok(self) -> Any:
        """The result, which must be there and no error."""
        assert self.outcome, "the call is not answered"
        if isinstance(self.outcome[0], Failure):
            self.outcome[0].raiseException()
        return self.outcome[0]

    def error(self) -> BaseException:
        """The error, which must be there."""
        assert self.outcome, "the call is not answered"
        assert isinstance(self.outcome[0], Failure), self.outcome[0]
        return self.outcome[0].value

    def drop(self) -> None:
        """The caller's connection is lost: what a ttrpc server does to its handler."""
        self.deferred.cancel()
