"""Every frame that the real shim sent, and every answer it got: the same bytes and equal messages after our codec."""

import json
import pathlib

import pytest

from peerpods import protocols
from peerpods.protocols import agent_pb2, health_pb2, hypervisor_pb2
from peerpods.ttrpc import FrameDecoder, FrameType, decode_request, decode_response, encode_frame, peek_method

assert protocols is not None
FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
SERVICES = {
    service.full_name: {method.name: method for method in service.methods}
    for module in (agent_pb2, health_pb2, hypervisor_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}


def message_class(descriptor):
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(descriptor)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.jsonl")), ids=lambda p: p.stem)
def test_life(path):
    asked = {}
    counts = {"FRAME": 0, "RES": 0}
    for line in lines(path):
        if line["ev"] not in counts:
            continue
        counts[line["ev"]] += 1
        raw = bytes.fromhex(line["hex"])
        (frame,) = FrameDecoder().feed(raw)
        key = (line["peer"], line["conn"], frame.stream)
        if frame.type == FrameType.REQUEST:
            request = decode_request(frame.body)
            assert peek_method(frame.body) == (request.service, request.method)
            asked[key] = method = SERVICES[request.service][request.method]
            envelope, payload, kind = request, request.payload, method.input_type
        else:
            envelope = decode_response(frame.body)
            payload, kind = envelope.payload, asked[key].output_type
        assert envelope.unknown == b""
        assert encode_frame(frame.stream, frame.type, frame.flags, envelope.encode()) == raw
        cls = message_class(kind)
        message = cls.FromString(payload)
        assert cls.FromString(message.SerializeToString()) == message
        assert len(message.SerializeToString(deterministic=True)) == len(payload), "no field is unknown or lost"
    assert counts["FRAME"] >= 30
    assert counts["RES"] >= 30
