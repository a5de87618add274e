"""Real loopback connections of the TLS transport: with itself, with stdlib peers, and with bad ones."""

import socket
import ssl
import threading
from datetime import UTC, datetime

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from zope.interface import implementer

from peerpods.errors import LinkError, LinkFailure
from peerpods.pki.contexts import check_server_name, client_context, server_context
from peerpods.pki.issue import issue
from peerpods.tls import connect_tls, listen_tls

NAME = "podvm-web-0123abcd"
KEYS = issue(NAME, datetime.now(UTC))
OTHER = issue(NAME, datetime.now(UTC))
SERVER = server_context(KEYS.server_cert, KEYS.server_key, KEYS.client_cert)
CLIENT = client_context(KEYS.server_ca, KEYS.client_cert, KEYS.client_key)


class Sink(Protocol):
    """Keeps what it gets; tells when enough came and when it ended."""

    def __init__(self):
        self.data = bytearray()
        self.lost = Deferred()
        self.waiting = []
        self.wakeups = 0

    def dataReceived(self, data):
        assert type(data) is bytes
        self.wakeups += 1
        self.data += data
        for want, done in list(self.waiting):
            if len(self.data) >= want:
                self.waiting.remove((want, done))
                done.callback(None)

    def have(self, want):
        done = Deferred()
        if len(self.data) >= want:
            done.callback(None)
        else:
            self.waiting.append((want, done))
        return done.addTimeout(10, reactor)

    def connectionLost(self, reason):
        self.lost.callback(reason.value)


class Echo(Sink):
    def dataReceived(self, data):
        super().dataReceived(data)
        self.transport.write(data)


class Server:
    """A listener that keeps its protocols."""

    def __init__(self, make=Echo, context=SERVER, max_connections=10, timeout=5.0):
        self.made = []
        self.make = make
        self.next = Deferred()
        self.port = listen_tls(
            reactor, "127.0.0.1", 0, context, self.build, max_connections=max_connections, handshake_timeout=timeout
        )
        self.number = self.port.getHost().port

    def build(self):
        protocol = self.make()
        self.made.append(protocol)
        waiting, self.next = self.next, Deferred()
        waiting.callback(protocol)
        return protocol

    async def stop(self):
        await self.port.stopListening()
        for protocol in self.made:
            if protocol.transport.connected:
                protocol.transport.abortConnection()
                await protocol.lost


@pytest.fixture
def serving():
    servers = []

    def make(*args, **named):
        servers.append(Server(*args, **named))
        return servers[-1]

    yield make
    for server in servers:
        pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))


def connect(server, make=Sink, context=CLIENT, verify=lambda der: check_server_name(der, NAME), timeout=5.0):
    return connect_tls(reactor, "127.0.0.1", server.number, context, NAME, make, timeout, verify)


async def end(protocol):
    protocol.transport.abortConnection()
    await protocol.lost


@pytest_twisted.ensureDeferred
async def test_echo_both_ways(serving):
    server = serving()
    client = await connect(server)
    client.transport.write(b"hello ")
    client.transport.writeSequence([b"wor", b"ld"])
    await client.have(11)
    assert bytes(client.data) == b"hello world"
    assert client.transport.getPeer().port == server.number
    assert server.made[0].transport.getPeer().port == client.transport.getHost().port
    await end(client)


@pytest_twisted.ensureDeferred
async def test_megabytes_pass_in_large_reads(serving):
    server = serving()
    client = await connect(server)
    blob = bytes(range(256)) * 4096 * 8
    client.transport.write(blob)
    await client.have(len(blob))
    assert bytes(client.data) == blob
    assert client.wakeups < len(blob) // 16384
    await end(client)


@pytest_twisted.ensureDeferred
async def test_orderly_end_delivers_everything_first(serving):
    server = serving(Sink)
    client = await connect(server)
    blob = b"x" * 3_000_000
    client.transport.write(blob)
    client.transport.loseConnection()
    client.transport.write(b"too late")
    assert isinstance(await client.lost, ConnectionDone)
    reason = await server.made[0].lost
    assert isinstance(reason, ConnectionDone)
    assert len(server.made[0].data) == len(blob)


@implementer(IHalfCloseableProtocol)
class Half(Sink):
    """Answers only when the peer has finished."""

    def readConnectionLost(self):
        self.transport.write(b"%d" % len(self.data))
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


@implementer(IHalfCloseableProtocol)
class HalfClient(Sink):
    def readConnectionLost(self):
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


@pytest_twisted.ensureDeferred
async def test_half_close(serving):
    server = serving(Half)
    client = await connect(server, HalfClient)
    client.transport.write(b"y" * 100_000)
    client.transport.loseWriteConnection()
    await client.lost
    assert bytes(client.data) == b"100000"


@pytest_twisted.ensureDeferred
async def test_foreign_server_is_the_wrong_peer(serving):
    server = serving(context=server_context(OTHER.server_cert, OTHER.server_key, KEYS.client_cert))
    with pytest.raises(LinkError) as caught:
        await connect(server)
    assert caught.value.kind is LinkFailure.WRONG_PEER
    assert server.made == []


@pytest_twisted.ensureDeferred
async def test_other_name_is_the_wrong_peer_and_no_byte_is_sent(serving):
    server = serving()
    made = []
    with pytest.raises(LinkError) as caught:
        await connect(server, lambda: made.append(1), verify=lambda der: check_server_name(der, "podvm-other"))
    assert caught.value.kind is LinkFailure.WRONG_PEER
    assert made == []
    if server.made:
        await server.made[0].lost
        assert not server.made[0].data


@pytest_twisted.ensureDeferred
async def test_refused_client_certificate_shows_after_the_handshake(serving):
    server = serving()
    client = await connect(server, context=client_context(KEYS.server_ca, OTHER.client_cert, OTHER.client_key))
    client.transport.write(b"asked")
    reason = await client.lost
    assert reason.kind is LinkFailure.TLS
    assert "refused us after the handshake" in str(reason)
    assert server.made == []


@pytest_twisted.ensureDeferred
async def test_nobody_listens():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
    with pytest.raises(LinkError) as caught:
        await connect_tls(reactor, "127.0.0.1", number, CLIENT, NAME, Sink, 2.0, None)
    assert caught.value.kind is LinkFailure.REFUSED
    with pytest.raises(LinkError, match="not an IP address"):
        await connect_tls(reactor, "no.such.name", number, CLIENT, NAME, Sink, 2.0, None)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_is_silent_is_a_timeout():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        with pytest.raises(LinkError) as caught:
            await connect_tls(reactor, *sock.getsockname(), CLIENT, NAME, Sink, 0.2, None)
    assert caught.value.kind is LinkFailure.TIMEOUT


@pytest_twisted.ensureDeferred
async def test_lost_packets_are_a_timeout_that_names_the_firewall():
    """A full backlog drops every SYN, as a closed security group does."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        filling = [socket.socket() for _ in range(4)]
        for one in filling:
            one.setblocking(False)
            one.connect_ex(sock.getsockname())
        started = reactor.seconds()
        with pytest.raises(LinkError, match="security group") as caught:
            await connect_tls(reactor, *sock.getsockname(), CLIENT, NAME, Sink, 5.0, None, connect_timeout=0.2)
        for one in filling:
            one.close()
    assert caught.value.kind is LinkFailure.TIMEOUT
    assert reactor.seconds() - started < 2


@pytest.mark.parametrize(("said", "kind"), [(b"", LinkFailure.REFUSED), (b"SSH-2.0-x\r\n", LinkFailure.TLS)])
@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_speak_tls(said, kind):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        attempt = connect_tls(reactor, *sock.getsockname(), CLIENT, NAME, Sink, 5.0, None)
        peer, _ = sock.accept()
        peer.sendall(said)
        await deferLater(reactor, 0.01)
        peer.close()
        with pytest.raises(LinkError) as caught:
            await attempt
    assert caught.value.kind is kind


@pytest_twisted.ensureDeferred
async def test_cancelled_attempt_leaves_nothing(serving):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        attempt = connect_tls(reactor, *sock.getsockname(), CLIENT, NAME, Sink, 5.0, None)
        attempt.cancel()
        attempt.addErrback(lambda failure: None)
        await deferLater(reactor, 0.01)
        peer, _ = sock.accept()
        peer.settimeout(5)
        data = b"-"
        while data:
            try:
                data = peer.recv(100)
            except ConnectionResetError:
                data = b""
        peer.close()


@pytest_twisted.ensureDeferred
async def test_silent_stranger_is_dropped_and_does_not_block_the_client(serving):
    server = serving(timeout=0.2)
    with socket.create_connection(("127.0.0.1", server.number)) as stranger:
        client = await connect(server)
        client.transport.write(b"z")
        await client.have(1)
        await deferLater(reactor, 0.3)
        stranger.settimeout(5)
        assert stranger.recv(10) == b""
        await end(client)


@pytest_twisted.ensureDeferred
async def test_many_strangers_give_way(serving):
    server = serving()
    strangers = [socket.create_connection(("127.0.0.1", server.number)) for _ in range(80)]
    client = await connect(server)
    client.transport.write(b"z")
    await client.have(1)
    await end(client)
    for stranger in strangers:
        stranger.close()


@pytest_twisted.ensureDeferred
async def test_only_so_many_connections(serving):
    server = serving(max_connections=1)
    first = await connect(server)
    second = await connect(server)
    await second.lost
    first.transport.write(b"z")
    await first.have(1)
    await end(first)
    await server.made[0].lost
    third = await connect(server)
    third.transport.write(b"z")
    await third.have(1)
    await end(third)


@attrs.define
class Producer:
    said: list = attrs.field(factory=list)

    def pauseProducing(self):
        self.said.append("pause")

    def resumeProducing(self):
        self.said.append("resume")

    def stopProducing(self):
        self.said.append("stop")


@pytest_twisted.ensureDeferred
async def test_slow_reader_pauses_the_producer(serving):
    server = serving(Sink)
    client = await connect(server)
    client.transport.write(b"a")
    if not server.made:
        await server.next
    peer = server.made[0]
    await peer.have(1)
    peer.transport.pauseProducing()
    producer = Producer()
    client.transport.registerProducer(producer, True)
    total = 1
    while not producer.said:
        client.transport.write(b"b" * 100_000)
        total += 100_000
        assert total < 100_000_000
    assert producer.said == ["pause"]
    held = len(peer.data)
    await deferLater(reactor, 0.05)
    assert len(peer.data) - held <= 300_000
    peer.transport.resumeProducing()
    await peer.have(total)
    assert producer.said == ["pause", "resume"]
    await end(client)
    assert producer.said[-1] == "stop"


@pytest_twisted.ensureDeferred
async def test_stdlib_peer_with_tickets_and_a_cut_without_notice(serving):
    context = server_context(KEYS.server_cert, KEYS.server_key, KEYS.client_cert)
    context.options &= ~ssl.OP_NO_TICKET
    context.num_tickets = 2
    got = []
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)

        def serve():
            raw, _ = sock.accept()
            peer = context.wrap_socket(raw, server_side=True)
            got.append(peer.recv(100))
            peer.sendall(b"pong")
            got.append(peer.recv(100))
            raw = peer.detach()
            socket.socket(fileno=raw).close()

        thread = threading.Thread(target=serve)
        thread.start()
        client = await connect_tls(reactor, *sock.getsockname(), CLIENT, NAME, Sink, 5.0, None)
        client.transport.write(b"ping")
        await client.have(4)
        client.transport.write(b"again")
        reason = await client.lost
        thread.join()
    assert got == [b"ping", b"again"]
    assert not isinstance(reason, ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_stdlib_client(serving):
    server = serving()
    raw = socket.create_connection(("127.0.0.1", server.number))
    answers = []

    def talk():
        with CLIENT.wrap_socket(raw, server_hostname=NAME) as peer:
            peer.sendall(b"q" * 70_000)
            got = b""
            while len(got) < 70_000:
                got += peer.recv(65536)
            answers.append(got)
            peer.unwrap()

    done = Deferred()
    thread = threading.Thread(target=lambda: (talk(), reactor.callFromThread(done.callback, None)))
    thread.start()
    await done.addTimeout(10, reactor)
    thread.join()
    assert answers == [b"q" * 70_000]
    assert isinstance(await server.made[0].lost, ConnectionDone)
