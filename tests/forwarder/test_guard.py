"""The guard: which calls pass, in which order, and that its state follows the agent's answers."""

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.forwarder import guard as module
from peerpods.forwarder.guard import AGENT, ALWAYS, HEALTH, OPEN, Guard, Pass, Stage
from peerpods.forwarder.paths import SHARED
from peerpods.protocols import agent_pb2, oci_pb2
from peerpods.ttrpc import Code, Status, decode_response
from tests.forwarder.recorded import LIVES, frames
from tests.forwarder.test_rewrite import PATH, namespaces


def sandbox(dns=("1.1.1.1",)):
    return agent_pb2.CreateSandboxRequest(sandbox_id="s", hostname="h", dns=dns).SerializeToString()


def container(name="c", *sources):
    spec = oci_pb2.Spec(Linux=oci_pb2.Linux(), Mounts=[oci_pb2.Mount(source=one, type="bind") for one in sources])
    return agent_pb2.CreateContainerRequest(container_id=name, OCI=spec).SerializeToString()


def of(name="c"):
    return agent_pb2.StartContainerRequest(container_id=name).SerializeToString()


def copyfile(path="a", mode=stat.S_IFREG | 0o644, data=b"x", size=None):
    return agent_pb2.CopyFileRequest(
        path=f"{SHARED}/{path}", file_mode=mode, data=data, file_size=len(data) if size is None else size
    ).SerializeToString()


def call(guard, method, payload=b"", ok=True, service=AGENT):
    """Let a call pass and be answered; gives what the guard said."""
    verdict = guard.check(service, method, payload)
    if isinstance(verdict, Pass) and verdict.settle is not None and ok is not None:
        verdict.settle(ok)
    return verdict


def ready():
    guard = Guard(PATH)
    assert isinstance(call(guard, "CreateSandbox", sandbox()), Pass)
    return guard


def refused(verdict, code, *words):
    assert isinstance(verdict, Status), verdict
    assert verdict.code == code
    assert all(word in verdict.message for word in words), verdict.message
    return True


# The list

ALL = [method.name for method in agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods]
CHECKED = {"SetPolicy", "CreateSandbox", "CreateContainer", "StartContainer", "CopyFile", "DestroySandbox"}


@pytest.mark.parametrize("method", sorted(set(ALL) - OPEN - ALWAYS - CHECKED))
def test_calls_that_peer_pods_never_need_are_denied(method):
    assert refused(call(ready(), method), Code.PERMISSION_DENIED, method, "not among the calls")


def test_the_denied_ones_are_these():
    assert sorted(set(ALL) - OPEN - ALWAYS - CHECKED) == sorted(
        "AddARPNeighbors AddSwap AddSwapPath GetIPTables ListInterfaces ListRoutes MemAgentCompactSet MemAgentMemcgSet "
        "MemHotplugByProbe OnlineCPUMem ReseedRandomDev ResizeVolume SetGuestDateTime SetIPTables "
        "UpdateEphemeralMounts UpdateInterface UpdateRoutes".split()
    )


@pytest.mark.parametrize(
    ("service", "method"),
    [
        (AGENT, "Brandnew"),
        (AGENT, ""),
        (AGENT, "createsandbox"),
        ("", ""),
        ("grpc.Other", "CreateSandbox"),
        (HEALTH, "Watch"),
        (HEALTH, "CreateSandbox"),
        ("x" * 5000, "y" * 5000),
    ],
)
def test_unknown_calls_are_denied_with_a_short_sentence(service, method):
    verdict = call(ready(), method, service=service)
    assert refused(verdict, Code.PERMISSION_DENIED, "not among the calls", "pod VM image")
    assert len(verdict.message) < 400


@pytest.mark.parametrize("method", sorted(OPEN | ALWAYS))
def test_the_others_pass_untouched(method):
    verdict = call(ready(), method, of())
    assert isinstance(verdict, Pass)
    assert (verdict.payload, verdict.copy, verdict.folders) == (None, "", ())


@pytest.mark.parametrize("method", ["Check", "Version"])
def test_health_passes_in_every_stage(method):
    guard = Guard(PATH)
    for step in (None, "CreateSandbox", "DestroySandbox"):
        if step:
            call(guard, step)
        assert isinstance(call(guard, method, service=HEALTH), Pass)


# The order


def test_create_sandbox_passes_once_and_loses_its_name_servers():
    guard = Guard(PATH)
    verdict = call(guard, "CreateSandbox", sandbox())
    assert verdict.payload == sandbox(dns=())
    assert refused(call(guard, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION, "once")


def test_create_sandbox_that_failed_may_come_again_but_never_two_at_a_time():
    guard = Guard(PATH)
    first = call(guard, "CreateSandbox", sandbox(), ok=None)
    assert refused(call(guard, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION)
    assert refused(call(guard, "CreateContainer", container()), Code.FAILED_PRECONDITION)
    first.settle(False)
    assert guard.stage is Stage.NEW
    assert isinstance(call(guard, "CreateSandbox", sandbox()), Pass)


@pytest.mark.parametrize(("method", "payload"), [("CreateContainer", container()), ("CopyFile", copyfile())])
def test_nothing_is_made_before_the_sandbox(method, payload):
    assert refused(call(Guard(PATH), method, payload), Code.FAILED_PRECONDITION, method, "before CreateSandbox")


def test_ids_are_unique_until_removed():
    guard = ready()
    assert isinstance(call(guard, "CreateContainer", container(), ok=None), Pass)
    assert refused(call(guard, "CreateContainer", container()), Code.FAILED_PRECONDITION, "there already")
    guard = ready()
    call(guard, "CreateContainer", container())
    assert refused(call(guard, "CreateContainer", container()), Code.FAILED_PRECONDITION, "there already")
    call(guard, "RemoveContainer", of(), ok=False)
    assert refused(call(guard, "CreateContainer", container()), Code.FAILED_PRECONDITION)
    call(guard, "RemoveContainer", of())
    assert isinstance(call(guard, "CreateContainer", container()), Pass)


def test_create_that_failed_leaves_the_id_free():
    guard = ready()
    call(guard, "CreateContainer", container(), ok=False)
    assert refused(call(guard, "StartContainer", of()), Code.FAILED_PRECONDITION, "not been created")
    assert isinstance(call(guard, "CreateContainer", container()), Pass)


def test_start_needs_create_and_passes_once():
    guard = ready()
    assert refused(call(guard, "StartContainer", of()), Code.FAILED_PRECONDITION, "not been created")
    pending = call(guard, "CreateContainer", container(), ok=None)
    assert refused(call(guard, "StartContainer", of()), Code.FAILED_PRECONDITION, "not been created")
    pending.settle(True)
    assert isinstance(call(guard, "StartContainer", of(), ok=False), Pass)
    assert isinstance(call(guard, "StartContainer", of()), Pass)
    assert refused(call(guard, "StartContainer", of()), Code.FAILED_PRECONDITION, "has been started")


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_ids_are_bounded(name):
    assert refused(call(ready(), "CreateContainer", container(name)), Code.INVALID_ARGUMENT, "container id")


def test_containers_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_CONTAINERS", 2)
    guard = ready()
    for name in "ab":
        call(guard, "CreateContainer", container(name))
    assert refused(call(guard, "CreateContainer", container("c")), Code.INVALID_ARGUMENT, "more are not taken")


@pytest.mark.parametrize("method", sorted(OPEN | CHECKED))
def test_nothing_after_destroy(method):
    guard = ready()
    call(guard, "DestroySandbox")
    assert refused(call(guard, method), Code.FAILED_PRECONDITION, "after DestroySandbox")


@pytest.mark.parametrize("method", sorted(ALWAYS))
def test_reads_that_end_pass_after_destroy(method):
    guard = ready()
    call(guard, "DestroySandbox")
    assert isinstance(call(guard, method), Pass)


def test_destroy_that_failed_has_not_happened():
    guard = ready()
    pending = call(guard, "DestroySandbox", ok=None)
    assert refused(call(guard, "ExecProcess"), Code.FAILED_PRECONDITION)
    pending.settle(False)
    assert isinstance(call(guard, "ExecProcess"), Pass)
    assert isinstance(call(guard, "DestroySandbox"), Pass)


# The policy


def policy(text="package agent_policy"):
    return agent_pb2.SetPolicyRequest(policy=text).SerializeToString()


def test_the_policy_passes_once_before_the_sandbox():
    guard = Guard(PATH)
    first = call(guard, "SetPolicy", policy(), ok=None)
    assert first.payload is None
    assert refused(call(guard, "SetPolicy", policy()), Code.FAILED_PRECONDITION, "once")
    first.settle(False)
    call(guard, "SetPolicy", policy())
    assert refused(call(guard, "SetPolicy", policy()), Code.FAILED_PRECONDITION, "once")
    assert refused(call(ready(), "SetPolicy", policy()), Code.FAILED_PRECONDITION, "before CreateSandbox")


def test_the_policy_is_refused_where_initdata_rules_and_the_text_is_not_told():
    guard = Guard(PATH, "SetPolicy is refused: initdata brought the policy")
    verdict = call(guard, "SetPolicy", policy("secret"))
    assert refused(verdict, Code.PERMISSION_DENIED, "initdata")
    assert "secret" not in verdict.message


# What is looked into


@pytest.mark.parametrize(
    ("method", "payload"),
    [
        ("CreateContainer", container() + b"\x7a\x00"),
        ("CreateContainer", container() + container("d")),
        ("CopyFile", copyfile() + b"\x4a\x00"),
        ("CopyFile", copyfile() + b"\x0a\x01/"),
        ("SetPolicy", policy() + policy()),
        ("CreateSandbox", sandbox() + b"\x7a\x00"),
        ("CreateSandbox", b"\x0a\x05"),
        ("StartContainer", b"\x0a\x05"),
        ("RemoveContainer", b"\x0a\x01\xff"),
    ],
)
def test_unsound_requests_are_refused_and_change_nothing(method, payload):
    guard = Guard(PATH) if method in ("SetPolicy", "CreateSandbox") else ready()
    before = guard.snapshot()
    assert refused(call(guard, method, payload), Code.INVALID_ARGUMENT, "not sound")
    assert guard.snapshot() == before


def test_a_container_without_spec_is_refused():
    payload = agent_pb2.CreateContainerRequest(container_id="c").SerializeToString()
    guard = ready()
    assert refused(call(guard, "CreateContainer", payload), Code.INVALID_ARGUMENT, "OCI spec")
    assert guard.containers == {}


def test_the_container_gets_the_pods_namespace_and_only_allowed_sources_are_made():
    payload = container("c", "/var/lib/kubelet/pods/u/v", "/etc/ssl", f"{SHARED}/x", "/var/lib/kubelet/pods/../../x")
    verdict = call(ready(), "CreateContainer", payload)
    assert namespaces(verdict.payload) == [("network", PATH)]
    assert verdict.folders == (("/var/lib/kubelet/pods", ("u", "v")), (SHARED, ("x",)))


def test_copies_are_held_to_the_shared_folder():
    guard = ready()
    verdict = call(guard, "CopyFile", copyfile("v/f"))
    assert (verdict.payload, verdict.copy) == (None, f"{SHARED}/v/f")
    assert refused(call(guard, "CopyFile", copyfile("../f")), Code.PERMISSION_DENIED, "shared folder")
    assert refused(call(guard, "CopyFile", copyfile("d", stat.S_IFCHR)), Code.PERMISSION_DENIED)
    call(guard, "CopyFile", copyfile("l", stat.S_IFLNK, b"v", 0))
    assert refused(call(guard, "CopyFile", copyfile("l/f")), Code.PERMISSION_DENIED)
    assert refused(
        call(guard, "CopyFile", copyfile("l2", stat.S_IFLNK, b"../../etc/shadow", 0)), Code.PERMISSION_DENIED
    )


@given(st.sampled_from(sorted(CHECKED | {"RemoveContainer"})), st.binary(max_size=60), st.booleans())
def test_no_bytes_make_the_guard_raise(method, payload, made):
    call(ready() if made else Guard(PATH), method, payload)


# Recorded lives and restarts


@pytest.mark.parametrize("life", LIVES)
def test_a_recorded_life_passes_whole(life):
    from peerpods.ttrpc import decode_request

    guard, pending, passed = Guard(PATH), {}, 0
    for is_request, frame in frames(life):
        stream = int.from_bytes(frame[4:8], "big")
        if is_request:
            request = decode_request(frame[10:])
            verdict = guard.check(request.service, request.method, request.payload)
            assert isinstance(verdict, Pass), (request.method, verdict)
            assert (verdict.payload is not None) == (request.method in ("CreateSandbox", "CreateContainer"))
            pending[stream] = verdict
            passed += 1
        elif stream in pending:
            verdict = pending.pop(stream)
            if verdict.settle is not None:
                verdict.settle(decode_response(frame[10:]).ok)
    assert passed > 20
    assert guard.stage is Stage.DESTROYED
    assert guard.containers == {}


def test_a_restart_goes_on_where_the_first_ended():
    guard = Guard(PATH)
    call(guard, "SetPolicy", policy())
    call(guard, "CreateSandbox", sandbox())
    call(guard, "CreateContainer", container("created"))
    call(guard, "CreateContainer", container("started"))
    call(guard, "StartContainer", of("started"))
    call(guard, "CreateContainer", container("under-way"), ok=None)
    call(guard, "CopyFile", copyfile())
    other = Guard(PATH)
    other.restore(json.loads(json.dumps(guard.snapshot())))
    assert other.stage is Stage.READY
    assert sorted(other.containers) == ["created", "started"]
    assert other.shared.total == 1
    assert isinstance(call(other, "StartContainer", of("created")), Pass)
    assert refused(call(other, "StartContainer", of("started")), Code.FAILED_PRECONDITION)
    assert refused(call(other, "CreateSandbox", sandbox()), Code.FAILED_PRECONDITION)


@pytest.mark.parametrize("junk", [{}, {"stage": "x"}, {"stage": "new", "policy_set": 1, "containers": [], "total": 0}])
def test_a_wrong_snapshot_changes_nothing(junk):
    guard = ready()
    with pytest.raises((KeyError, ValueError, TypeError, AttributeError)):
        guard.restore(junk)
    assert guard.stage is Stage.READY
