"""The OCI spec for crun, from what the shim really sends."""

from __future__ import annotations

import pytest

from peerpods.agent import spec
from peerpods.protocols import agent_pb2 as pb
from peerpods.protocols import oci_pb2
from tests.agent.world import recorded

REQUESTS = [
    pb.CreateContainerRequest.FromString(payload)
    for name in ("shim-guest-pull.jsonl", "shim-normal-life.jsonl")
    for _, method, payload in recorded(name)
    if method == "CreateContainer"
]
PLACE = spec.Place(cgroup="/peerpods-x", uts="/ns/uts", ipc="/ns/ipc")


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"{r.container_id[:6]}-{len(r.storages)}")
def test_recorded_requests(request_):
    result = spec.config(request_.OCI, PLACE)
    kinds = {n["type"]: n.get("path") for n in result["linux"]["namespaces"]}
    assert kinds == {"mount": None, "pid": None, "ipc": "/ns/ipc", "uts": "/ns/uts"}
    assert result["process"]["args"] == list(request_.OCI.Process.Args)
    assert result["process"]["user"]["uid"] == request_.OCI.Process.User.UID
    assert result["process"]["capabilities"]["bounding"] == list(request_.OCI.Process.Capabilities.Bounding)
    assert result["root"]["path"] == request_.OCI.Root.Path
    assert len(result["mounts"]) == len(request_.OCI.Mounts)
    assert "hooks" not in result and "hostname" not in result
    assert "apparmorProfile" not in result["process"] and "selinuxLabel" not in result["process"]
    assert result["linux"]["cgroupsPath"] == "/peerpods-x"
    assert "devices" not in result["linux"]["resources"]


def test_limits_of_the_app_container():
    linux = spec.config(REQUESTS[1].OCI, PLACE)["linux"]
    assert linux["resources"] == {
        "memory": {"limit": 268435456, "swap": 268435456},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000},
    }
    assert linux["maskedPaths"] == ["/proc/kcore"]


@pytest.mark.parametrize(
    ("controllers", "left"),
    [
        ({"memory"}, {"memory": {"limit": 268435456}}),
        ({"cpu"}, {"cpu": {"shares": 512, "quota": 50000, "period": 100000}}),
        ({"memory", "memsw"}, {"memory": {"limit": 268435456, "swap": 268435456}}),
        (set(), {}),
    ],
)
def test_limits_without_a_controller_are_left_out(controllers, left):
    assert spec.resources(REQUESTS[1].OCI.Linux.Resources, controllers) == left


def test_without_cgroups_nothing_of_them_is_asked():
    result = spec.config(REQUESTS[1].OCI, spec.Place(cgroup=""))
    assert not [m for m in result["mounts"] if m["type"] == "cgroup"]
    assert "resources" not in result["linux"] and "cgroupsPath" not in result["linux"]


def test_namespaces_of_the_forwarder_and_of_the_pod():
    wanted = [oci_pb2.LinuxNamespace(Type="network", Path="/run/netns/podns"), oci_pb2.LinuxNamespace(Type="pid")]
    place = spec.Place(cgroup="/c", uts="/u", ipc="/i", pid="/proc/7/ns/pid", cgroup_namespace=True)
    assert spec.namespaces(wanted, place) == [
        {"type": "mount"},
        {"type": "pid", "path": "/proc/7/ns/pid"},
        {"type": "ipc", "path": "/i"},
        {"type": "uts", "path": "/u"},
        {"type": "network", "path": "/run/netns/podns"},
        {"type": "cgroup"},
    ]


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("bind", ["rbind", "ro"], ("bind", ["rbind", "ro"])),
        ("bind", ["ro"], ("bind", ["ro", "rbind"])),
        ("local", [], ("bind", ["rbind"])),
        ("tmpfs", ["size=1k"], ("tmpfs", ["size=1k"])),
    ],
)
def test_mounts(kind, options, expected):
    result = spec.mount(oci_pb2.Mount(destination="/d", source="/s", type=kind, options=options))
    assert (result["type"], result["options"]) == expected


def test_process_details():
    wanted = oci_pb2.Process(Args=["a"], Terminal=True, ConsoleSize=oci_pb2.Box(Height=3, Width=4), OOMScoreAdj=-5000)
    wanted.Rlimits.add(Type="RLIMIT_NOFILE", Hard=10, Soft=5)
    wanted.User.AdditionalGids.extend([5, 6])
    result = spec.process(wanted)
    assert result["consoleSize"] == {"height": 3, "width": 4}
    assert result["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 10, "soft": 5}]
    assert result["oomScoreAdj"] == -1000
    assert spec.process(wanted, 0)["oomScoreAdj"] == 0
    assert result["cwd"] == "/"
    assert result["user"]["additionalGids"] == [5, 6]
    assert "capabilities" not in result


def test_seccomp():
    wanted = oci_pb2.LinuxSeccomp(DefaultAction="SCMP_ACT_ERRNO", Architectures=["SCMP_ARCH_X86_64"])
    call = wanted.Syscalls.add(Names=["personality"], Action="SCMP_ACT_ALLOW", errnoret=1)
    call.Args.add(Index=0, Value=8, Op="SCMP_CMP_EQ")
    assert spec.seccomp(wanted)["syscalls"] == [
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "errnoRet": 1,
            "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
        }
    ]


def test_termination_log():
    wanted = oci_pb2.Spec()
    assert spec.termination_log(wanted) == ""
    wanted.Mounts.add(destination="/dev/termination-log", source="/a")
    wanted.Mounts.add(destination="/else", source="/b")
    assert spec.termination_log(wanted) == "/a"
    wanted.Annotations[spec.TERMINATION_PATH] = "/else"
    assert spec.termination_log(wanted) == "/b"
