"""What the adaptor's Kubernetes side decides, without a reactor."""

from __future__ import annotations

import attrs
import pytest

from peerpods.adaptor.kube import notes
from peerpods.adaptor.kube.desired import body_of, changes, name_of
from peerpods.adaptor.kube.nodelimit import NodeView, advertise_patch, read_node
from peerpods.adaptor.kube.podview import Bond, PodView, bond, read_pod
from peerpods.adaptor.kube.rights import RIGHTS, reviews, rules
from peerpods.adaptor.requests import pod_uid
from peerpods.adaptor.sandbox import HistoryEntry, Sandbox
from peerpods.kube.objects.conditions import time_text
from peerpods.kube.objects.names import FINALIZER
from peerpods.model import InstanceSpec, Phase
from tests.adaptor.test_lifecycle import VM, at, draft

PLACE = {"node": "node-1", "cluster": "lab"}


def of(phase: Phase, **facts) -> Sandbox:
    return at(phase, provider="fake", pod_uid="u-1", changed_at=50.0, **facts)


def stored(s: Sandbox, **meta) -> dict:
    """The object as the server would have it after its creation."""
    body = body_of(s, **PLACE)
    body["metadata"] |= {"uid": "o-1", "resourceVersion": "7", "generation": 1, **meta}
    return body


def applied(s: Sandbox, obj: dict) -> dict:
    wanted = changes(s, obj)
    return {
        **obj,
        "spec": {**obj["spec"], **wanted.main.get("spec", {})},
        "metadata": {**obj["metadata"], **wanted.main.get("metadata", {})},
        "status": {**obj.get("status", {}), **wanted.status},
    }


PHASES = [
    (Phase.LAUNCHING, {}, "Launching", "False"),
    (Phase.BOOTING, {}, "Booting", "False"),
    (Phase.LINKING, {}, "Linking", "False"),
    (Phase.RUNNING, {}, "Running", "True"),
    (Phase.FAILED, {"last_error": "no quota"}, "Failed", "False"),
    (Phase.STOPPING, {"last_error": "no quota", "trouble": "busy"}, "Stopping", "False"),
]


@pytest.mark.parametrize(("phase", "facts", "word", "ready"), PHASES)
def test_each_phase_has_its_status_and_a_second_look_changes_nothing(phase, facts, word, ready):
    s = of(phase, **facts)
    obj = stored(draft(provider="fake", attempt=1))
    made = applied(s, obj)
    assert made["status"]["phase"] == word
    assert made["status"]["conditions"][0]["status"] == ready
    assert made["status"]["conditions"][0]["lastTransitionTime"] == time_text(50.0)
    assert made["status"].get("podUID") == "u-1"
    if s.instance is not None:
        assert made["spec"]["instanceID"] == VM.id
        assert made["status"]["addresses"] == list(VM.addresses)
    for text in facts.values():
        assert text in made["status"]["lastError"]
    again = changes(s, made)
    assert not again.main
    assert not again.status


def test_what_is_missing_from_the_metadata_is_put_back_while_the_sandbox_lives():
    s = of(Phase.RUNNING)
    obj = stored(attrs.evolve(s, pod_uid=""), finalizers=["x/y"])
    meta = changes(s, obj).main["metadata"]
    assert meta["finalizers"] == ["x/y", FINALIZER]
    assert meta["ownerReferences"][0]["uid"] == "u-1"
    assert meta["resourceVersion"] == "7"
    going = stored(attrs.evolve(s, pod_uid=""), finalizers=["x/y"], deletionTimestamp="2026-01-01T00:00:00Z")
    assert "metadata" not in changes(s, going).main
    assert "metadata" not in changes(of(Phase.STOPPING), stored(s, finalizers=[])).main


def test_another_owner_is_kept_and_another_controller_is_not():
    s = of(Phase.RUNNING)
    others = [{"uid": "a", "kind": "Thing"}, {"uid": "b", "kind": "Pod", "controller": True}]
    owners = changes(s, stored(s, ownerReferences=others)).main["metadata"]["ownerReferences"]
    assert [one["uid"] for one in owners] == ["a", "u-1"]


def test_a_new_attempt_has_its_token():
    s = of(Phase.LAUNCHING, instance=None)
    assert changes(attrs.evolve(s, attempt=2), stored(s)).main == {"spec": {"token": "abcd1234-2"}}
    assert name_of(s) == "web-resource-abcd1234"


# Notes

STARTED = HistoryEntry(at=38.0, state="launching")
READY = of(Phase.RUNNING, history=(STARTED,), phases=(("create_vm", 9.0), ("launch", 8100.0), ("link", 3900.0)))
TELLS = {
    "launching": (of(Phase.PREPARED, attempt=0), of(Phase.LAUNCHING, spec=InstanceSpec(vcpus=2, memory_mib=512)),
                  "PeerPodLaunching", "2 vCPU, 512 MiB"),
    "ready": (of(Phase.LINKING), READY, "PeerPodReady", "is ready after 12.0 s: launch 8.1 s, link 3.9 s"),
    "one try": (of(Phase.LAUNCHING), of(Phase.LAUNCHING, launch_tries=1, last_error="throttled"), "PeerPodFailed",
                "throttled; trying again (2 of 4)"),
    "rolled back": (of(Phase.LAUNCHING), of(Phase.LAUNCHING, last_error="no quota").moved(Phase.STOPPING, 1, "r"),
                    "PeerPodFailed", "no quota"),
    "failed": (of(Phase.LINKING), of(Phase.LINKING, last_error="no agent").moved(Phase.FAILED, 1, "no agent"),
               "PeerPodFailed", "no agent"),
    "given up": (of(Phase.BOOTING), of(Phase.BOOTING).moved(Phase.STOPPING, 1, "the adaptor restarted"),
                 "PeerPodFailed", "was given up: the adaptor restarted"),
    "lost": (of(Phase.RUNNING), of(Phase.RUNNING, last_error="link lost").moved(Phase.STOPPING, 1, "x"),
             "PeerPodLost", "link lost"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TELLS))
def test_what_is_told(name):
    before, after, reason, text = TELLS[name]
    (note,) = notes.notes(before, after)
    assert note.reason == reason
    assert text in note.text
    assert note.kind == ("Normal" if reason in ("PeerPodLaunching", "PeerPodReady") else "Warning")


QUIET = {
    "loaded": (None, of(Phase.RUNNING)),
    "stopped": (of(Phase.RUNNING), of(Phase.RUNNING).moved(Phase.STOPPING, 1, "StopVM")),
    "stopped while starting": (of(Phase.BOOTING), of(Phase.BOOTING).moved(Phase.STOPPING, 1, "StopVM")),
    "booting": (of(Phase.LAUNCHING), of(Phase.BOOTING)),
    "kept, then gone": (of(Phase.FAILED), of(Phase.FAILED).moved(Phase.STOPPING, 1, "kept long enough")),
    "gone": (of(Phase.STOPPING), of(Phase.STOPPING).moved(Phase.GONE, 1, "nothing is left")),
    "uid": (of(Phase.RUNNING), attrs.evolve(of(Phase.RUNNING), pod_uid="u-2")),
}


@pytest.mark.parametrize("name", list(QUIET))
def test_what_is_not_told(name):
    assert notes.notes(*QUIET[name]) == []


def test_a_note_fits_whatever_the_cloud_says():
    before, after = of(Phase.LAUNCHING), of(Phase.LAUNCHING, last_error="é" * 4000)
    (note,) = notes.notes(before, after.moved(Phase.STOPPING, 1, "x"))
    assert len(note.text.encode()) <= 1024


# Pods and nodes


def pod(**facts) -> PodView:
    return PodView(**{"namespace": "lab", "name": "web", "uid": "u-1", "created": 90.0, **facts})


BONDS = [
    ("u-1", {}, Bond.OWN),
    ("u-2", {}, Bond.OTHER),
    ("", {}, Bond.ADOPT),
    ("", {"created": 101.0}, Bond.ADOPT),
    ("", {"created": 110.0}, Bond.UNKNOWN),
    ("", {"static_uid": "h"}, Bond.UNKNOWN),
    ("h", {"static_uid": "h"}, Bond.OWN),
]


@pytest.mark.parametrize(("uid", "facts", "verdict"), BONDS)
def test_whose_pod_it_is(uid, facts, verdict):
    assert bond(draft(pod_uid=uid, created_at=100.0), pod(**facts)) is verdict


def test_little_is_kept_of_a_pod():
    obj = {
        "metadata": {
            "name": "web",
            "namespace": "lab",
            "uid": "u-1",
            "creationTimestamp": time_text(90.0),
            "deletionTimestamp": time_text(95.0),
        },
        "spec": {"runtimeClassName": "kata-remote", "imagePullSecrets": [{"name": "b"}, {"name": "a"}, {"name": "b"}]},
        "status": {"phase": "Running"},
    }
    view = read_pod(obj)
    assert view == pod(deleting=True, runtime_class="kata-remote", phase="Running", pull_secrets=("b", "a"))
    assert view.key == "lab/web"
    assert view.lasting_uid == "u-1"
    assert read_pod({}).uid == ""


def test_a_node_s_number():
    assert read_node({"status": {"capacity": {"kata.peerpods.io/vm": "7"}}}) == NodeView(7)
    assert read_node({"status": {"capacity": {"cpu": "4"}}}) == NodeView(None)
    assert read_node({}) == NodeView(None)
    assert advertise_patch(3) == [{"op": "add", "path": "/status/capacity/kata.peerpods.io~1vm", "value": "3"}]


def test_crio_names_hold_the_uid():
    assert pod_uid("k8s_web_lab_3f0c_2") == "3f0c"
    assert pod_uid("web") == ""
    assert pod_uid("k8s_web") == ""


def test_the_rights_say_nothing_of_secrets():
    assert all(right.resource != "secrets" for right in RIGHTS)
    assert len(rules()) == len(RIGHTS)
    assert {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]} in rules(advertise=True)
    names = [name for name, _ in reviews()]
    assert "patch on peerpods/status.confidentialcontainers.org" in names
    assert len(names) == sum(len(right.verbs) for right in RIGHTS)
