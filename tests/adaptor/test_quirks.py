"""The shims' quirks, each by name, against a fake cloud, relay and network on a clock."""

from __future__ import annotations

import pytest

from peerpods.adaptor.problems import problem_of, to_status
from peerpods.errors import CloudError, CloudFailure, LinkError, LinkFailure, Refused
from peerpods.model import SandboxId
from peerpods.protocols import relay_pb2 as pb
from tests.adaptor.world import ID, NETNS, Scene

KATA = "io.katacontainers.config.hypervisor."


@pytest.fixture
def scene(tmp_path):
    made = Scene(str(tmp_path))
    made.start()
    yield made
    made.kill()


def report(scene, kind, **fields):
    scene.adaptor.watch.on_report(pb.WatchEvent(kind=kind, sandbox=ID, **fields))


def test_a_whole_life_leaves_nothing(scene):
    path = scene.create().ok()
    assert path == f"/run/peerpod/pods/{ID}/agent.ttrpc"
    scene.begin().ok()
    assert scene.phase() == "running"
    assert scene.node.links[ID] == ("192.0.2.7", 15150)
    scene.end().ok()
    scene.nothing_left()
    assert scene.phase() == "gone"


def test_socket_listens_before_create_and_start_are_answered(scene):
    scene.cloud.create_delay = 5.0
    scene.create().ok()
    assert ID in scene.node.sockets
    start = scene.begin()
    assert ID in scene.node.sockets
    assert not start.done
    scene.advance(6)
    start.ok()


def test_start_is_answered_only_when_the_agent_answers(scene):
    scene.node.link_delay = 3.0
    scene.create().ok()
    start = scene.begin()
    scene.advance(2)
    assert not start.done
    assert scene.phase() == "linking"
    scene.advance(2)
    start.ok()


def test_stop_that_never_comes_after_create_ends_with_the_namespace(scene):
    scene.create().ok()
    scene.node.namespaces.clear()
    scene.advance(5)
    scene.nothing_left()
    assert scene.cloud.calls.count("create") == 0


def test_stop_that_never_comes_when_the_shim_is_killed(scene):
    # kill -9 of the shim: the agent connection closes, StopVM is never sent
    scene.running()
    report(scene, pb.WatchEvent.SHIM_ACTIVE, connection=1)
    scene.node.active[ID], scene.node.idle[ID] = 0, 2.0
    report(scene, pb.WatchEvent.SHIM_GONE, connection=1, active=True)
    scene.advance(1.5)
    assert scene.phase() == "running"
    scene.advance(1)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_a_shim_connection_made_again_within_two_seconds_keeps_the_pod(scene):
    scene.running()
    scene.node.active[ID], scene.node.idle[ID] = 0, 2.0
    report(scene, pb.WatchEvent.SHIM_GONE, connection=1, active=True)
    scene.advance(1)
    report(scene, pb.WatchEvent.SHIM_CONNECTED, connection=2)
    scene.advance(1.5)
    scene.node.active[ID], scene.node.idle[ID] = 1, 0.0
    report(scene, pb.WatchEvent.SHIM_ACTIVE, connection=2)
    scene.advance(10)
    assert scene.phase() == "running"


def test_a_silent_connection_of_runtime_rs_counts_neither_way(scene):
    scene.running()
    report(scene, pb.WatchEvent.SHIM_CONNECTED, connection=1)
    report(scene, pb.WatchEvent.SHIM_GONE, connection=1, active=False)
    scene.advance(10)
    assert scene.phase() == "running"


def test_connections_closed_by_the_relay_itself_end_no_pod(scene):
    scene.running()
    scene.node.active[ID], scene.node.idle[ID] = 0, 9.0
    report(scene, pb.WatchEvent.SHIM_GONE, connection=1, active=True, by_relay=True)
    scene.advance(10)
    assert scene.phase() == "running"


def test_stop_that_never_comes_when_the_network_namespace_is_gone(scene):
    scene.running()
    scene.node.namespaces.clear()
    scene.advance(5)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_one_second_stop_is_answered_at_once_and_deletes_in_the_background(scene):
    scene.running()
    scene.cloud.delete_delay = 90.0
    scene.end().ok()
    assert scene.phase() == "stopping"
    scene.advance(89, 1)
    assert scene.phase() == "stopping"
    scene.advance(3)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_a_cancelled_or_repeated_stop_does_not_abort_the_deletion(scene):
    scene.running()
    scene.cloud.delete_delay = 20.0
    for _ in range(3):
        stop = scene.end()
        stop.drop()
    scene.advance(5)
    scene.end().ok()
    scene.advance(20)
    scene.nothing_left()
    assert scene.cloud.calls.count("delete") == 1


def test_stop_is_retried_until_the_cloud_says_gone(scene):
    scene.running()
    scene.cloud.delete_errors = [CloudError("internal error") for _ in range(5)]
    scene.end().ok()
    assert scene.phase() == "stopping"
    assert "internal error" in scene.record().trouble
    scene.advance(60)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_stop_of_an_unknown_sandbox_is_success(scene):
    scene.end("b" * 64).ok()
    assert SandboxId("b" * 64) not in scene.adaptor.runner.sandboxes


def test_stop_of_a_sandbox_the_journal_lost_still_deletes_its_vm(tmp_path, scene):
    scene.running()
    scene.kill()
    for file in tmp_path.iterdir():
        file.unlink()
    scene.start()
    scene.end().ok()
    assert not scene.cloud.instances


@pytest.mark.parametrize("during", ["create", "address", "tunnel", "link"])
def test_dropped_connection_with_start_in_flight_is_a_cancel(scene, during):
    scene.cloud.create_delay = 3.0 if during == "create" else 0.0
    scene.cloud.address_delay = None if during == "address" else 0.0
    scene.node.link_delay = None if during == "link" else 0.0
    scene.create().ok()
    scene.node.hang = {"set_up"} if during == "tunnel" else set()
    start = scene.begin()
    assert not start.done
    start.drop()
    scene.advance(20)
    assert scene.phase() == "gone"
    scene.nothing_left()
    assert scene.cloud.created == 1


def test_dropped_connection_while_create_is_in_flight_finds_the_late_instance_by_token(scene):
    # The answer comes after the deletion has given up waiting for it.
    scene.cloud.create_delay = 15.0
    scene.create().ok()
    scene.begin().drop()
    assert scene.phase() == "stopping"
    scene.advance(60)
    assert scene.phase() == "gone"
    scene.nothing_left()
    assert scene.cloud.created == 1


def test_a_sandbox_is_not_called_gone_while_its_create_is_in_flight(scene):
    scene.cloud.create_delay = 3.0
    scene.create().ok()
    scene.begin().drop()
    while scene.phase() != "gone":
        scene.advance(0.5)
        assert scene.clock.seconds() < 30
    assert scene.cloud.created == 1
    scene.nothing_left()


def test_an_instance_that_appears_a_minute_late_is_swept(scene):
    scene.cloud.create_delay = 70.0
    scene.create().ok()
    scene.begin().drop()
    scene.advance(200)
    assert scene.cloud.created == 1
    scene.nothing_left()


def test_dropped_connection_with_create_in_flight_is_a_cancel(scene):
    scene.node.hang = {"open"}
    create = scene.create()
    assert not create.done
    create.drop()
    scene.advance(1)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_create_while_the_relay_is_away_is_refused_and_leaves_nothing(scene):
    scene.node.away = True
    assert "relay does not answer" in str(scene.create().error())
    scene.node.away = False
    scene.advance(5)
    scene.nothing_left()


def test_an_idle_connection_that_closes_is_no_cancel(scene):
    # Only calls in flight are tied to a connection; a finished call has nothing to cancel.
    create = scene.create()
    create.ok()
    create.drop()
    start = scene.begin()
    start.ok()
    start.drop()
    scene.advance(10)
    assert scene.phase() == "running"


def test_second_create_with_an_equal_request_gets_the_same_answer(scene):
    first = scene.create().ok()
    assert scene.create().ok() == first
    scene.begin().ok()
    assert scene.create().ok() == first
    assert scene.phase() == "running"


def test_second_create_with_another_request_is_refused(scene):
    scene.create().ok()
    error = scene.create(**{KATA + "default_vcpus": "3"}).error()
    assert to_status(error).code == 6
    assert scene.phase() == "prepared"


def test_second_start_joins_and_one_lost_caller_does_not_end_the_other(scene):
    scene.cloud.create_delay = 3.0
    scene.create().ok()
    first, second = scene.begin(), scene.begin()
    first.drop()
    scene.advance(4)
    second.ok()
    assert scene.cloud.created == 1


def test_start_of_an_unknown_stopping_or_ended_sandbox_is_refused(scene):
    assert to_status(scene.begin().error()).code == 5
    scene.running()
    scene.cloud.delete_delay = 5.0
    scene.end().ok()
    assert to_status(scene.begin().error()).code == 9
    scene.advance(6)
    assert scene.phase() == "gone"
    assert to_status(scene.begin().error()).code == 9


def test_a_failed_start_names_phase_and_cloud_and_the_stop_that_follows_is_fine(scene):
    scene.cloud.create_errors = [CloudError("no capacity for m1.small in zone a", kind=CloudFailure.QUOTA)]
    scene.create().ok()
    error = scene.begin().error()
    status = to_status(error)
    assert status.code == 8
    assert "launch" in status.message
    assert "no capacity for m1.small in zone a" in status.message
    scene.end().ok()  # one millisecond later
    scene.advance(30)
    scene.nothing_left()


def test_a_passing_fault_is_tried_again(scene):
    scene.cloud.create_errors = [CloudError("throttled"), CloudError("throttled")]
    scene.create().ok()
    start = scene.begin()
    scene.advance(4)
    start.ok()
    assert len({request.token for request in scene.cloud.requests}) == 1


def test_a_partial_instance_with_an_error_is_deleted(scene):
    scene.cloud.partial_errors = [CloudError("interface could not be attached", kind=CloudFailure.INVALID)]
    scene.create().ok()
    assert "interface" in str(scene.begin().error())
    scene.advance(30)
    scene.nothing_left()
    assert scene.cloud.created == 1


def test_start_without_an_address_fails_and_deletes(scene):
    scene.cloud.addresses = ()
    scene.create().ok()
    assert "no address" in str(scene.begin().error())
    scene.advance(5)
    scene.nothing_left()


def test_kubelets_240_seconds_leave_time_for_the_error(scene):
    # The wire says 599 s, kubelet kills the shim at 240 s: the default gives up before that, with the reason.
    scene.cloud.address_delay = None
    scene.cloud.console_text = b"Booting\r\n\x1b[31mKernel panic\x1b[0m - not syncing\r\n"
    scene.create().ok()
    start = scene.begin(remaining=599.9998)
    scene.advance(199, 1)
    assert not start.done
    scene.advance(2)
    status = to_status(start.error())
    assert status.code == 4
    assert "phase address" in status.message
    assert status.message.endswith("Booting\nKernel panic - not syncing")
    scene.advance(5)
    scene.nothing_left()


def test_the_callers_deadline_less_ten_seconds_bounds_the_start(scene):
    scene.cloud.address_delay = None
    scene.create().ok()
    start = scene.begin(remaining=60.0)
    scene.advance(49, 1)
    assert not start.done
    scene.advance(2)
    assert to_status(start.error()).code == 4


def test_the_ten_thousand_seconds_of_runtime_rs_are_bounded_too(scene):
    scene.cloud.address_delay = None
    scene.create().ok()
    start = scene.begin(remaining=10_000.0)
    scene.advance(201, 1)
    assert to_status(start.error()).code == 4


def test_the_console_has_at_most_twenty_lines(scene):
    scene.cloud.console_text = b"".join(b"line %d\n" % number for number in range(100))
    scene.node.link_errors = [LinkError("nobody listens", kind=LinkFailure.REFUSED)]
    scene.create().ok()
    text = str(scene.begin().error())
    assert text.splitlines()[1:] == [f"line {number}" for number in range(80, 100)]
    assert "nobody listens" in text


@pytest.mark.parametrize(
    ("sent", "vcpus"), [("", 0), ("0", 0), ("2", 2), ("1.5", 2), ("0.25", 1), ("x", 0), ("-3", 0), ("nan", 0)]
)
def test_empty_and_fractional_sizes(scene, sent, vcpus):
    scene.create(**{KATA + "default_vcpus": sent, KATA + "default_memory": "356", KATA + "image": "img"}).ok()
    spec = scene.record().spec
    assert (spec.vcpus, spec.memory_mib, spec.image) == (vcpus, 356, "img")


def test_crio_names(scene):
    name = "k8s_nginx-7c5_prod_8f2f9a4e-1111-2222-3333-444455556666_0"
    scene.create(**{"io.kubernetes.cri.sandbox-name": name}).ok()
    assert scene.record().pod == "nginx-7c5"


@pytest.mark.parametrize("key", ["io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace"])
def test_missing_annotations_are_named(scene, key):
    error = scene.create(**{key: ""}).error()
    assert isinstance(error, Refused)
    assert key in str(error)
    assert problem_of(error).code == 3
    assert not scene.adaptor.runner.sandboxes


@pytest.mark.parametrize("bad", ["", "a/b", "..", "../x", "a..b", "/etc", "x" * 100, "a\0b", "a b"])
def test_ids_that_cannot_be_a_folder_are_refused(scene, bad):
    for call in (scene.create(bad), scene.begin(bad) if len(bad) < 100 else scene.create(bad)):
        assert problem_of(call.error()).code == 3
    assert not scene.adaptor.runner.sandboxes


def test_a_namespace_that_does_not_exist_is_refused_before_anything_is_made(scene):
    error = scene.create(netns="/run/netns/none").error()
    assert "/run/netns/none" in str(error)
    assert problem_of(scene.create(netns="").error()).code == 3
    scene.nothing_left()


def test_user_data_that_is_too_large_is_refused_before_any_cloud_call(scene):
    scene.cloud.max_user_data = 50
    error = scene.create(**{KATA + "cc_init_data": "x" * 100}).error()
    assert "user data" in str(error)
    assert "create" not in scene.cloud.calls
    scene.nothing_left()


def test_initdata_reaches_the_vm_and_no_record(scene):
    scene.create(**{KATA + "cc_init_data": 'algorithm = "sha384"'}).ok()
    scene.begin().ok()
    assert b'algorithm = "sha384"' in scene.cloud.requests[0].user_data
    assert "sha384" not in repr(scene.record())
    assert "SECRET" not in repr(scene.record())


def test_two_sandboxes_never_share_a_network_id(scene):
    for number in range(5):
        scene.create(f"{number}" * 64).ok()
    vnis = [record.vni for record in scene.adaptor.runner.living()]
    assert len(set(vnis)) == 5


def test_a_journal_that_cannot_be_written_refuses_create_and_leaves_nothing(scene):
    from peerpods.errors import LocalFailure

    scene.journal_errors = [LocalFailure("the journal cannot be written: disk full")]
    error = scene.create().error()
    assert "disk full" in str(error)
    scene.nothing_left()
    assert not scene.node.log
    scene.create().ok()


def test_a_journal_that_cannot_be_written_refuses_start_and_the_next_one_works(scene):
    from peerpods.errors import LocalFailure

    scene.create().ok()
    scene.journal_errors = [LocalFailure("the journal cannot be written: disk full")]
    assert "disk full" in str(scene.begin().error())
    assert scene.phase() == "prepared"
    scene.begin().ok()


def test_a_stop_that_cannot_be_written_is_told_and_done_when_there_is_room(scene):
    from peerpods.errors import LocalFailure

    scene.running()
    scene.journal_errors = [LocalFailure("the journal cannot be written: disk full") for _ in range(3)]
    assert "disk full" in str(scene.end().error())
    assert scene.phase() == "running"
    assert "disk full" in str(scene.end().error())
    scene.advance(10)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_link_lost_ends_the_pod_and_closes_its_socket_first(scene):
    scene.running()
    scene.cloud.delete_delay = 30.0
    scene.node.links.clear()
    report(scene, pb.WatchEvent.LINK_DOWN, message="connection reset")
    assert ID not in scene.node.sockets
    assert "connection reset" in scene.record().last_error
    scene.advance(31)
    scene.nothing_left()


def test_a_tunnel_that_cannot_be_planned_fails_the_start_and_leaves_nothing(scene):
    scene.create().ok()
    scene.node.hang.add("plan")
    call = scene.begin()
    scene.advance(5)
    assert "address family" in str(call.error())
    scene.advance(60)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_an_instance_that_stops_by_itself_ends_the_pod(scene):
    import attrs

    from peerpods.clouds.interface import InstanceEvent
    from peerpods.model import InstanceState

    scene.running()
    vm = attrs.evolve(scene.cloud.instances["i-1"], state=InstanceState.STOPPED)
    scene.adaptor.watch.on_instance(InstanceEvent(instance=vm, reason="reclaimed"))
    assert "reclaimed" in scene.record().last_error
    scene.nothing_left()


def test_a_relay_that_restarts_while_a_pod_runs_ends_it(scene):
    scene.running()
    scene.node.sockets.clear()
    scene.node.links.clear()
    scene.sync()
    assert scene.phase() == "gone"
    assert "relay no longer has" in scene.record().last_error
    scene.nothing_left()


def test_a_relay_that_restarts_before_start_gets_the_socket_again(scene):
    scene.create().ok()
    scene.node.sockets.clear()
    scene.sync()
    assert ID in scene.node.sockets
    scene.begin().ok()


def test_a_relay_that_restarts_during_the_link_gets_the_sandbox_again(scene):
    scene.create().ok()
    scene.node.sockets.clear()
    start = scene.begin()
    scene.advance(1)
    start.ok()


def test_a_relay_that_is_away_does_not_stop_a_deletion(scene):
    scene.running()
    scene.node.away = True
    scene.end().ok()
    scene.advance(3)
    assert not scene.cloud.instances
    assert scene.phase() == "stopping"
    scene.node.away = False
    scene.advance(30)
    assert scene.phase() == "gone"
    scene.nothing_left()


def test_kill_and_restart_leave_a_running_pod_untouched(scene):
    scene.running()
    before = scene.leftovers()
    calls = len(scene.cloud.calls)
    scene.kill()
    scene.start()
    scene.advance(5)
    assert scene.phase() == "running"
    assert scene.leftovers() == before
    assert set(scene.cloud.calls[calls:]) <= {"list", "find"}
    scene.begin().ok()
    scene.end().ok()
    scene.nothing_left()


def test_keep_failed_keeps_the_vm_and_shows_it(tmp_path):
    scene = Scene(str(tmp_path), keep_failed=60.0)
    scene.start()
    scene.node.link_errors = [LinkError("nobody listens", kind=LinkFailure.REFUSED)]
    scene.create().ok()
    assert "nobody listens" in str(scene.begin().error())
    scene.end().ok()
    scene.advance(50)
    assert scene.phase() == "failed"
    assert scene.cloud.instances
    assert ID not in scene.node.sockets
    scene.kill()
    scene.start()
    assert scene.phase() == "failed"
    scene.advance(15)
    assert scene.phase() == "gone"
    scene.nothing_left()
    scene.kill()


def test_a_strangers_instance_is_never_touched(scene):
    from peerpods.clouds.interface import TAG_CLUSTER, TAG_NODE, TAG_SANDBOX
    from peerpods.model import Instance

    ours = {TAG_CLUSTER: "lab", TAG_NODE: "node-1"}
    strangers = [
        Instance(id="s-1", name="x"),
        Instance(id="s-2", name="x", token="q-1", tags=tuple({**ours, TAG_NODE: "node-2", TAG_SANDBOX: "q"}.items())),
        Instance(id="s-3", name="x", token="q-1", tags=tuple({**ours, TAG_CLUSTER: "b", TAG_SANDBOX: "q"}.items())),
        Instance(id="s-4", name="x", token="other", tags=tuple({**ours, TAG_SANDBOX: "q"}.items())),
        Instance(id="s-5", name="x", token="q-1", tags=tuple(ours.items())),
    ]
    orphan = Instance(id="o-1", name="x", token="q-1", tags=tuple({**ours, TAG_SANDBOX: "q"}.items()))
    scene.running()
    for instance in [*strangers, orphan]:
        scene.cloud.instances[instance.id] = instance
    scene.advance(130)
    assert set(scene.cloud.instances) == {"i-1", "s-1", "s-2", "s-3", "s-4", "s-5"}
    assert NETNS in scene.node.namespaces
