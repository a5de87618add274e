"""The TLS core: however the bytes are divided, whatever comes after the handshake."""

import ssl
from datetime import UTC, datetime

import pytest

from peerpods.pki.contexts import client_context, server_context
from peerpods.pki.issue import issue
from peerpods.tls.core import TlsCore
from peerpods.tls.stream import tls_error

NAME = "podvm-web-0123abcd"
KEYS = issue(NAME, datetime.now(UTC))


def cores(tickets=0):
    server = server_context(KEYS.server_cert, KEYS.server_key, KEYS.client_cert)
    server.num_tickets = tickets
    if tickets:
        server.options &= ~ssl.OP_NO_TICKET
    client = client_context(KEYS.server_ca, KEYS.client_cert, KEYS.client_key)
    return TlsCore(client, server_side=False, server_name=NAME), TlsCore(server, server_side=True)


def shake(client, server, size=None):
    """Run the handshake with the bytes cut into pieces of `size`."""
    for _ in range(6):
        for one, other in ((client, server), (server, client)):
            one.handshake()
            data = one.outgoing()
            step = size or len(data) or 1
            for start in range(0, len(data), step):
                other.feed(data[start : start + step])
                other.handshake()
    assert client.established and server.established


def read(core, room=100_000):
    buffer = memoryview(bytearray(room))
    count, ended = core.read_into(buffer)
    return bytes(buffer[:count]), ended


@pytest.mark.parametrize("size", [1, 7, 100, None])
def test_handshake_and_data_in_pieces(size):
    client, server = cores()
    shake(client, server, size)
    blob = bytes(range(256)) * 300
    cipher = client.encrypt(blob)
    step = size or len(cipher)
    got = b""
    for start in range(0, len(cipher), step):
        server.feed(cipher[start : start + step])
        piece, ended = read(server)
        assert not ended
        got += piece
    assert got == blob


def test_small_room_leaves_the_rest_for_later():
    client, server = cores()
    shake(client, server)
    server.feed(client.encrypt(b"abcdef"))
    assert read(server, 4) == (b"abcd", False)
    assert read(server, 4) == (b"ef", False)
    assert read(server, 4) == (b"", False)


def test_tickets_are_swallowed():
    client, server = cores(tickets=2)
    shake(client, server)
    client.feed(server.encrypt(b"x"))
    assert read(client) == (b"x", False)


def test_close_is_said_once_and_reading_goes_on():
    client, server = cores()
    shake(client, server)
    last = client.encrypt(b"last")
    client.close()
    notice = client.outgoing()
    assert notice
    client.close()
    assert client.outgoing() == b""
    server.feed(last + notice)
    assert read(server) == (b"last", True)
    client.feed(server.encrypt(b"still here"))
    assert read(client) == (b"still here", False)


def test_data_before_the_notice_is_not_lost_when_both_close():
    client, server = cores()
    shake(client, server)
    server.close()
    client.feed(server.outgoing())
    assert read(client) == (b"", True)


def test_a_changed_byte_is_an_error():
    client, server = cores()
    shake(client, server)
    cipher = bytearray(client.encrypt(b"hello"))
    cipher[-1] ^= 1
    server.feed(bytes(cipher))
    with pytest.raises(ssl.SSLError) as caught:
        read(server)
    assert "TLS failed" in str(tls_error(caught.value, established=True))
    assert server.outgoing()


def test_plain_text_at_the_handshake_is_an_error():
    _, server = cores()
    server.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        server.handshake()
