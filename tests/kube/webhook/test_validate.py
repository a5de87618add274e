"""Warnings: what will not work in a peer pod, each in words that fit."""

import attrs
import pytest

from peerpods.kube.webhook.keys import INITDATA, MACHINE_TYPE, VCPUS
from peerpods.kube.webhook.notice import LONGEST, MOST, Notice, notice, texts
from peerpods.userdata.initdata import encode_initdata
from tests.kube.webhook.pods import POLICY, admit, amounts, container, kinds, pod

INIT = 'algorithm = "sha256"\nversion = "0.1.0"\n[data]\n'


def warned(body, policy=POLICY):
    return kinds(admit(body, policy)[1])


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("hostNetwork", True, "host-network"),
        ("hostPID", True, "host-namespace"),
        ("hostIPC", True, "host-namespace"),
        ("os", {"name": "windows"}, "os"),
        ("hostNetwork", False, None),
        ("hostNetwork", None, None),
        ("hostPID", False, None),
        ("os", {"name": "linux"}, None),
        ("shareProcessNamespace", True, None),
    ],
)
def test_fields_of_the_host(field, value, kind):
    _, mutation = admit(pod(container("a"), **{field: value}))
    assert kinds(mutation) == ([kind] if kind else [])
    assert mutation.denied == ""
    assert all(item.hopeless for item in mutation.notices)
    if kind and field != "os":
        assert field in mutation.notices[0].text


@pytest.mark.parametrize(
    ("volume", "kind", "word"),
    [
        ({"configMap": {"name": "c"}}, None, ""),
        ({"secret": {"secretName": "s"}}, None, ""),
        ({"projected": {"sources": []}}, None, ""),
        ({"downwardAPI": {}}, None, ""),
        ({"emptyDir": {}}, None, ""),
        ({"emptyDir": {"medium": "Memory"}}, None, ""),
        ({"emptyDir": None}, None, ""),
        ({"emptyDir": {"medium": "HugePages-2Mi"}}, "volume-emptyDir", "huge pages"),
        ({"hostPath": {"path": "/etc"}}, "volume-hostPath", "not in the VM"),
        ({"hostPath": {"path": "/etc", "type": "Directory"}}, "volume-hostPath", "not in the VM"),
        ({"hostPath": {"path": "/run/x.sock", "type": "Socket"}}, "volume-hostPath", "sockets"),
        ({"hostPath": {"path": "/dev/fuse", "type": "CharDevice"}}, "volume-hostPath", "devices"),
        ({"persistentVolumeClaim": {"claimName": "c"}}, "volume-persistentVolumeClaim", "lost"),
        ({"ephemeral": {"volumeClaimTemplate": {}}}, "volume-ephemeral", "lost"),
        ({"csi": {"driver": "secrets-store.csi.k8s.io"}}, "volume-csi", "copy"),
        ({"nfs": {"server": "n", "path": "/"}}, "volume-nfs", "lost"),
        ({"iscsi": {}}, "volume-iscsi", "lost"),
        ({"image": {"reference": "x"}}, "volume-image", "copy"),
        ({}, None, ""),
    ],
)
def test_volumes(volume, kind, word):
    _, mutation = admit(pod(container("a"), volumes=[{"name": "data", **volume}]))
    assert kinds(mutation) == ([kind] if kind else [])
    for item in mutation.notices:
        assert "data" in item.text
        assert word in item.text
        assert not item.hopeless


def test_volumes_of_one_sort_share_a_warning_and_many_are_counted():
    two = [{"name": name, "hostPath": {"path": "/x"}} for name in ("b", "a")]
    _, mutation = admit(pod(container("a"), volumes=two))
    assert "volumes a, b (hostPath)" in mutation.notices[0].text
    many = [{"name": f"volume-number-{i}", "hostPath": {"path": "/x"}} for i in range(50)]
    _, mutation = admit(pod(container("a"), volumes=many))
    assert "50 volumes (hostPath)" in mutation.notices[0].text


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"securityContext": {"privileged": True}}, "privileged"),
        ({"securityContext": {"privileged": False}}, None),
        ({"ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]}, "host-port"),
        ({"ports": [{"containerPort": 80}]}, None),
        ({"volumeDevices": [{"name": "d", "devicePath": "/dev/xvda"}]}, "volume-block"),
        ({"volumeMounts": [{"name": "d", "mountPath": "/d", "mountPropagation": "Bidirectional"}]}, "propagation"),
        ({"volumeMounts": [{"name": "d", "mountPath": "/d"}]}, None),
    ],
)
def test_containers(fields, kind):
    for body in (pod(container("a", **fields)), pod(container("b"), init=[container("a", **fields)])):
        _, mutation = admit(body)
        assert kinds(mutation) == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("wanted", "known", "hit"),
    [
        ("t3.large", (), False),
        ("t3.large", ("t3.large",), False),
        ("t3.large", ("m5.*", "t3.*"), False),
        ("t3.huge", ("t3.large",), True),
        ("T3.large", ("t3.*",), True),
        ("", ("t3.*",), False),
        (None, ("t3.*",), False),
    ],
)
def test_machine_types(wanted, known, hit):
    body = pod(container("a"), annotations={MACHINE_TYPE: wanted})
    _, mutation = admit(body, attrs.evolve(POLICY, machine_types=known))
    assert kinds(mutation) == (["machine-type"] if hit else [])
    if hit:
        assert wanted in mutation.notices[0].text
        assert known[0] in mutation.notices[0].text


def test_initdata():
    def body(value):
        return pod(container("a"), annotations={INITDATA: value})

    good = encode_initdata(INIT + '"aa.toml" = "x"\n')
    assert warned(body(good)) == []
    assert warned(body("")) == []
    small = attrs.evolve(POLICY, max_user_data=20)
    _, mutation = admit(body(good), small)
    assert "takes 20" in mutation.notices[0].text
    for wrong in ("%%%", "aGVsbG8=", encode_initdata("not toml ="), encode_initdata(INIT + '"other" = "x"\n')):
        assert warned(body(wrong)) == ["user-data"]
    assert warned(body(encode_initdata("#" * (1 << 21)))) == ["user-data"]
    assert warned(body(encode_initdata("#" * (1 << 17)))) == []


def test_a_count_that_is_none():
    body = pod(container("a", amounts("2")), annotations={VCPUS: "many"})
    assert warned(body) == ["annotation", "annotation"]
    assert warned(pod(container("a"), annotations={VCPUS: "1.5"})) == []


def test_denied_only_by_option_and_only_where_it_can_never_work():
    strict = attrs.evolve(POLICY, deny=True, machine_types=("t3.*",))
    _, mutation = admit(pod(container("a"), hostNetwork=True, annotations={MACHINE_TYPE: "x"}), strict)
    assert "hostNetwork" in mutation.denied
    assert "machine_type x" in mutation.denied
    assert mutation.patch == []
    _, mutation = admit(pod(container("a"), volumes=[{"name": "v", "hostPath": {"path": "/"}}]), strict)
    assert mutation.denied == ""
    assert mutation.patch


@pytest.mark.parametrize("wrong", [None, [], "x", 5, [None, 3, "x", {"name": 4}], {"a": 1}])
def test_nothing_falls_over(wrong):
    body = pod(container("a", ports=wrong, securityContext=wrong, volumeMounts=wrong, volumeDevices=wrong))
    body["spec"] |= {"volumes": wrong, "os": wrong, "initContainers": wrong, "hostNetwork": wrong}
    body["metadata"]["annotations"] = {MACHINE_TYPE: wrong, INITDATA: wrong, VCPUS: wrong}
    admit(body, attrs.evolve(POLICY, machine_types=("x",)))


def test_a_warning_fits():
    long = notice("x", "ä€😀" * 200 + "\n\x00\x7f")
    assert len(long.text.encode()) <= LONGEST
    assert long.text.endswith("…")
    assert "\n" not in notice("x", "a\nb\x1b[31m").text
    assert notice("x", "\ud800").text


def test_too_many_are_counted():
    many = [Notice("x", f"{i % 40}") for i in range(80)]
    shown = texts(many)
    assert len(shown) == MOST
    assert shown[-1] == f"peer pod: {40 - MOST + 1} more warnings are not shown"
    assert texts(many[:3]) == ["0", "1", "2"]
