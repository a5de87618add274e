"""A pod's whole life in a VM of the image prod-test, which is a release's but for the agent: TLS, tunnel, registry."""

from __future__ import annotations

import json

import pytest

from peerpods.demo import world
from tests.e2e.boxed import boxed_json
from tests.images import built

pytestmark = [pytest.mark.images, pytest.mark.root, pytest.mark.timeout(1100)]


@pytest.fixture(scope="module")
def image():
    return built.image("prod-test")


@pytest.fixture(scope="module")
def pod(image):
    """The pod's life, once."""
    return boxed_json("tests.images.pod_run", str(image), str(built.machine().tree), timeout=1000)


def test_the_container_ran_with_its_input_output_network_and_exit_code(pod):
    assert pod["code"] == 7, pod["err"] + pod.get("log", "") + pod["console"][-2000:]
    assert pod["out"].split("\n")[:2] == ["pod-hello", "fed"]
    assert world.PAGE in pod["out"]


def test_the_vm_that_libvirt_made_has_the_computed_registers(pod, image):
    values = json.loads((image / "measurements.json").read_text())["vtpm"]["sha256"]
    seen = pod["measured"]
    assert {name: seen[name] for name in ("4", "9", "11")} == {name: values[f"pcr{name}"] for name in ("4", "9", "11")}
    assert seen["7"] in values["pcr7"].values()


def test_nothing_is_left_of_it(pod):
    assert pod["gone"]
    assert pod["left"] == []
    assert pod["volumes"] == ["podvm.raw"]
    assert pod["chips"] == []
