"""Frames and envelopes: vectors, properties, and equality with the protobuf library."""

import re

import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from peerpods.protocols import ttrpc_pb2 as pb
from peerpods.ttrpc import (
    HEADER,
    HEADER_SIZE,
    MAX_LENGTH,
    Frame,
    FrameDecoder,
    Oversize,
    Request,
    Response,
    Status,
    decode_request,
    decode_response,
    encode_frame,
    encode_header,
    peek_method,
)

HYP = "hypervisor.Hypervisor"
VECTORS = {
    "version": (
        "00000025000000010100 0a1568797065727669736f722e48797065727669736f72 120756657273696f6e 1a030a0131",
        Request(HYP, "Version", b"\n\x011"),
    ),
    "start": (
        "0000002e000000010100 0a1568797065727669736f722e48797065727669736f72 12075374617274564d"
        "1a050a03616263 2080e0a596bb11",
        Request(HYP, "StartVM", b"\n\x03abc", 600 * 10**9),
    ),
    "check": (
        "0000001a000000010100 0a0b677270632e4865616c7468 1205436865636b 2080d88ee16f",
        Request("grpc.Health", "Check", b"", 30 * 10**9),
    ),
    "go empty": ("00000000000000010200", Response()),
    "rust empty": ("000000020000000102000a00", Response(Status(0))),
    "unimplemented": ("0000000f000000010200 0a0d080c1209736572766963652078", Response(Status(12, "service x"))),
    "version answer": ("00000009000000010200 12070a05302e302e30", Response(None, b"\n\x050.0.0")),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    text, value = VECTORS[name]
    raw = bytes.fromhex(text.replace(" ", ""))
    (frame,) = FrameDecoder().feed(raw)
    request = isinstance(value, Request)
    assert (frame.stream, frame.type, frame.flags) == (1, 1 if request else 2, 0)
    assert (decode_request if request else decode_response)(frame.body) == value
    assert encode_frame(1, frame.type, 0, value.encode()) == raw


def test_half_close_vector():
    assert encode_frame(5, 3, 5, b"").hex() == "00000000000000050305"


frames = st.builds(Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))


@given(st.lists(frames, max_size=8), st.data())
def test_any_chunking_gives_the_same_frames(wanted, data):
    raw = b"".join(encode_frame(*frame) for frame in wanted)
    decoder, got, pos = FrameDecoder(), [], 0
    while pos < len(raw):
        size = data.draw(st.integers(1, 400))
        got += decoder.feed(raw[pos : pos + size])
        pos += size
    assert got == wanted
    assert decoder.buffered == 0
    assert not decoder.partial_header_or_body


@given(frames)
@settings(max_examples=30)
def test_truncated_at_every_byte(frame):
    raw = encode_frame(*frame)
    for cut in range(len(raw)):
        decoder = FrameDecoder()
        assert decoder.feed(raw[:cut]) == []
        assert decoder.partial_header_or_body is (cut > 0)
        assert decoder.feed(memoryview(raw)[cut:]) == [frame]


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_junk_never_raises_and_memory_stays_bounded(chunks):
    decoder = FrameDecoder()
    for chunk in chunks:
        decoder.feed(chunk)
        assert decoder.buffered <= sum(map(len, chunks))


@pytest.mark.parametrize("step", [1 << 16, 99_991, MAX_LENGTH + 40])
def test_oversize_is_drained_and_the_next_frame_read(step):
    raw = HEADER.pack(MAX_LENGTH + 1, 7, 1, 2) + bytes(MAX_LENGTH + 1) + encode_frame(9, 2, 0, b"x")
    decoder, got = FrameDecoder(), []
    for pos in range(0, len(raw), step):
        got += decoder.feed(raw[pos : pos + step])
        assert decoder.buffered <= HEADER_SIZE + 1
    assert got == [Oversize(7, 1, 2, MAX_LENGTH + 1), Frame(9, 2, 0, b"x")]


def test_largest_body_passes_and_one_more_is_refused():
    body = bytes(MAX_LENGTH)
    assert FrameDecoder().feed(encode_frame(1, 1, 0, body))[0].body == body
    with pytest.raises(ValueError):
        encode_frame(1, 1, 0, body + b"x")
    with pytest.raises(ValueError):
        encode_header(MAX_LENGTH + 1, 1, 1, 0)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
int64 = st.integers(-(2**63), 2**63 - 1)


@given(text, text, st.binary(max_size=300), int64, st.lists(st.tuples(text, text), max_size=4))
def test_request_equals_protobuf(service, method, payload, timeout, metadata):
    ours = Request(service, method, payload, timeout, tuple(metadata))
    theirs = pb.Request(
        service=service,
        method=method,
        payload=payload,
        timeout_nano=timeout,
        metadata=[pb.KeyValue(key=k, value=v) for k, v in metadata],
    )
    assert ours.encode() == theirs.SerializeToString()
    assert decode_request(ours.encode()) == ours
    assert peek_method(ours.encode()) == (service, method)


@given(
    st.none() | st.tuples(st.integers(-(2**31), 2**31 - 1), text, st.lists(text, max_size=3)),
    st.binary(max_size=200),
)
def test_response_equals_protobuf(status, payload):
    theirs = pb.Response(payload=payload)
    ours = Response(None, payload)
    if status is not None:
        theirs.status.SetInParent()
        theirs.status.code, theirs.status.message = status[:2]
        for name in status[2]:
            theirs.status.details.add(type_url=name, value=name.encode())
        details = tuple(d.SerializeToString() for d in theirs.status.details)
        ours = Response(Status(status[0], status[1], details), payload)
    assert ours.encode() == theirs.SerializeToString()
    assert decode_response(ours.encode()) == ours


# Bytes that look like fields, so that the interesting cases are met: known and unknown numbers, every wire type,
# over-long and cut numbers, nested lengths.
piece = st.one_of(
    st.sampled_from([b"\x0a", b"\x12", b"\x1a", b"\x20", b"\x2a", b"\x08", b"\x0b", b"\x0c", b"\x3b", b"\x3c"]),
    st.sampled_from([b"\x00", b"\x01", b"\x02", b"\x07", b"\x80", b"\xff" * 9 + b"\x01", b"\x80" * 4 + b"\x10"]),
    st.sampled_from([b"\x0d\0\0\0\0", b"\x09" + bytes(8), b"\x32\x03abc", b"\xa2\x06\x02hi", b"\x0a\x03abc"]),
    st.binary(max_size=4),
)
junk = st.lists(piece, max_size=12).map(b"".join)


# Ten bytes of a number that has more than 64 bits: protobuf's C code cuts it, Go's and ours refuse it.
overlong = re.compile(rb"[\x80-\xff]{9}[\x02-\x7f]")


def verdict(parse, body):
    try:
        return parse(body)
    except (ValueError, DecodeError):
        return None


@given(junk)
@settings(max_examples=1500)
@example(b"\x0a\x01a\x0a\x01b")
@example(b"\x0b\x0c")
@example(b"\x0a\x01\xff")
@example(b"\x20" + b"\xff" * 9 + b"\x01")
def test_junk_requests_mean_the_same_to_both(body):
    assume(not overlong.search(body))
    theirs, ours = verdict(pb.Request.FromString, body), verdict(decode_request, body)
    assert (theirs is None) == (ours is None)
    if ours is not None and theirs is not None:
        assert (ours.service, ours.method) == (theirs.service, theirs.method) == peek_method(body)
        assert (ours.payload, ours.timeout_nano) == (theirs.payload, theirs.timeout_nano)
        assert ours.metadata == tuple((m.key, m.value) for m in theirs.metadata)
        assert decode_request(ours.encode()) == ours


@given(junk)
@settings(max_examples=1500)
@example(b"\x0a\x02\x08\x05\x0a\x03\x12\x01x")
def test_junk_responses_mean_the_same_to_both(body):
    assume(not overlong.search(body))
    theirs, ours = verdict(pb.Response.FromString, body), verdict(decode_response, body)
    assert (theirs is None) == (ours is None)
    if ours is not None and theirs is not None:
        assert ours.payload == theirs.payload
        assert (ours.status is not None) == theirs.HasField("status")
        if ours.status is not None:
            assert (ours.status.code, ours.status.message) == (theirs.status.code, theirs.status.message)
            assert len(ours.status.details) == len(theirs.status.details)
        assert decode_response(ours.encode()) == ours


def test_unknown_fields_survive():
    body = Request("a.B", "C", b"p").encode() + b"\x32\x03abc\xa2\x06\x02hi"
    assert decode_request(body).unknown == b"\x32\x03abc\xa2\x06\x02hi"
    assert decode_request(body).encode() == body
    answer = b"\x0a\x05\x08\x05\xa2\x06\x00\x12\x01p\x32\x01z"
    assert decode_response(answer).encode() == answer


def test_a_second_method_field_wins_in_the_peek_too():
    body = Request("a.B", "Harmless", b"p" * 500).encode() + b"\x12\x07SetEvil"
    assert peek_method(body) == ("a.B", "SetEvil")
    with pytest.raises(ValueError):
        peek_method(body[:-1])


def test_text_that_is_no_unicode_still_makes_a_status():
    assert decode_response(Response(Status(2, "file \udc80")).encode()).status == Status(2, "file ?")
