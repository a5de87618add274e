"""The strict reading: every recorded request passes, and nothing that two decoders could read differently does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.forwarder.strict import MAX_FIELDS, Malformed, check
from peerpods.protocols import agent_pb2, oci_pb2
from peerpods.ttrpc.fields import field_bytes
from tests.forwarder.recorded import LIVES, requests

COPY = agent_pb2.CopyFileRequest.DESCRIPTOR
CONTAINER = agent_pb2.CreateContainerRequest.DESCRIPTOR
TYPES = {method.name: method.input_type for method in agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods}


@pytest.mark.parametrize("life", LIVES)
def test_every_recorded_request_passes(life):
    seen = 0
    for method, payload in requests(life):
        if method in TYPES:
            check(TYPES[method], payload)
            seen += 1
    assert seen > 20


@given(
    st.builds(
        agent_pb2.CreateContainerRequest,
        container_id=st.text(max_size=5),
        OCI=st.builds(
            oci_pb2.Spec,
            Annotations=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
            Linux=st.builds(
                oci_pb2.Linux, Sysctl=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3)
            ),
            Process=st.builds(
                oci_pb2.Process,
                OOMScoreAdj=st.integers(-1000, 1000),
                User=st.builds(oci_pb2.User, AdditionalGids=st.lists(st.integers(0, 2**32 - 1), max_size=4)),
            ),
        ),
    )
)
def test_what_the_library_writes_passes(message):
    check(CONTAINER, message.SerializeToString())


def test_packed_and_unpacked_numbers_are_both_right():
    assert check(oci_pb2.User.DESCRIPTOR, b"\x1a\x02\x01\x02") is None
    assert check(oci_pb2.User.DESCRIPTOR, b"\x18\x01\x18\x02") is None


@pytest.mark.parametrize(
    ("descriptor", "data", "reason"),
    [
        (COPY, b"\x0a\x01a\x0a\x01b", "path is there twice"),
        (COPY, b"\x10\x01\x10\x01", "file_size is there twice"),
        (COPY, b"\x4a\x01a", "unknown field 9"),
        (COPY, b"\x08\x01", "path has the wrong wire type 0"),
        (COPY, b"\x12\x00", "file_size has the wrong wire type 2"),
        (COPY, b"\x0a\x02\xff\xfe", "path is not UTF-8"),
        (COPY, b"\x0a\x05a", "cut short"),
        (COPY, b"\x0a", "CopyFileRequest"),
        (COPY, b"\x10" + b"\xff" * 10 + b"\x01", "CopyFileRequest"),
        (COPY, b"\x0b\x0c", "wrong wire type 3"),
        (COPY, b"\x00\x00", "CopyFileRequest"),
        (CONTAINER, b"\x32\x00\x32\x00", "OCI is there twice"),
        (CONTAINER, field_bytes(0x32, field_bytes(0x42, b"\x7a\x00")), "Linux has an unknown field 15"),
        (CONTAINER, field_bytes(0x32, b"\x42\x00\x42\x00"), "Linux is there twice"),
        (CONTAINER, b"\x2a\x00" * (MAX_FIELDS + 1), "more than"),
        (agent_pb2.SetPolicyRequest.DESCRIPTOR, b"\x12\x00", "unknown field 2"),
    ],
)
def test_all_else_is_refused_and_the_field_is_named(descriptor, data, reason):
    with pytest.raises(Malformed, match=reason):
        check(descriptor, data)


def test_deep_nesting_is_refused():
    from google.protobuf import descriptor_pb2

    nested = descriptor_pb2.DescriptorProto()
    for _ in range(40):
        outer = descriptor_pb2.DescriptorProto()
        outer.nested_type.append(nested)
        nested = outer
    with pytest.raises(Malformed, match="too deep"):
        check(descriptor_pb2.DescriptorProto.DESCRIPTOR, nested.SerializeToString())


@given(st.binary(max_size=100))
def test_junk_is_refused_or_is_what_the_library_reads(junk):
    try:
        check(CONTAINER, junk)
    except Malformed:
        return
    agent_pb2.CreateContainerRequest.FromString(junk)
