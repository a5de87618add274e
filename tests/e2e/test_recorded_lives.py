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
