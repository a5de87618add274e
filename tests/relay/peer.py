"""A scripted VM: a TLS listener with a ttrpc server behind it, and helpers around a relay."""

from datetime import UTC, datetime

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from peerpods.pki.contexts import server_context
from peerpods.pki.issue import issue
from peerpods.protocols import health_pb2, relay_pb2
from peerpods.relay.control import Control
from peerpods.tls import listen_tls
from peerpods.ttrpc import FrameDecoder, Method, Request, Response, Server, Service, connect_client, encode_frame

NAME = "podvm-web-0123abcd"
KEYS = issue(NAME, datetime.now(UTC))
OTHER = issue(NAME, datetime.now(UTC))
ID = "0123abcd" + "0" * 56


class Vm:
    """Answers Health/Check; other calls go to `answer(context, request)`, or wait in `held` without one."""

    def __init__(self, keys=KEYS, port=0, client_cert=None):
        self.checks = 0
        self.sick = 0
        self.held = []
        self.seen = []
        self.answer = None
        self.server = Server(
            reactor,
            [
                Service(
                    "grpc.Health",
                    {"Check": Method(self._check, health_pb2.CheckRequest, health_pb2.HealthCheckResponse)},
                )
            ],
            fallback=self._any,
        )
        context = server_context(keys.server_cert, keys.server_key, client_cert or keys.client_cert)
        self.port = listen_tls(
            reactor, "127.0.0.1", port, context, self.server, max_connections=4, handshake_timeout=5.0
        )
        self.number = self.port.getHost().port

    async def _check(self, ctx, request):
        self.checks += 1
        if self.checks <= self.sick:
            raise ConnectionError("the agent is not there yet")
        return health_pb2.HealthCheckResponse(status=1)

    async def _any(self, ctx, request):
        self.seen.append((ctx.connection.id, ctx.stream, request))
        if self.answer is not None:
            return await self.answer(ctx, request)
        done = Deferred()
        self.held.append((request, done))
        return await done

    async def echo(self, ctx, request):
        return Response(None, request.payload)

    def release(self):
        held, self.held = self.held, []
        for request, done in held:
            done.callback(Response(None, request.payload))

    async def drop(self):
        """Lose every link."""
        for connection in list(self.server.connections):
            connection.abort()

    async def stop(self):
        await self.port.stopListening()
        await self.drop()


class Raw(Protocol):
    """A shim that speaks frames."""

    def __init__(self):
        self.decoder = FrameDecoder()
        self.frames = []
        self.lost = Deferred()
        self.gone = False
        self.wanted = None

    def dataReceived(self, data):
        self.frames += self.decoder.feed(data)
        wanted, self.wanted = self.wanted, None
        if wanted is not None:
            wanted.callback(None)

    def connectionLost(self, reason):
        self.gone = True
        self.lost.callback(None)

    def send(self, stream, type, flags, body):
        self.transport.write(encode_frame(stream, type, flags, body))

    def call(self, stream, payload=b"", method="Echo", timeout=0):
        self.send(stream, 1, 0, Request("grpc.AgentService", method, payload, timeout_nano=timeout).encode())

    async def frame(self):
        while not self.frames:
            self.wanted = Deferred()
            await self.wanted.addTimeout(10, reactor)
        return self.frames.pop(0)


@attrs.define
class Rig:
    """A control with what it publishes, and everything to end."""

    control: Control
    pods_dir: str
    events: list = attrs.field(factory=list)
    ends: list = attrs.field(factory=list)

    async def open(self, sandbox=ID, keys=KEYS):
        return await self.control.open(
            None,
            relay_pb2.OpenRequest(
                sandbox=sandbox,
                server_name=keys.server_name,
                server_ca=keys.server_ca,
                client_cert=keys.client_cert,
                client_key=keys.client_key,
            ),
        )

    async def link(self, vm, sandbox=ID, seconds=5.0):
        port = vm if isinstance(vm, int) else vm.number
        return await self.control.link(
            Ctx(), relay_pb2.LinkRequest(sandbox=sandbox, host="127.0.0.1", port=port, deadline=int(seconds * 1e9))
        )

    async def close(self, sandbox=ID):
        return await self.control.close(None, relay_pb2.CloseRequest(sandbox=sandbox))

    async def list(self):
        return (await self.control.list(None, relay_pb2.ListRequest())).sandboxes

    def vm(self, *args, **named):
        vm = Vm(*args, **named)
        self.ends.append(vm.stop)
        return vm

    async def up(self, sandbox=ID):
        """A pod whose link is up, with its VM."""
        vm = self.vm()
        await self.open(sandbox)
        assert (await self.link(vm, sandbox)).up
        return vm

    async def shim(self, sandbox=ID):
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, self.path(sandbox)), timeout=5)
        self.ends.append(client.close)
        return client

    async def raw(self, sandbox=ID):
        from twisted.internet.endpoints import connectProtocol

        raw = await connectProtocol(UNIXClientEndpoint(reactor, self.path(sandbox)), Raw())

        async def end():
            if not raw.gone:
                raw.transport.abortConnection()
                await raw.lost

        self.ends.append(end)
        return raw

    def path(self, sandbox=ID):
        return f"{self.pods_dir}/{sandbox}/agent.ttrpc"

    def kinds(self):
        return [relay_pb2.WatchEvent.Kind.Name(event.kind) for event in self.events]

    async def until(self, condition, seconds=5.0):
        """Wait for a condition, turn by turn."""
        end = reactor.seconds() + seconds
        while not condition():
            assert reactor.seconds() < end, f"did not happen: {condition}"
            await deferLater(reactor, 0.002)

    async def event(self, kind):
        await self.until(lambda: kind in self.kinds())
        return next(event for event in self.events if relay_pb2.WatchEvent.Kind.Name(event.kind) == kind)


@attrs.define
class Ctx:
    """As much of a CallContext as Link looks at."""

    left: float | None = None

    def remaining(self):
        return self.left
