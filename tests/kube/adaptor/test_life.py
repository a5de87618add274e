"""Lives of a sandbox in a cluster: PeerPod and events, on a Clock, with an API server that may be away."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml

from peerpods.adaptor.admin import Admin
from peerpods.adaptor.executor import Place
from peerpods.adaptor.kube.rights import missing_rights, rules
from peerpods.adaptor.problems import CallFailed
from peerpods.aio import spawn
from peerpods.cli.show import inspect_object
from peerpods.clouds.interface import TAG_SANDBOX, TAG_TOKEN
from peerpods.errors import CloudError, CloudFailure, LinkError, LinkFailure, Refused
from peerpods.kube.objects.names import FINALIZER, NODE_LABEL, SANDBOX_ANNOTATION
from peerpods.kube.objects.resources import NODES, PEER_PODS, PODS
from peerpods.model import Instance
from peerpods.obs.metrics import REGISTRY
from peerpods.protocols import admin_pb2
from tests.adaptor.world import ID, Scene
from tests.kube.adaptor.fake import NODE, FakeServer, play_on

NAME = f"web-resource-{ID[:8]}"


def start(scene: Scene, sandbox: str = ID) -> None:
    """Create and start, with the time that the API calls take."""
    create = scene.create(sandbox)
    scene.advance(1)
    create.ok()
    call = scene.begin(sandbox)
    scene.advance(1)
    call.ok()


def the_peerpod(server: FakeServer) -> dict:
    (obj,) = server.peerpods()
    return obj


def test_a_life_is_written_before_during_and_after(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    obj = the_peerpod(server)
    assert obj["metadata"]["name"] == NAME
    assert obj["metadata"]["namespace"] == "lab"
    assert obj["metadata"]["finalizers"] == [FINALIZER]
    assert obj["metadata"]["annotations"] == {SANDBOX_ANNOTATION: ID}
    assert obj["metadata"]["labels"][NODE_LABEL] == NODE
    pod = server.objects["pods", "lab", "web"]
    (owner,) = obj["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Pod", pod["metadata"]["uid"], True)
    assert obj["spec"]["instanceID"] == "i-1"
    assert obj["spec"]["token"] == f"{ID}-1"
    assert obj["status"]["phase"] == "Running"
    assert obj["status"]["addresses"] == ["192.0.2.7"]
    (ready,) = obj["status"]["conditions"]
    assert (ready["type"], ready["status"]) == ("Ready", "True")
    assert server.log.index("create peerpods") < len(server.log)
    assert scene.record().pod_uid == pod["metadata"]["uid"]
    assert server.reasons() == ["PeerPodLaunching", "PeerPodReady"]
    assert "i-1" in server.notes("PeerPodReady")[0]
    assert all(regarding["uid"] == pod["metadata"]["uid"] for _, _, regarding, _ in server.events)
    scene.end().ok()
    scene.advance(5)
    assert not server.peerpods()
    assert all(one["metadata"]["finalizers"] == [FINALIZER] for one in server.ever[:-1])
    scene.nothing_left()


def test_the_object_is_there_before_the_cloud_is_called(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    seen = []
    original = type(scene.adaptor.world.provider).create

    async def create(self, request):
        seen.extend(obj["spec"]["instanceID"] for obj in server.peerpods())
        return await original(self, request)

    scene.adaptor.world.provider.create = create.__get__(scene.adaptor.world.provider)
    start(scene)
    assert seen == [""]


def test_an_api_server_that_is_away_for_the_whole_life_is_caught_up_with(tmp_path):
    scene, server = play_on(tmp_path)
    server.away = True
    scene.start()
    start(scene)
    assert not server.peerpods()
    server.come_back()
    scene.advance(40)
    obj = the_peerpod(server)
    assert obj["status"]["phase"] == "Running"
    assert obj["metadata"]["ownerReferences"][0]["uid"] == server.objects["pods", "lab", "web"]["metadata"]["uid"]
    assert server.reasons()[:2] == ["PeerPodLaunching", "PeerPodReady"]
    assert all("uid" in regarding for _, _, regarding, _ in server.events)
    server.away = True
    scene.end().ok()
    scene.advance(60)
    scene.nothing_left()
    assert server.peerpods()
    server.come_back()
    scene.advance(40)
    assert not server.peerpods()


def test_an_api_server_that_hangs_costs_a_start_two_seconds(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    server.hanging = True
    create = scene.create()
    scene.advance(1.5)
    assert not create.done
    scene.advance(1)
    create.ok()
    call = scene.begin()
    scene.advance(1.5)
    assert not call.done
    scene.advance(1)
    call.ok()


def test_away_from_start_to_end_leaves_no_object(tmp_path):
    scene, server = play_on(tmp_path)
    server.away = True
    scene.start()
    start(scene)
    scene.end().ok()
    scene.advance(30)
    scene.nothing_left()
    server.come_back()
    scene.advance(400)
    assert not server.peerpods()


def test_a_namespace_that_is_being_deleted_gets_no_vm(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    server.terminating.add("lab")
    scene.create()
    scene.advance(1)
    call = scene.begin()
    scene.advance(1)
    assert "namespace lab is being deleted" in str(call.error())
    scene.advance(30)
    assert not scene.cloud.requests
    scene.nothing_left()


def test_without_the_crd_everything_else_works(tmp_path):
    scene, server = play_on(tmp_path)
    server.no_crd = True
    scene.start()
    start(scene)
    assert server.reasons() == ["PeerPodLaunching", "PeerPodReady"]
    server.no_crd = False
    scene.advance(310)
    assert the_peerpod(server)["status"]["phase"] == "Running"


def test_an_api_server_that_does_not_know_the_kind_for_a_moment_leaves_no_object(tmp_path):
    """One that has just started answers 404 for a custom resource until it has read its CRDs."""
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    scene.kill()
    server.watchers.clear()
    server.no_crd = True
    scene.start()
    scene.advance(1)
    scene.end().ok()
    scene.advance(5)
    assert scene.phase() == "gone"
    server.no_crd = False
    assert server.peerpods()
    scene.advance(40)
    assert not server.peerpods()


def test_an_object_that_somebody_spoilt_is_put_right(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    obj = json.loads(json.dumps(the_peerpod(server)))
    obj["metadata"]["finalizers"] = []
    obj["metadata"]["ownerReferences"] = []
    obj["spec"]["instanceID"] = "another"
    obj["status"] = {"phase": "Failed"}
    server.put(PEER_PODS, obj, "lab")
    scene.advance(310)
    found = the_peerpod(server)
    assert found["metadata"]["finalizers"] == [FINALIZER]
    assert len(found["metadata"]["ownerReferences"]) == 1
    assert found["spec"]["instanceID"] == "i-1"
    assert found["status"]["phase"] == "Running"


def test_an_object_that_was_removed_with_its_vm_ends_the_sandbox_and_is_not_made_again(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)

    async def never() -> None: ...

    scene.adaptor.watch.sweep = never  # the look at the cloud is the object's own matter here
    server.drop(PEER_PODS, NAME, "lab")
    scene.cloud.instances.clear()
    made = server.log.count("create peerpods")
    scene.advance(310)
    assert scene.phase() == "gone"
    assert server.log.count("create peerpods") == made
    assert not server.peerpods()


def test_an_object_that_was_removed_alone_is_made_again(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    server.drop(PEER_PODS, NAME, "lab")
    scene.advance(310)
    assert scene.phase() == "running"
    assert the_peerpod(server)["spec"]["instanceID"] == "i-1"


def test_a_stale_owner_does_not_make_a_release_fail(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    obj = json.loads(json.dumps(the_peerpod(server)))
    obj["metadata"]["finalizers"] = ["another/finalizer", FINALIZER]
    server.put(PEER_PODS, obj, "lab")
    scene.end().ok()
    scene.advance(10)
    found = the_peerpod(server)
    assert found["metadata"]["finalizers"] == ["another/finalizer"]
    assert found["metadata"]["deletionTimestamp"]


STRAY = "b" * 64


def stray(server: FakeServer, scene: Scene, **spec) -> None:
    facts = {"cloudProvider": "fake", "instanceID": "", "nodeName": NODE, "clusterName": "lab", **spec}
    meta = {
        "name": f"old-resource-{STRAY[:8]}",
        "annotations": {SANDBOX_ANNOTATION: STRAY},
        "labels": {NODE_LABEL: NODE},
        "finalizers": [FINALIZER],
    }
    server.put(PEER_PODS, {"metadata": meta, "spec": facts}, "lab")


def test_an_object_without_a_record_and_without_an_instance_is_released(tmp_path):
    scene, server = play_on(tmp_path)
    stray(server, scene)
    scene.start()
    scene.advance(30)
    assert server.peerpods()  # too young: its record might be about to be written
    scene.advance(60)
    assert not server.peerpods()


@pytest.mark.parametrize("spec", [{"clusterName": "other"}, {"cloudProvider": "other"}, {"nodeName": "other"}])
def test_another_adaptors_object_is_left_alone(tmp_path, spec):
    scene, server = play_on(tmp_path)
    stray(server, scene, **spec)
    scene.start()
    scene.advance(700)
    assert server.peerpods()


def test_an_object_without_a_record_waits_for_its_instance_to_go(tmp_path):
    scene, server = play_on(tmp_path)
    token = f"{STRAY}-1"
    tags = {**Place(node=NODE, cluster="lab").tags(), TAG_SANDBOX: STRAY, TAG_TOKEN: token}
    scene.cloud.instances["i-9"] = Instance(id="i-9", name="old", token=token, tags=tuple(sorted(tags.items())))
    scene.cloud.delete_errors = [CloudError("busy")] * 4
    stray(server, scene)
    scene.start()
    scene.advance(200, step=5)
    assert "i-9" in scene.cloud.instances
    assert server.peerpods()
    scene.advance(200, step=5)
    assert not scene.cloud.instances
    assert not server.peerpods()


# Events


def test_a_cloud_error_is_an_event_at_once_with_the_clouds_words(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    words = CloudError("no quota for t3.large", kind=CloudFailure.QUOTA, remedy="ask for more")
    scene.cloud.create_errors = [words]
    scene.create()
    scene.advance(1)
    begun = scene.clock.seconds()
    scene.begin()
    scene.advance(5)
    (text,) = server.notes("PeerPodFailed")
    assert "no quota for t3.large (ask for more)" in text
    assert next(when - begun for when, reason, _, _ in server.events if reason == "PeerPodFailed") <= 5
    scene.advance(30)
    assert not server.peerpods()


def test_each_try_that_failed_is_told_before_the_next(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    scene.cloud.create_errors = [CloudError("throttled")] * 2
    scene.create()
    scene.advance(1)
    scene.begin()
    scene.advance(0.5)
    assert server.notes("PeerPodFailed") == ["throttled; trying again (2 of 4)"]
    scene.advance(20)
    assert scene.phase() == "running"


def test_a_slow_phase_is_told_once(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    scene.cloud.create_delay = 100
    scene.node.link_delay = 45
    scene.create()
    scene.advance(1)
    call = scene.begin()
    scene.advance(29)
    assert not server.notes("PeerPodSlow")
    scene.advance(121)
    call.ok()
    first, second = server.notes("PeerPodSlow")
    assert "asking the cloud for the VM after 30 s (phase launching)" in first
    assert "waiting for the agent in the VM after 30 s (phase linking, VM i-1)" in second


def test_a_deletion_that_does_not_work_is_told_and_a_slow_one_is_not(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    scene.cloud.delete_delay = 100
    scene.end().ok()
    scene.advance(110)
    assert not server.notes("PeerPodSlow")
    other, trouble = play_on(tmp_path / "other")
    other.start()
    start(other)
    other.cloud.delete_errors = [CloudError("dependency violation")] * 50
    other.end().ok()
    other.advance(100)
    (text,) = trouble.notes("PeerPodSlow")
    assert "deleting the VM" in text
    assert "dependency violation" in text


def test_slow_after_0_says_nothing(tmp_path):
    scene, server = play_on(tmp_path, slow_after=0.0)
    scene.start()
    scene.cloud.create_delay = 100
    scene.create()
    scene.advance(1)
    scene.begin()
    scene.advance(120)
    assert not server.notes("PeerPodSlow")


def test_a_lost_vm_is_told(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    scene.cloud.instances.clear()
    scene.advance(70)
    (text,) = server.notes("PeerPodLost")
    assert "the instance stopped or disappeared" in text


def test_a_start_that_is_given_up_is_told(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    scene.node.link_errors = [LinkError("TLS alert", kind=LinkFailure.TLS)]
    scene.create()
    scene.advance(1)
    scene.begin()
    scene.advance(2)
    assert "TLS alert" in server.notes("PeerPodFailed")[0]


# The limit


def test_the_node_s_capacity_is_the_limit_and_gone_pods_make_room(tmp_path):
    scene, server = play_on(tmp_path, limit_per_node=5)
    server.node("1")
    scene.start()
    start(scene)
    server.pod("second")
    call = scene.create("c" * 64, **{"io.kubernetes.cri.sandbox-name": "second"})
    scene.advance(1)
    error = call.error()
    assert isinstance(error, Refused)
    assert "limit is 1" in str(error)
    assert "PeerPodConfig" in str(error)
    assert "limit is 1" in server.notes("PeerPodLimitReached")[0]
    (regarding,) = [one for _, reason, one, _ in server.events if reason == "PeerPodLimitReached"]
    assert regarding["uid"] == server.objects["pods", "lab", "second"]["metadata"]["uid"]
    scene.cloud.delete_delay = 100
    scene.end().ok()
    call = scene.create("d" * 64)
    scene.advance(1)
    call.ok()


def test_the_flag_counts_where_the_node_says_nothing(tmp_path):
    scene, server = play_on(tmp_path, limit_per_node=0)
    scene.start()
    call = scene.create()
    scene.advance(1)
    assert "--limit-per-node" in str(call.error())
    server.node("3")
    scene.create().deferred.addErrback(lambda f: None)
    scene.advance(1)
    assert scene.phase() == "prepared"


def test_a_kubelet_that_restarts_does_not_stop_the_node(tmp_path):
    scene, server = play_on(tmp_path)
    server.node("2")
    scene.start()
    server.node("0")
    call = scene.create()
    scene.advance(1)
    call.ok()
    scene.advance(70)
    call = scene.create("e" * 64)
    scene.advance(1)
    assert "limit is 0" in str(call.error())


def test_the_adaptor_advertises_only_when_told_to(tmp_path):
    scene, server = play_on(tmp_path, limit_per_node=7, advertise_capacity=True)
    scene.start()
    scene.advance(1)
    capacity = server.objects["nodes", "", NODE]["status"]["capacity"]
    assert capacity == {"cpu": "4", "kata.peerpods.io/vm": "7"}
    server.node("0")
    scene.advance(1)
    assert server.objects["nodes", "", NODE]["status"]["capacity"]["kata.peerpods.io/vm"] == "7"
    other, quiet = play_on(tmp_path / "other", limit_per_node=7)
    other.start()
    other.advance(1)
    assert "patch nodes/status" not in quiet.log


# Pods that are gone


def test_a_pod_that_was_deleted_ends_its_sandbox_after_a_grace(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    server.drop(PODS, "web", "lab")
    scene.advance(19)
    assert scene.phase() == "running"
    scene.advance(5)
    assert scene.phase() == "gone"
    assert "the pod is gone from the cluster" in scene.record().history[-2].reason


def test_a_pod_of_the_same_name_is_another_pod(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    server.drop(PODS, "web", "lab")
    server.pod()
    scene.advance(35)
    assert scene.phase() == "gone"


def test_an_api_server_that_is_away_never_ends_a_pod(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    server.drop(PODS, "web", "lab")
    server.away = True
    scene.advance(600)
    assert scene.phase() == "running"
    server.come_back()
    scene.advance(35)
    assert scene.phase() == "gone"


def test_a_deletion_that_nobody_saw_is_found_at_the_next_start(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    start(scene)
    scene.kill()
    server.watchers.clear()
    server.drop(PODS, "web", "lab")
    scene.start()
    scene.advance(19)
    assert scene.phase() == "running"
    scene.advance(5)
    assert scene.phase() == "gone"


def test_a_sandbox_whose_pod_the_cluster_never_had_goes_on(tmp_path):
    scene, server = play_on(tmp_path)
    server.drop(PODS, "web", "lab")
    scene.start()
    start(scene)
    scene.advance(700)
    assert scene.phase() == "running"
    assert "ownerReferences" not in the_peerpod(server)["metadata"]


def test_a_static_pod_s_copy_does_not_end_it(tmp_path):
    scene, server = play_on(tmp_path)
    server.drop(PODS, "web", "lab")
    server.pod(annotations={"kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h"})
    scene.start()
    start(scene)
    server.drop(PODS, "web", "lab")
    scene.advance(100)
    assert scene.phase() == "running"


def test_crio_says_the_uid_itself(tmp_path):
    scene, server = play_on(tmp_path)
    server.away = True
    scene.start()
    scene.create(**{"io.kubernetes.cri.sandbox-name": "k8s_web_lab_the-uid_0"})
    scene.advance(3)
    assert scene.record().pod_uid == "the-uid"


# Pull secrets


def config(**registries: str) -> dict[str, str]:
    auths = {host: {"auth": base64.b64encode(pair.encode()).decode()} for host, pair in registries.items()}
    return {".dockerconfigjson": base64.b64encode(json.dumps({"auths": auths}).encode()).decode()}


def auth_of(scene: Scene) -> str:
    found: list = []
    scene.adaptor.journal.secrets(scene.record().id).addCallback(found.append)
    return found[0].auth_json


def created(scene: Scene, server: FakeServer, *secrets: str):
    server.pod(secrets=secrets)
    scene.start()
    call = scene.create()
    scene.advance(8)
    return call


def test_pull_secrets_reach_the_journal_and_leave_it(tmp_path):
    scene, server = play_on(tmp_path)
    server.secret("one", config(**{"a.example": "u:1", "b.example": "u:1"}))
    server.secret("two", config(**{"a.example": "u:2", "c.example": "u:2"}))
    created(scene, server, "one", "two").ok()
    found = {host: base64.b64decode(e["auth"]).decode() for host, e in json.loads(auth_of(scene))["auths"].items()}
    assert found == {"a.example": "u:1", "b.example": "u:1", "c.example": "u:2"}
    assert not server.notes("PeerPodPullSecret")
    scene.end().ok()
    scene.advance(20)
    scene.nothing_left()


WRONG = {
    "type": (lambda s: s.secret("bad", {"x": "eA=="}, "Opaque"), "it has type Opaque"),
    "base64": (lambda s: s.secret("bad", {".dockerconfigjson": "%%%"}), "is not base64"),
    "json": (lambda s: s.secret("bad", {".dockerconfigjson": base64.b64encode(b"{").decode()}), "not a JSON object"),
    "missing": (lambda s: None, "does not exist in namespace lab"),
    "forbidden": (lambda s: s.forbidden.add("bad"), "may not read pull secret bad"),
    "large": (lambda s: s.secret("bad", config(**{"l.example": "u:" + "p" * 70000})), "more than the 65536"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_secret_that_cannot_be_used_is_told_and_the_rest_is_used(tmp_path, what):
    scene, server = play_on(tmp_path)
    make, words = WRONG[what]
    make(server)
    server.secret("good", config(**{"a.example": "u:1"}))
    created(scene, server, "bad", "good").ok()
    (text,) = server.notes("PeerPodPullSecret")
    assert "bad" in text
    assert words in text
    assert list(json.loads(auth_of(scene))["auths"]) == ["a.example"]


def test_the_right_may_come_a_moment_late(tmp_path):
    scene, server = play_on(tmp_path)
    server.secret("late", config(**{"a.example": "u:1"}))
    server.forbidden.add("late")
    server.pod(secrets=("late",))
    scene.start()
    call = scene.create()
    scene.advance(3)
    assert not call.done
    server.forbidden.clear()
    scene.advance(1)
    call.ok()
    assert not server.notes("PeerPodPullSecret")
    assert "a.example" in auth_of(scene)


def test_pull_secrets_that_nobody_could_ask_for_are_told(tmp_path):
    scene, server = play_on(tmp_path)
    server.pod(secrets=("one",))
    scene.start()
    server.away = True
    scene.create()
    scene.advance(3)
    (text,) = server.notes("PeerPodPullSecret")
    assert "pull secrets one could not be read" in text
    assert scene.phase() == "prepared"


def test_user_data_that_is_too_large_is_refused_with_events(tmp_path):
    scene, server = play_on(tmp_path)
    scene.cloud.max_user_data = 250

    class Compose:
        def compose(self, sandbox, secrets):
            return (secrets.keys + secrets.auth_json + "x" * 200).encode()

    server.secret("one", config(**{"a.example": "u:1"}))
    server.pod(secrets=("one",))
    scene.start()
    object.__setattr__(scene.adaptor.world, "user_data", Compose())
    call = scene.create()
    scene.advance(2)
    assert "the user data of sandbox" in str(call.error())
    assert "provider fake takes 250" in server.notes("PeerPodUserDataTooLarge")[0]
    assert "pull secrets one" in server.notes("PeerPodPullSecret")[0]
    assert not scene.adaptor.runner.sandboxes


def test_a_failed_call_is_no_event_of_ours_when_the_shim_stops(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    scene.cloud.create_delay = 50
    scene.create()
    scene.advance(1)
    call = scene.begin()
    scene.advance(5)
    scene.end().ok()
    assert isinstance(call.error(), CallFailed)
    assert server.reasons() == ["PeerPodLaunching"]


def test_nodes_of_others_do_not_count(tmp_path):
    scene, server = play_on(tmp_path)
    scene.start()
    server.drop(NODES, NODE)
    assert scene.adaptor.world.cluster.limit() is None


def test_inspect_names_the_object_and_the_pod(tmp_path):
    scene, _server = play_on(tmp_path)
    scene.start()
    start(scene)
    admin = Admin(scene.clock, scene.adaptor.world, scene.adaptor.runner)
    found: list = []
    spawn(admin.inspect(None, admin_pb2.InspectRequest(sandbox=ID))).addCallback(found.append)
    shown = inspect_object(found[0])
    assert shown["peer_pod"] == NAME
    assert shown["pod_uid"] == scene.record().pod_uid


def test_missing_rights_are_named(tmp_path):
    class Reviewer:
        async def create(self, _resource, body):
            return {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] != "watch"}}

    found: list = []
    spawn(missing_rights(Reviewer())).addCallback(found.append)
    assert found == [["watch on pods", "watch on nodes"]]


def test_the_manifest_has_these_rights_and_no_others():
    text = (Path(__file__).parents[3] / "k8s/base/rbac/adaptor.yaml").read_text()
    role = next(one for one in yaml.safe_load_all(text) if one["kind"] == "ClusterRole")
    assert role["rules"] == rules()


def test_what_is_done_is_counted(tmp_path):
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    names = [
        ("peerpods_peerpod_writes_total", {"result": "created"}),
        ("peerpods_peerpod_writes_total", {"result": "released"}),
        ("peerpods_pod_events_total", {"reason": "PeerPodReady"}),
        ("peerpods_pull_secrets_total", {"result": "used"}),
    ]
    before = [value(name, **labels) for name, labels in names]
    scene, server = play_on(tmp_path)
    server.node("4")
    server.secret("one", config(**{"a.example": "u:1"}))
    server.pod(secrets=("one",))
    scene.start()
    start(scene)
    scene.end().ok()
    scene.advance(5)
    assert [value(name, **labels) for name, labels in names] == [count + 1 for count in before]
    assert value("peerpods_node_limit") == 4
