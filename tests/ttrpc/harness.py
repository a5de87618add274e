"""A server and a client without sockets: StringTransport, Clock, and what they wrote as frames."""

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from peerpods.protocols.hypervisor_pb2 import VersionRequest, VersionResponse
from peerpods.ttrpc import (
    Client,
    FrameDecoder,
    FrameType,
    Method,
    Request,
    Server,
    Service,
    decode_response,
    encode_frame,
)

REQUEST, RESPONSE, DATA = FrameType.REQUEST, FrameType.RESPONSE, FrameType.DATA
END = 5


class Transport(StringTransport):
    """A StringTransport that also remembers whether reading is paused, and each write."""

    def __init__(self):
        super().__init__()
        self.writes = []
        self.aborted = False

    def write(self, data):
        self.writes.append(data)
        super().write(data)

    def abortConnection(self):
        self.aborted = True
        self.loseConnection()


def message(text):
    return VersionRequest(version=text).SerializeToString()


def text_of(payload):
    return VersionResponse.FromString(payload).version


def request(stream, method, payload=b"", *, flags=0, service="a.B", timeout_nano=0, metadata=()):
    return encode_frame(stream, REQUEST, flags, Request(service, method, payload, timeout_nano, metadata).encode())


def method(handler, kind="unary"):
    return Method(handler, VersionRequest, VersionResponse, kind)


class ServerSide:
    """One or more connections to a server with the given handlers: name → Method or unary handler."""

    def __init__(self, methods, **options):
        self.clock = Clock()
        table = {name: m if isinstance(m, Method) else method(m) for name, m in methods.items()}
        self.server = Server(self.clock, [Service("a.B", table)], **options)
        self.connection, self.transport, self._decoder = self.connect()

    def connect(self):
        connection, transport = self.server.buildProtocol(None), Transport()
        connection.makeConnection(transport)
        return connection, transport, FrameDecoder()

    def feed(self, *parts):
        self.connection.dataReceived(b"".join(parts))
        return self.frames()

    def frames(self):
        """What was written since the last look: (stream, code, text or payload) or (stream, "data", flags, body)."""
        raw = self.transport.value()
        self.transport.clear()
        found = []
        for frame in self._decoder.feed(raw):
            if frame.type == DATA:
                found.append((frame.stream, "data", frame.flags, frame.body))
            else:
                answer = decode_response(frame.body)
                assert frame.type == RESPONSE
                assert frame.flags == 0
                if answer.status is None:
                    found.append((frame.stream, 0, answer.payload))
                else:
                    found.append((frame.stream, answer.status.code, answer.status.message))
        return found

    def lose(self):
        self.connection.connectionLost(Failure(ConnectionDone()))


class ClientSide:
    """A client on a StringTransport."""

    def __init__(self, **options):
        self.clock = Clock()
        self.client = Client(self.clock, **options)
        self.transport = Transport()
        self._decoder = FrameDecoder()
        self.client.makeConnection(self.transport)

    def frames(self):
        raw = self.transport.value()
        self.transport.clear()
        return self._decoder.feed(raw)

    def answer(self, stream, response, flags=0):
        self.client.dataReceived(encode_frame(stream, RESPONSE, flags, response.encode()))

    def data(self, stream, flags, body=b""):
        self.client.dataReceived(encode_frame(stream, DATA, flags, body))

    def lose(self):
        self.client.connectionLost(Failure(ConnectionDone()))
