"""Bad input on the whole path: a clear sentence with the sandbox or setting and a remedy, and nothing lost or left."""

from __future__ import annotations

import re

import pytest

from tests.e2e.boxed import boxed_json

pytestmark = pytest.mark.root
INVALID, NOT_FOUND, DENIED, PRECONDITION = 3, 5, 7, 9


@pytest.fixture(scope="module")
def facts():
    """All bad inputs, in one box."""
    return boxed_json("tests.e2e.bad_input")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        (
            "start_unknown",
            NOT_FOUND,
            r"StartVM for sandbox [0-9a-f]{64}, which has not been created \(send CreateVM first\)",
        ),
        ("id_empty", INVALID, r"empty sandbox id \(send the CRI sandbox id\)"),
        ("id_slash", INVALID, r"sandbox id 'a/b' is not a plain name"),
        ("id_dots", INVALID, r"sandbox id '\.\.' is not a plain name"),
        ("id_long", INVALID, r"has \d+ bytes, a unix socket takes 107 \(choose a shorter pods-dir\)"),
        ("no_annotations", INVALID, r"sandbox [0-9a-f]{64} lacks the annotation io.kubernetes.cri.sandbox-name \("),
        ("no_pod_name", INVALID, r"sandbox [0-9a-f]{64} lacks the annotation io.kubernetes.cri.sandbox-name \("),
        ("no_netns", INVALID, r"sandbox [0-9a-f]{64} has no network namespace path \("),
        ("netns_missing", INVALID, r"no network namespace at '/run/netns/none-such': .* \(the pod was removed"),
        ("netns_without_address", INVALID, r"/run/netns/empty has no interface with an address \(the CNI plugin"),
        ("guard_copy", DENIED, r"CopyFile names a path that is not plainly below the shared folder \("),
        ("guard_order", PRECONDITION, r"StartContainer of a container that has not been created: never-created"),
        ("guard_method", DENIED, r"grpc.AgentService/ReadEverything is not among the calls"),
    ],
)
def test_a_bad_call_is_refused_in_words(facts, name, code, words):
    assert facts[name]["code"] == code
    assert re.search(words, facts[name]["text"]), facts[name]["text"]


def test_stop_of_an_unknown_sandbox_is_success(facts):
    assert facts["stop_unknown"]["code"] == 0


def test_refused_calls_leave_no_sandbox_and_no_folder(facts):
    assert facts["calls_left"] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_missing", r"cannot pull image lab.local/none/such:1: .*manifest unknown"),
        ("registry_down", r"cannot pull image lab.local:81/busybox:1: .*connection refused"),
        ("never_boots", r"StartVM of sandbox [0-9a-f]{64} failed in phase address: .*console: booting podvm-slow"),
        ("refuses", r"failed in phase link: nobody listens at 127.0.0.1 port 1 \(the VM is still starting, or"),
        ("hangs", r"failed in phase link: the VM's forwarder answers, its agent does not: .* \(see the VM's console\)"),
        ("forwarder_deaf", r"failed in phase link: nobody listens at 10\.118\.\d+\.\d+ port 15150 \(the VM"),
    ],
)
def test_a_pod_that_cannot_be_is_125_with_one_line_and_removed(facts, name, words):
    seen = facts[name]
    assert seen["code"] == 125
    assert seen["out"] == ""
    assert "Traceback" not in seen["err"]
    (line,) = [line for line in seen["err"].splitlines() if line.startswith("peerpods: ")]
    assert re.search(words, line), line
    assert seen["gone"]
    assert seen.get("pods", []) == []


def test_a_full_disk_refuses_the_pod_and_the_next_one_runs(facts):
    seen = facts["full"]
    assert seen["code"] == 125
    line = seen["err"].splitlines()[-1]
    assert re.search(r"the journal \S+ cannot be written: .*full \(make room on the file system of \S+\)", line), line
    assert seen["left"] == []
    assert seen["after"] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("socket", r"adaptor: the adaptor cannot start: \S+/hypervisor.sock is in use: another process listens there"),
        ("state", r"adaptor: the state folder \S+/state is in use by another adaptor \(stop it, or choose another"),
    ],
)
def test_an_adaptor_beside_a_living_one_ends_with_one_line(facts, name, words):
    seen = facts["second"][name]
    assert seen["code"] == 1
    lines = [line for line in seen["err"].splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert re.match(words, lines[0]), lines


def test_a_dead_adaptors_socket_is_taken_over(facts):
    assert facts["second"]["taken_over"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("adaptor", 1, r"adaptor: the state folder /run/nobody/state cannot be used: Permission denied \(let the"),
        ("relay", 1, r"relay: the relay cannot start: /run/nobody/\S+: Permission denied \(run it as root, or"),
        ("run", 125, r"peerpods: cannot make a folder .* below /run: Permission denied \(run as root, or use"),
    ],
)
def test_without_permission_one_line_says_so(facts, name, code, words):
    seen = facts["without_root"][name]
    assert seen["code"] == code
    lines = [line for line in seen["err"].splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    assert re.match(words, lines[0]), lines


def test_no_device_namespace_mount_socket_or_process_is_left(facts):
    assert facts["left"] == []
