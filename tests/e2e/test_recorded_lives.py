"""The recorded lives of a real shim played against our adaptor, relay and forwarder, all real, on real sockets."""

from __future__ import annotations

import pytest

from tests.e2e.boxed import boxed_json
from tests.e2e.player import LIVES, called, read_life

pytestmark = pytest.mark.root
WISHES = (4, 3328, 1, "h100", "m1.small", "img-abc")


@pytest.fixture(scope="module", params=LIVES)
def life(request):
    """One play; many judgements."""
    return request.param, boxed_json("tests.e2e.lives", request.param)


def test_each_answer_has_the_recorded_status_and_payload(life):
    name, found = life
    assert found["answers"] == []
    assert found["answered"] == sum(event.kind == "RES" for event in read_life(name))


def test_the_agent_got_the_recorded_calls_in_order_with_only_the_documented_edits(life):
    name, found = life
    assert found["agent_side"] == []
    assert found["agent_calls"] == len(called(read_life(name), "agent"))
    assert found["unknown"] == []


def test_what_the_record_leaves_open_stays_open(life):
    assert life[1]["unanswered"] == ["GetOOMEvent"]


def test_the_agent_socket_is_the_sandboxes_own(life):
    _, found = life
    assert found["agent_socket"] == f"/{found['sandbox']}/agent.ttrpc"


def test_the_vm_was_told_of_the_pods_network(life):
    _, found = life
    (told,) = found["network"]
    pod, addresses, where = told
    assert pod == "probe-pod"
    assert [address.split("/")[1] for address in addresses] == ["30", "126"]
    assert where == "/run/netns/podns"
    assert "/run/peerpod/apf.json" in found["files"]


def test_the_size_and_image_of_the_annotations_reach_the_cloud(life):
    spec = life[1]["spec"]
    asked = tuple(spec[key] for key in ("vcpus", "memory_mib", "gpus", "gpu_model", "machine_type", "image"))
    assert asked == WISHES


def test_nothing_is_left(life):
    _, found = life
    assert found["gone"]
    assert found["left"] == []
    assert found["own_checks"] >= 1


@pytest.fixture(scope="module")
def netns_life():
    """The guest-pull life on a whole node with provider netns, a registry and the development agent."""
    return boxed_json("tests.e2e.netns_life")


def test_on_netns_each_call_of_the_record_succeeds(netns_life):
    answers = netns_life["answers"]
    assert [entry["call"] for entry in answers if entry["given"]["code"] != 0] == []
    calls = [event.stream for event in read_life("shim-guest-pull") if event.kind == "RES"]
    assert len(answers) == len(calls)


def test_on_netns_the_payloads_are_the_recorded_ones_where_nothing_makes_them_differ(netns_life):
    """What differs: the program's own output and end; agents end a stream by an empty answer."""
    differing = [
        (entry["call"], entry["given"])
        for entry in netns_life["answers"]
        if entry["given"] != entry["recorded"] and entry["call"] != "ReadStderr"
    ]
    assert differing == [
        ("ReadStdout", {"code": 0, "data": "hi\n"}),
        ("ReadStdout", {"code": 0, "data": ""}),
        # A first process without a handler is not ended by SIGTERM: the agent makes it SIGKILL (recorded stub: 143).
        ("WaitProcess", {"code": 0, "status": 137}),
        ("WaitProcess", {"code": 0, "status": 137}),
    ]


def test_on_netns_nothing_is_left_of_the_pod(netns_life):
    assert netns_life["gone"]
    assert netns_life["left"] == []
