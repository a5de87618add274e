"""`peerpods run --provider netns`, the whole path in its ways: what a user sees, and that nothing is left."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.e2e.boxed import boxed_json

pytestmark = pytest.mark.root
PHASES = ["create_vm", "start_vm", "agent_check", "create_sandbox", "pull_and_create", "start", "run", "stop"]


@pytest.fixture(scope="module")
def runs():
    """All scenarios, in one box."""
    return boxed_json("tests.e2e.netns_runs")


def test_output_and_errors_arrive_apart_and_the_exit_code_is_the_containers(runs):
    seen = runs["apart"]
    assert seen["code"] == 7
    assert seen["out"] == "to out\n"
    assert "to err" in seen["err"].splitlines()
    assert "to out" not in seen["err"]


def test_each_phase_is_shown_with_its_time_as_it_ends(runs):
    shown = [line.split()[-3] for line in runs["apart"]["err"].splitlines() if line.endswith(" ms")]
    assert shown == PHASES


def test_json_is_one_object_and_the_output_goes_to_stderr(runs):
    seen = runs["json"]
    found = json.loads(seen["out"])
    assert sorted(found) == ["exit_code", "instance", "phases", "sandbox"]
    assert list(found["phases"]) == PHASES
    assert all(value >= 0 for value in found["phases"].values())
    assert (seen["code"], found["exit_code"]) == (5, 5)
    assert len(found["sandbox"]) == 64
    assert found["instance"].startswith("ns-")
    assert seen["err"] == "told\n"


def test_standard_input_arrives_whole(runs):
    data = b"".join(b"%07d\n" % number for number in range(40_000))
    assert runs["fed"]["out"].split()[0] == hashlib.sha256(data).hexdigest()
    assert runs["fed"]["code"] == 0


def test_a_terminal_echoes_has_its_size_and_ends(runs):
    assert runs["terminal"]["out"] == "/dev/pts/0\r\na word\r\n17 91\r\ngot a word\r\n"
    assert runs["terminal"]["code"] == 0


def test_an_adaptor_killed_in_the_middle_changes_nothing_for_the_pod(runs):
    seen = runs["killed"]
    assert seen["code"] == 3
    assert seen["same"] == ["sandbox", "pod", "state", "instance"]
    assert seen["state"] == "running"


def test_the_pods_network_outlives_another_adaptor_that_comes_and_goes(runs):
    """Every ping was answered, or the scenario would have ended there."""
    assert runs["beside"]["code"] == 0
    assert runs["beside"]["other"] == 0, runs["beside"]["err"]


def test_without_an_adaptor_ps_tells_from_the_journal_and_says_so(runs):
    journal = runs["killed"]["journal"]
    (shown,) = json.loads(journal["out"])
    assert shown["state"] == "running"
    assert "this is from the journal" in journal["err"]


@pytest.mark.parametrize("name", ["interrupt", "terminate"])
def test_an_interrupted_run_removes_its_pod(runs, name):
    assert runs[name] == {"code": 130, "gone": True}


def test_an_interrupt_while_the_vm_starts(runs):
    seen = runs["early"]
    assert seen["code"] == 130
    assert seen["err"].splitlines()[-1] == "peerpods: interrupted; the pod and its VM were removed"
    assert "Traceback" not in seen["err"]


def test_a_program_that_the_image_does_not_have(runs):
    seen = runs["missing"]
    assert seen["code"] == 125
    assert "no-such-program" in seen["err"].splitlines()[-1]
    assert "Traceback" not in seen["err"]


@pytest.mark.parametrize("name", ["left_private", "left_node"])
def test_no_device_namespace_mount_socket_or_folder_is_left(runs, name):
    assert runs[name] == []
