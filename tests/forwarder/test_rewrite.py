"""The edits: what is meant to change changes, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.forwarder.rewrite import bind_sources, clear_dns, container_id, set_network_namespace
from peerpods.protocols import agent_pb2, oci_pb2
from tests.forwarder.recorded import LIVES, requests

PATH = "/run/netns/podns"


def container(*namespaces, mounts=()):
    spec = oci_pb2.Spec(Hostname="h", Linux=oci_pb2.Linux(CgroupsPath="/c", MaskedPaths=["/m"]), Mounts=mounts)
    for kind, path in namespaces:
        spec.Linux.Namespaces.add(Type=kind, Path=path)
    return agent_pb2.CreateContainerRequest(container_id="c", OCI=spec, sandbox_pidns=True)


def namespaces(payload):
    message = agent_pb2.CreateContainerRequest.FromString(payload)
    return [(one.Type, one.Path) for one in message.OCI.Linux.Namespaces]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [("network", PATH)]),
        ([("ipc", ""), ("mount", "")], [("ipc", ""), ("mount", ""), ("network", PATH)]),
        ([("network", ""), ("uts", "")], [("network", PATH), ("uts", "")]),
        ([("ipc", ""), ("network", "/proc/1/ns/net")], [("ipc", ""), ("network", PATH)]),
        ([("network", "/a"), ("ipc", ""), ("network", "/b")], [("network", PATH), ("ipc", "")]),
    ],
)
def test_the_network_namespace_is_the_pods_alone(before, after):
    message = container(*before)
    edited = set_network_namespace(message.SerializeToString(), PATH)
    assert namespaces(edited) == after
    del message.OCI.Linux.Namespaces[:]
    other = agent_pb2.CreateContainerRequest.FromString(edited)
    del other.OCI.Linux.Namespaces[:]
    assert other == message


def test_twice_is_as_once():
    once = set_network_namespace(container(("ipc", "")).SerializeToString(), PATH)
    assert set_network_namespace(once, PATH) == once


@pytest.mark.parametrize("life", LIVES)
def test_recorded_containers_get_one_entry_more_and_keep_every_other_byte(life):
    count = 0
    for method, payload in requests(life):
        if method != "CreateContainer":
            continue
        count += 1
        edited = set_network_namespace(payload, PATH)
        entry = b"\x32\x1b\x0a\x07network\x12\x10" + PATH.encode()
        place = edited.index(entry)
        assert edited.count(entry) == 1
        # Cut out the entry again: all that may differ is the two lengths around it.
        rest = edited[:place] + edited[place + len(entry) :]
        assert len(rest) == len(payload)
        assert sum(ours != theirs for ours, theirs in zip(rest, payload, strict=True)) <= 4
        expected = agent_pb2.CreateContainerRequest.FromString(payload)
        expected.OCI.Linux.Namespaces.add(Type="network", Path=PATH)
        assert agent_pb2.CreateContainerRequest.FromString(edited) == expected
    assert count >= 2


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (agent_pb2.CreateContainerRequest(container_id="c"), "no OCI spec"),
        (agent_pb2.CreateContainerRequest(OCI=oci_pb2.Spec(Hostname="h")), "no Linux part"),
    ],
)
def test_without_a_spec_it_is_refused(message, what):
    with pytest.raises(Refused, match=what):
        set_network_namespace(message.SerializeToString(), PATH)


@given(
    st.builds(
        agent_pb2.CreateSandboxRequest,
        hostname=st.text(max_size=4),
        dns=st.lists(st.text(max_size=4), max_size=4),
        sandbox_id=st.text(max_size=4),
        sandbox_pidns=st.booleans(),
    )
)
def test_name_servers_are_dropped_and_nothing_else(message):
    edited = clear_dns(message.SerializeToString())
    message.ClearField("dns")
    assert edited == message.SerializeToString()


def test_bind_sources_are_those_of_bind_mounts_each_once():
    mounts = [
        oci_pb2.Mount(destination="/a", source="/x", type="bind"),
        oci_pb2.Mount(destination="/b", source="proc", type="proc"),
        oci_pb2.Mount(destination="/c", source="/y", type="bind"),
        oci_pb2.Mount(destination="/d", source="/x", type="bind"),
        oci_pb2.Mount(destination="/e", type="bind"),
    ]
    assert bind_sources(container(mounts=mounts).SerializeToString()) == ["/x", "/y"]


def test_a_container_id_is_read_as_the_agent_reads_it():
    assert container_id(b"\x0a\x01a\x0a\x01b") == "b"
    assert container_id(b"\x08\x07") == ""
    assert agent_pb2.StartContainerRequest.FromString(b"\x0a\x01a\x0a\x01b").container_id == "b"
    with pytest.raises(ValueError):
        container_id(b"\x0a\x09a")
