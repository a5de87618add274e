"""Our server against each peer's client, and our client against each peer's server, over unix sockets."""

import json
import os
import subprocess

import pytest
import pytest_twisted
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.threads import deferToThread

from peerpods.ttrpc import MAX_LENGTH, Request, Server, StatusError, connect_client
from peerpods.ttrpc.unix import listen_unix
from tests.interop.peers import serving
from tests.interop.service import NAME, SERVICE

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1200)]


@pytest_twisted.ensureDeferred
async def test_their_client_our_server(peer, tmp_path):
    name, program, count = peer
    path = str(tmp_path / "s")
    server = Server(reactor, [SERVICE])
    port = await listen_unix(reactor, path, server)
    try:
        done = await deferToThread(
            subprocess.run, [program, "client", path], capture_output=True, text=True, timeout=60
        )
    finally:
        await port.stopListening()
        await server.close(1)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {r["case"]: r["error"] for r in results if r["error"]} == {}
    assert len(results) >= {"go-1.2.7": 20, "go-1.1.1": 9, "rust": 11}[name]
    count(len(results))


RUST_UNKNOWN = (3, 12)  # versions of the crate differ in what they answer to a service or method they do not have


async def text(client, method, value, **options):
    return (await client.call(NAME, method, StringValue(value=value), StringValue, **options)).value


async def fails(awaitable):
    with pytest.raises(StatusError) as caught:
        await awaitable
    return caught.value.status.code, caught.value.status.message


async def rest(stream):
    values = []
    while (got := await stream.receive()) is not None:
        values.append(got.value)
    return values


async def echoes(client, name):
    assert await text(client, "Echo", "grüße") == "grüße"


async def empty(client, name):
    assert await text(client, "Echo", "") == ""


async def two_mib(client, name):
    assert await text(client, "Echo", "x" * (2 << 20)) == "x" * (2 << 20)


async def status(client, name):
    assert await fails(text(client, "Fail", "5:not here")) == (5, "not here")


async def unknown_method(client, name):
    code, words = await fails(text(client, "Nope", ""))
    if name == "rust":
        assert code in RUST_UNKNOWN, words
    else:
        assert (code, words) == (12, "method Nope")


async def unknown_service(client, name):
    code, words = await fails(client.call_raw("no.Such", "Echo", b""))
    assert code in (RUST_UNKNOWN if name == "rust" else (12,)), words


async def junk_payload(client, name):
    code, _ = await fails(client.call_raw(NAME, "Echo", b"\x0a\x05x"))
    assert code == 13


async def metadata(client, name):
    assert await text(client, "Meta", "x-a", metadata=(("X-A", "1"), ("x-a", "2"))) == "1,2"


async def deadline_is_told(client, name):
    assert await text(client, "Left", "", timeout=90) == "90"
    assert await text(client, "Left", "") == "none"


async def unknown_fields_do_no_harm(client, name):
    request = Request(NAME, "Echo", StringValue(value="q").SerializeToString(), 0, (), b"\x32\x03abc")
    answer = await client.forward(request, timeout=10)
    assert StringValue.FromString(answer.payload).value == "q"
    assert answer.ok


async def many(client, name):
    calls = [client.call(NAME, "Echo", StringValue(value=str(i)), StringValue) for i in range(300)]
    results = await DeferredList(calls, fireOnOneErrback=True)
    assert [got.value for _, got in results] == [str(i) for i in range(300)]


UNARY = [
    echoes,
    empty,
    two_mib,
    status,
    unknown_method,
    unknown_service,
    junk_payload,
    metadata,
    deadline_is_told,
    unknown_fields_do_no_harm,
    many,
]


async def deadline_passes(client, name):
    assert (await fails(text(client, "Hang", "", timeout=0.05)))[0] == 4
    assert await text(client, "Echo", "alive") == "alive"


async def large_request_stays_here(client, name):
    assert (await fails(client.call_raw(NAME, "Echo", bytes(MAX_LENGTH))))[0] == 8
    assert await text(client, "Echo", "alive") == "alive"


async def just_under_the_limit(client, name):
    got = await client.call(NAME, "Size", StringValue(value=str(MAX_LENGTH - 64)), BytesValue)
    assert len(got.value) == MAX_LENGTH - 64


async def server_stream(client, name):
    for number in (0, 1, 300):
        stream = client.stream(NAME, "Count", Int64Value(value=number), Int64Value, kind="server_stream")
        assert await rest(stream) == list(range(number))


async def server_stream_error(client, name):
    stream = client.stream(NAME, "Count", Int64Value(value=-2), Int64Value, kind="server_stream")
    assert [(await stream.receive()).value for _ in range(2)] == [0, 1]
    assert await fails(stream.receive()) == (9, "counted enough")


async def client_stream(client, name):
    stream = client.stream(NAME, "Sum", None, Int64Value, kind="client_stream")
    for number in (1, 0, 41):
        await stream.send(Int64Value(value=number))
    await stream.close_send()
    assert await rest(stream) == [42]


async def client_stream_error(client, name):
    stream = client.stream(NAME, "Sum", None, Int64Value, kind="client_stream")
    await stream.send(Int64Value(value=-1))
    assert await fails(stream.receive()) == (11, "below zero")


async def bidi(client, name):
    stream = client.stream(NAME, "Chat", None, StringValue, kind="bidi")
    for word in ("a", "", "c"):
        await stream.send(StringValue(value=word))
        assert (await stream.receive()).value == word
    await stream.close_send()
    assert await rest(stream) == ["closed"]


async def bidi_server_ends(client, name):
    stream = client.stream(NAME, "Chat", StringValue(value="first"), StringValue, kind="bidi")
    assert (await stream.receive()).value == "first"
    await stream.send(StringValue(value="bye"))
    assert await stream.receive() is None


async def bidi_error(client, name):
    stream = client.stream(NAME, "Chat", None, StringValue, kind="bidi")
    await stream.send(StringValue(value="fail"))
    assert await fails(stream.receive()) == (10, "asked to fail")


STREAMING = [
    deadline_passes,
    large_request_stays_here,
    just_under_the_limit,
    server_stream,
    server_stream_error,
    client_stream,
    client_stream_error,
    bidi,
    bidi_server_ends,
    bidi_error,
]


@pytest_twisted.ensureDeferred
async def test_our_client_their_server(peer, tmp_path):
    name, program, count = peer
    path = os.fspath(tmp_path / "s")
    cases = UNARY + STREAMING if name == "go-1.2.7" else UNARY
    with serving(program, path) as process:
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, path))
        for case in cases:
            try:
                await case(client, name)
            except BaseException as error:
                error.add_note(f"in case {case.__name__} with {name}")
                raise
            count(1)
        assert process.poll() is None, "our calls killed the peer"
        await client.close()
