"""A forwarder on loopback with real TLS, a scripted agent on a unix socket, and a client that holds the right key."""

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from peerpods.config.settings import ForwarderSettings
from peerpods.forwarder.service import ForwarderService
from peerpods.pki.contexts import client_context
from peerpods.tls.transport import connect_tls
from peerpods.ttrpc import Client, Response, Server, Status
from peerpods.ttrpc.unix import listen_unix
from tests.forwarder.test_told import KEYS, TOLD


class Agent:
    """Answers OK to everything, except what `answers` says: a Response, a Deferred of one, or what makes one."""

    def __init__(self, path):
        self.path = path
        self.answers = {}
        self.seen = []
        self.port = None
        self.server = None

    async def listen(self):
        self.server = Server(reactor, [], fallback=self._call)
        self.port = await listen_unix(reactor, self.path, self.server)

    async def _call(self, context, request):
        self.seen.append(request)
        answer = self.answers.get(request.method, Response())
        if callable(answer):
            answer = answer()
        return await answer if isinstance(answer, Deferred) else answer

    async def stop(self):
        if self.port is not None:
            await self.port.stopListening()
            for connection in list(self.server.connections):
                connection.abort()
            self.port = None

    def methods(self):
        return [request.method for request in self.seen]


class World:
    """All three."""

    def __init__(self, tmp_path):
        self.folder = tmp_path
        self.agent = Agent(str(tmp_path / "agent.sock"))
        self.built = []
        self.clients = []
        self.service = None

    def told(self, apf=TOLD):
        (self.folder / "apf.json").write_text(apf.to_json())

    def make(self, **changes):
        settings = ForwarderSettings(
            config=str(self.folder / "apf.json"),
            listen=changes.pop("listen", "127.0.0.1:0"),
            kata_agent_socket=self.agent.path,
            pod_namespace="/run/netns/podns",
        )
        return ForwarderService(
            settings,
            reactor,
            build_network=changes.pop("build_network", lambda apf, path: self.built.append((apf, path))),
            root=str(self.folder),
            os_release=str(self.folder / "os-release"),
        )

    def start(self, **changes):
        self.told()
        self.service = self.make(**changes)
        self.service.startService()

    @property
    def port(self):
        return self.service.port.getHost().port

    async def connect(self, keys=KEYS, factory=None):
        context = client_context(KEYS.server_cert, keys.client_cert, keys.client_key)
        client = await connect_tls(
            reactor, "127.0.0.1", self.port, context, KEYS.server_name, factory or (lambda: Client(reactor)), 10.0
        )
        self.clients.append(client)
        return client

    async def close(self):
        for client in self.clients:
            if client.transport is not None:
                client.transport.abortConnection()
        if self.service is not None:
            await self.service.stopService()
        await self.agent.stop()
        # The transports tell of their end in turns of their own.
        for _ in range(3):
            await deferLater(reactor, 0, lambda: None)


async def until(condition, seconds=10.0):
    """Let the reactor turn until something holds; fail when it does not in time."""
    end = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < end, "it did not happen in time"
        await deferLater(reactor, 0.002, lambda: None)


def status(code, text=""):
    return Response(Status(code, text))
