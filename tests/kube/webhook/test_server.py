"""The HTTPS port with a real client: reviews over connections that stay, each fault in words, an end in order."""

import json
import socket
import ssl

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from peerpods.kube.webhook import server
from peerpods.kube.webhook.pair import LiveContext, read_pair
from peerpods.kube.webhook.probe import probe
from peerpods.kube.webhook.server import ReviewFactory
from peerpods.kube.webhook.tlsrules import TlsRules
from peerpods.tls.transport import listen_tls
from tests.kube.webhook.pods import POLICY, amounts, container, pod
from tests.kube.webhook.secure import Client, authority, certificate, in_thread, raw_tls
from tests.kube.webhook.test_review import review


def rest(seconds):
    done = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


class Running:
    def __init__(self, rules=None):
        self.ca = authority()
        self.context = LiveContext(rules or TlsRules())
        self.factory = ReviewFactory(reactor, POLICY)
        self.listening = listen_tls(
            reactor, "127.0.0.1", 0, self.context, self.factory, max_connections=100, handshake_timeout=5
        )
        self.port = self.listening.getHost().port
        self.use()

    def use(self):
        leaf = certificate(self.ca)
        self.context.use(read_pair(leaf.cert, leaf.key, self.context.rules))

    def client(self, **fields):
        return Client(self.port, self.ca, **fields)


@pytest_twisted.async_yield_fixture
async def running():
    one = Running()
    yield one
    one.listening.stopListening()
    await one.factory.close(0.2)


@pytest_twisted.ensureDeferred
async def test_reviews_over_one_connection(running):
    client = running.client()
    for number in range(3):
        document = review(pod(container("a", amounts("1"))), uid=f"u{number}")
        status, headers, body = await in_thread(client.review, document)
        assert status == 200
        assert headers["Content-Type"] == "application/json"
        assert body["response"]["uid"] == f"u{number}"
    assert len(running.factory.channels) == 1
    assert client.connection.sock.selected_alpn_protocol() is None
    client.close()


@pytest_twisted.ensureDeferred
async def test_http_1_1_is_agreed_on(running):
    def alpn():
        context = ssl.create_default_context(cadata=running.ca.cert)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection(("127.0.0.1", running.port), 5) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                return secure.selected_alpn_protocol()

    assert await in_thread(alpn) == "http/1.1"


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "code", "words"),
    [
        ("GET", "/mutate-v1-pod", None, "application/json", 405, "POST"),
        ("PUT", "/mutate-v1-pod", b"{}", "application/json", 405, "POST"),
        ("POST", "/", b"{}", "application/json", 404, "/mutate-v1-pod"),
        ("POST", "/mutate-v1-pod/x", b"{}", "application/json", 404, "/mutate-v1-pod"),
        ("POST", "/mutate-v1-pod", b"{}", "text/plain", 415, "application/json"),
        ("POST", "/mutate-v1-pod", b"a=b", "application/x-www-form-urlencoded", 415, "application/json"),
        ("POST", "/mutate-v1-pod", b"x", "multipart/form-data; boundary=", 415, "application/json"),
        ("POST", "/mutate-v1-pod", b"{}", "", 415, "application/json"),
        ("POST", "/mutate-v1-pod", b"", "application/json", 400, "not JSON"),
        ("POST", "/mutate-v1-pod", b"{", "application/json", 400, "not JSON"),
        ("POST", "/mutate-v1-pod", b"{}", "application/json; charset=utf-8", 400, "no AdmissionReview"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_faults_in_words(running, method, path, body, kind, code, words):
    client = running.client()
    status, headers, answer = await in_thread(client.call, method, path, body, {"Content-Type": kind})
    assert status == answer["code"] == code
    assert answer["kind"] == "Status"
    assert words in answer["message"]
    assert ("Allow" in headers) == (code == 405)
    # The connection is still good.
    status, _, _ = await in_thread(client.review, review(pod(container("a"))))
    assert status == 200
    client.close()


@pytest_twisted.ensureDeferred
async def test_our_own_fault_is_told_and_not_hung(running, monkeypatch):
    def broken(body, policy):
        raise ZeroDivisionError

    monkeypatch.setattr(server, "answer", broken)
    client = running.client()
    status, _, answer = await in_thread(client.review, review(pod(container("a"))))
    assert status == 500
    assert "ZeroDivisionError" in answer["message"]
    client.close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest_twisted.ensureDeferred
async def test_too_large(running, chunked):
    client = running.client()

    def send():
        size = server.MAX_BODY + 1
        body = (b"x" * 65536 for _ in range(size // 65536 + 1)) if chunked else b"x" * size
        client.connection.request(
            "POST", "/mutate-v1-pod", body, {"Content-Type": "application/json"}, encode_chunked=chunked
        )
        answer = client.connection.getresponse()
        return answer.status, json.loads(answer.read())

    status, answer = await in_thread(send)
    assert status == answer["code"] == 413
    client.close()


@pytest_twisted.ensureDeferred
async def test_a_large_review_is_taken(running):
    body = pod(container("a", amounts("1")), annotations={f"key-{i}": "x" * 1000 for i in range(3000)})
    client = running.client()
    status, _, answer = await in_thread(client.review, review(body))
    assert (status, answer["response"]["allowed"]) == (200, True)
    client.close()


@pytest_twisted.ensureDeferred
async def test_a_new_pair_is_shown_to_new_connections_and_old_ones_go_on(running):
    first = running.client()
    before = await in_thread(first.shown)
    running.use()
    second = running.client()
    assert await in_thread(second.shown) == running.context.pair.der != before
    for client in (first, second):
        assert (await in_thread(client.review, review(pod(container("a")))))[0] == 200
        client.close()


@pytest_twisted.ensureDeferred
async def test_without_a_pair_the_handshake_fails_and_nothing_hangs():
    one = Running()
    one.context._context = None
    with pytest.raises(ssl.SSLError):
        await in_thread(one.client().shown)
    one.listening.stopListening()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest_twisted.ensureDeferred
async def test_tls_versions(running, version):
    client = running.client(minimum_version=version, maximum_version=version)
    assert (await in_thread(client.review, review(pod(container("a")))))[0] == 200
    client.close()


@pytest_twisted.ensureDeferred
async def test_tls_minimum_and_ciphers_hold():
    strict = Running(TlsRules(ssl.TLSVersion.TLSv1_3))
    with pytest.raises(ssl.SSLError):
        await in_thread(strict.client(maximum_version=ssl.TLSVersion.TLSv1_2).shown)
    strict.listening.stopListening()
    narrow = Running(TlsRules(ciphers="ECDHE-ECDSA-AES256-GCM-SHA384"))
    client = narrow.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    await in_thread(client.shown)
    assert client.connection.sock.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    client.close()
    narrow.listening.stopListening()
    await narrow.factory.close(0.2)


@pytest_twisted.ensureDeferred
async def test_the_self_test_asks_through_the_port(running):
    await probe(reactor, "127.0.0.1", running.port, running.context.pair.der, "kata-remote", 3)
    for der, cls in ((b"another", "kata-remote"), (running.context.pair.der, "other")):
        with pytest.raises(Exception, match=r"certificate|admitted"):
            await probe(reactor, "127.0.0.1", running.port, der, cls, 3)


@pytest_twisted.ensureDeferred
async def test_an_end_in_order(running):
    idle, busy = running.client(), await in_thread(raw_tls, running.port, running.ca)
    await in_thread(idle.review, review(pod(container("a"))))
    body = json.dumps(review(pod(container("a")))).encode()
    head = f"POST /mutate-v1-pod HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    await in_thread(busy.sendall, f"{head}\r\n\r\n".encode() + body[:100])
    while not any(channel.requests for channel in running.factory.channels):
        await rest(0.01)
    running.factory.drain()
    # An idle connection is still answered, for the last time.
    _, headers, _ = await in_thread(idle.review, review(pod(container("a"))))
    assert headers["Connection"] == "close"
    running.listening.stopListening()
    closed = Deferred.fromCoroutine(running.factory.close(5))
    await in_thread(busy.sendall, body[100:])
    answer = await in_thread(_all, busy)
    assert b" 200 OK" in answer
    assert b"onnection: close" in answer
    busy.close()
    idle.close()
    await closed
    assert not running.factory.channels


def _all(sock):
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


@pytest_twisted.ensureDeferred
async def test_one_that_never_ends_its_request_is_dropped_in_time(running):
    stuck = await in_thread(raw_tls, running.port, running.ca)
    await in_thread(stuck.sendall, b"POST /mutate-v1-pod HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    while not any(channel.requests for channel in running.factory.channels):
        await rest(0.01)
    began = reactor.seconds()
    await running.factory.close(0.3)
    assert reactor.seconds() - began < server.IDLE / 2, "not when it has been idle for long"
    stuck.close()


@pytest_twisted.ensureDeferred
async def test_too_many_connections_the_quietest_goes(running, monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    api_server = running.client()
    await in_thread(api_server.review, review(pod(container("a"))))
    strangers = [await in_thread(raw_tls, running.port, running.ca)]
    for _ in range(6):
        await in_thread(api_server.review, review(pod(container("a"))))
        strangers.append(await in_thread(raw_tls, running.port, running.ca))
    first = api_server.connection.sock
    status, _, _ = await in_thread(api_server.review, review(pod(container("a"))))
    assert status == 200
    assert api_server.connection.sock is first
    assert len(running.factory.channels) == 3
    for one in (api_server, *strangers):
        one.close()


@pytest_twisted.ensureDeferred
async def test_too_much_under_way_the_largest_goes(running, monkeypatch):
    monkeypatch.setattr(server, "MAX_PENDING", 3_000_000)
    head = (
        b"POST /mutate-v1-pod HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n"
    )
    stuck = [await in_thread(raw_tls, running.port, running.ca) for _ in range(2)]
    for number, sock in enumerate(stuck):
        await in_thread(sock.sendall, head + b"x" * (1_000_000 + number * 500_000))
    while running.factory._pending < 2_500_000:
        await rest(0.01)
    third = await in_thread(raw_tls, running.port, running.ca)
    await in_thread(third.sendall, head + b"x" * 700_000)
    while sorted(running.factory.channels.values()) != [700_000, 1_000_000]:  # the end of the third one comes later
        await rest(0.01)
    client = running.client()
    assert (await in_thread(client.review, review(pod(container("a")))))[0] == 200
    for one in (*stuck, third, client):
        one.close()
    while running.factory.channels:
        await rest(0.01)
    assert running.factory._pending == 0
