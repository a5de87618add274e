"""TLS to the API server over loopback: by address, by name, and what is refused; client certificates."""

from __future__ import annotations

import ssl

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.web.server import Site

from peerpods.kube.client import ApiError, Kube
from peerpods.kube.client.access import _access, _Tls
from peerpods.kube.client.session import Session
from peerpods.tls import listen_tls
from tests.kube.client.scripted import Scripted, Source
from tests.kube.cluster_pki import Authority

ensure = pytest_twisted.ensureDeferred


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "pki"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def server(authority):
    crt, key = authority.issue("server", "server", names=("localhost",), addresses=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    site = Site(Scripted(lambda request: {"ok": 1}))
    port = listen_tls(reactor, "127.0.0.1", 0, context, site, max_connections=10, handshake_timeout=5)
    port.context = context
    yield port
    port.stopListening()


@ensure
async def test_a_server_on_ipv6_is_known_by_its_address(authority):
    crt, key = authority.issue("six", "server", addresses=("::1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    scripted = Scripted(lambda request: {"ok": 1})
    port = listen_tls(reactor, "::1", 0, context, Site(scripted), max_connections=10, handshake_timeout=5)
    try:
        assert await ask(client(port, "[::1]", ca=str(authority.file))) == {"ok": 1}
        assert scripted.requests[0].getHeader("host") == f"[::1]:{port.getHost().port}"
    finally:
        port.stopListening()


def client(server, host, name="", **tls):
    access = _access("test", f"https://{host}:{server.getHost().port}", "", _Tls(**tls), name, None)
    return Kube(reactor, Session(reactor, Source(access), access, "t"), "t")


async def ask(kube):
    try:
        return await kube.request("GET", "/x", timeout=5)
    finally:
        await kube.close()


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", ""), ("localhost", ""), ("127.0.0.1", "localhost")])
@ensure
async def test_the_server_is_known_by_address_and_by_name(server, authority, host, name):
    assert await ask(client(server, host, name, ca=str(authority.file))) == {"ok": 1}


@ensure
async def test_another_name_or_another_ca_is_refused(server, authority, tmp_path):
    other = Authority(tmp_path, "another")
    for name, ca in (("elsewhere", authority.file), ("", other.file)):
        with pytest.raises(ApiError) as caught:
            await ask(client(server, "127.0.0.1", name, ca=str(ca)))
        assert caught.value.reason == "TLS" and not caught.value.sent


@ensure
async def test_without_verification_anybody_is_taken(server):
    assert await ask(client(server, "127.0.0.1", verify=False)) == {"ok": 1}


@ensure
async def test_a_server_that_wants_a_certificate_gets_ours_and_says_so_without(server, authority):
    server.context.verify_mode = ssl.CERT_REQUIRED
    crt, key = authority.issue("client", "client")
    ca = str(authority.file)
    assert await ask(client(server, "127.0.0.1", ca=ca, cert=str(crt), key=str(key))) == {"ok": 1}
    with pytest.raises(ApiError) as caught:
        await ask(client(server, "127.0.0.1", ca=ca))
    assert caught.value.reason == "TLS" and "certificate required" in str(caught.value)


@ensure
async def test_a_host_that_does_not_exist_is_said_to_be_one(server, authority):
    with pytest.raises(ApiError) as caught:
        await ask(client(server, "no-such-host.invalid", ca=str(authority.file)))
    assert caught.value.reason == "UnknownHost" and "no-such-host.invalid" in str(caught.value)
