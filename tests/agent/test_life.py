"""The agent with real crun: what a shim asks, and what it must hear."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from peerpods.protocols import agent_pb2 as pb
from peerpods.protocols import health_pb2
from peerpods.ttrpc import Code
from tests.agent.world import Agent

pytestmark = pytest.mark.root


@pytest_twisted.async_yield_fixture()
async def agent():
    from twisted.internet import reactor

    made = await Agent(reactor).connect()
    yield made
    await made.close()


@pytest_twisted.ensureDeferred
async def test_health_says_what_it_is(agent):
    check = await agent.call("Check", health_pb2.CheckRequest(), service="grpc.Health")
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    version = await agent.call("Version", health_pb2.CheckRequest(), service="grpc.Health")
    assert "development agent" in version.agent_version
    details = await agent.call("GetGuestDetails", pb.GuestDetailsRequest(mem_block_size=True, mem_hotplug_probe=True))
    assert "development agent" in details.agent_details.version
    assert "image_guest_pull" in details.agent_details.storage_handlers


@pytest_twisted.ensureDeferred
async def test_output_exit_status_and_removal(agent):
    await agent.sandbox()
    await agent.run("c1", "sh", "-c", "echo out; echo err >&2; hostname; id -u; exit 7")
    assert await agent.read_all("c1") == b"out\nprobe\n1000\n"
    assert await agent.read_all("c1", stream="Stderr") == b"err\n"
    assert await agent.wait("c1") == 7
    await agent.kill("c1", 9)
    assert await agent.wait("c1") == 7
    await agent.remove("c1")
    assert (await agent.refused("WaitProcess", pb.WaitProcessRequest(container_id="c1")))[0] == Code.NOT_FOUND
    assert not (agent.root / "run/peerpods-agent/bundles/c1").exists()


@pytest_twisted.ensureDeferred
async def test_signals(agent):
    await agent.sandbox()
    await agent.run("plain", "sleep", "1000")
    await agent.run("handler", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    request = pb.ReadStreamRequest(container_id="handler", len=100)
    assert (await agent.call("ReadStdout", request)).data == b"ready\n"
    waits = [agent.call("WaitProcess", pb.WaitProcessRequest(container_id="plain")) for _ in range(3)]
    await agent.kill("plain", 15)
    await agent.kill("handler", 15)
    assert [(await w).status for w in waits] == [137] * 3
    assert await agent.wait("handler") == 3
    await agent.kill("plain", 9)
    await agent.kill("plain", 9)


@pytest_twisted.ensureDeferred
async def test_exec_with_stdin_and_its_own_status(agent):
    await agent.sandbox()
    await agent.run("c", "sleep", "1000")
    await agent.execute("c", "e1", "cat")
    data = bytes(range(256)) * 4096
    reading = Deferred.fromCoroutine(agent.read_all("c", "e1"))
    for start in range(0, len(data), 32768):
        request = pb.WriteStreamRequest(container_id="c", exec_id="e1", data=data[start : start + 32768])
        assert (await agent.call("WriteStdin", request)).len == 32768
    await agent.call("CloseStdin", pb.CloseStdinRequest(container_id="c", exec_id="e1"))
    assert await reading == data
    assert await agent.wait("c", "e1") == 0
    await agent.execute("c", "e2", "sh", "-c", "kill -9 $$")
    assert await agent.wait("c", "e2") == 137
    assert await agent.read_all("c", "e2") == b""
    code, text = await agent.refused(
        "ExecProcess", pb.ExecProcessRequest(container_id="c", exec_id="e3", process={"Args": ["nosuch"], "Cwd": "/"})
    )
    assert code == Code.INTERNAL
    assert "nosuch" in text
    await agent.execute("c", "e4", "cat")
    empty = pb.WriteStreamRequest(container_id="c", exec_id="e4")
    assert (await agent.call("WriteStdin", empty)).len == 0
    assert await agent.wait("c", "e4") == 0


@pytest_twisted.ensureDeferred
async def test_terminal(agent):
    await agent.sandbox()
    await agent.run("t", "sh", terminal=True)
    resize = pb.TtyWinResizeRequest(container_id="t", row=37, column=111)
    await agent.call("TtyWinResize", resize)
    await agent.call("WriteStdin", pb.WriteStreamRequest(container_id="t", data=b"stty size; tty; exit 4\n"))
    text = (await agent.read_all("t")).replace(b"\r\n", b"\n")
    assert b"37 111\n/dev/pts/0\n" in text
    assert await agent.read_all("t", stream="Stderr") == b""
    assert await agent.wait("t") == 4
    await agent.run("t2", "cat", terminal=True)
    await agent.call("CloseStdin", pb.CloseStdinRequest(container_id="t2"))
    assert await agent.wait("t2") == 0
    await agent.run("c", "sleep", "1000")
    code, text = await agent.refused("TtyWinResize", pb.TtyWinResizeRequest(container_id="c"))
    assert code == Code.UNAVAILABLE
    await agent.execute("c", "e", "tty", terminal=True)
    assert b"/dev/pts/0" in await agent.read_all("c", "e")


@pytest_twisted.ensureDeferred
async def test_a_stream_that_a_child_keeps_open_ends(agent):
    await agent.sandbox()
    await agent.run("c", "sleep", "1000")
    await agent.execute("c", "e", "sh", "-c", "sleep 500 & echo said")
    assert await agent.read_all("c", "e") == b"said\n"
    assert await agent.wait("c", "e") == 0


@pytest_twisted.ensureDeferred
async def test_a_writer_that_nobody_reads_can_be_killed(agent):
    await agent.sandbox()
    await agent.run("c", "yes")
    request = pb.ReadStreamRequest(container_id="c", len=10)
    assert len((await agent.call("ReadStdout", request)).data) == 10
    await agent.kill("c", 9)
    assert await agent.wait("c") == 137


@pytest_twisted.ensureDeferred
async def test_stats_update_pause_resume(agent):
    await agent.sandbox()
    await agent.run("c", "sh", "-c", "while :; do :; done")
    update = pb.UpdateContainerRequest(container_id="c")
    update.resources.Memory.Limit = update.resources.Memory.Swap = 134217728
    update.resources.CPU.Shares = 256
    update.resources.Devices.add(Access="rwm")
    await agent.call("UpdateContainer", update)
    stats = (await agent.call("StatsContainer", pb.StatsContainerRequest(container_id="c"))).cgroup_stats
    assert stats.memory_stats.usage.limit == 134217728
    assert stats.cpu_stats.cpu_usage.total_usage > 0
    assert stats.pids_stats.current == 1
    await agent.call("PauseContainer", pb.PauseContainerRequest(container_id="c"))
    await agent.call("ResumeContainer", pb.ResumeContainerRequest(container_id="c"))
    await agent.call("PauseContainer", pb.PauseContainerRequest(container_id="c"))
    await agent.remove("c")  # a frozen one too


@pytest_twisted.ensureDeferred
async def test_out_of_memory_is_told(agent):
    await agent.sandbox()
    poll = agent.call("GetOOMEvent", pb.GetOOMEventRequest(), timeout=None)
    await agent.run("hog", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", memory=32 << 20)
    assert await agent.wait("hog") == 137
    assert (await poll).container_id == "hog"


@pytest_twisted.ensureDeferred
async def test_shared_namespaces_of_the_pod(agent):
    await agent.sandbox()
    await agent.run(SANDBOX_ID, "sleep", "1000")
    script = "for n in uts ipc pid; do readlink /proc/self/ns/$n; done; cat /proc/1/comm; true"
    await agent.run("shared", "sh", "-c", script, sandbox_pidns=True)
    await agent.run("own", "sh", "-c", script)
    shared, own = (await agent.read_all("shared")).split(), (await agent.read_all("own")).split()
    assert shared[:2] == own[:2]
    assert shared[2] != own[2]
    assert (shared[3], own[3]) == (b"sleep", b"sh")


SANDBOX_ID = "5a" * 32


@pytest_twisted.ensureDeferred
async def test_storages_copied_files_and_termination_log(agent):
    await agent.sandbox()
    base = "/run/kata-containers/shared/containers"
    copy = pb.CopyFileRequest(path=f"{base}/c-1-log", file_mode=0o100666, dir_mode=0o750)
    await agent.call("CopyFile", copy)
    memory = pb.Storage(
        driver="ephemeral", source="tmpfs", fstype="tmpfs", mount_point="/run/kata-containers/sandbox/ephemeral/m"
    )
    disk = pb.Storage(
        driver="local", source="local", fstype="local", mount_point=f"{base}/s/rootfs/local/d", options=["mode=0777"]
    )
    await agent.run(
        "c",
        "sh",
        "-c",
        "echo bye > /dev/termination-log; touch /d/x 2>/dev/null; echo hi > /d/file; cat /d/file; exit 0",
        storages=[memory, disk],
        mounts=[
            {"destination": "/d", "source": f"{base}/s/rootfs/local/d", "type": "local"},
            {"destination": "/m", "source": "/run/kata-containers/sandbox/ephemeral/m", "type": "bind"},
            {"destination": "/dev/termination-log", "source": f"{base}/c-1-log", "type": "bind", "options": ["rbind"]},
        ],
    )
    assert await agent.read_all("c") == b"hi\n"
    assert await agent.wait("c") == 0
    request = pb.GetDiagnosticDataRequest(log_type="termination_log", container_id="c")
    assert (await agent.call("GetDiagnosticData", request)).data == "bye\n"
    request.log_type = "core"
    assert (await agent.refused("GetDiagnosticData", request))[0] == Code.INVALID_ARGUMENT
    assert (agent.root / "run/kata-containers/sandbox/ephemeral/m").is_mount()


@pytest_twisted.ensureDeferred
async def test_a_new_sandbox_begins_with_an_empty_folder_and_keeps_the_socket():
    from twisted.internet import reactor

    base = "/run/kata-containers"
    setup = f"mkdir -p {base}/stale/mount {base}/more && touch {base}/more/file && mount -t tmpfs t {base}/stale/mount"
    agent = await Agent(reactor, setup=setup, listen=f"{base}/agent.sock").connect()
    try:
        await agent.sandbox()
        assert sorted(p.name for p in (agent.root / base[1:]).iterdir()) == ["agent.sock", "sandbox"]
        shm = agent.root / base[1:] / "sandbox/shm"
        assert shm.is_mount()
        assert shm.stat().st_mode & 0o7777 == 0o1777
        await agent.run("c", "sleep", "1000")
        code, text = await agent.refused("CreateSandbox", pb.CreateSandboxRequest(sandbox_id="other"))
        assert code == Code.FAILED_PRECONDITION
        assert "one pod" in text
    finally:
        await agent.close()


@pytest_twisted.ensureDeferred
async def test_killing_a_container_of_a_shared_pid_namespace_ends_all_of_it(agent):
    await agent.sandbox()
    await agent.run(SANDBOX_ID, "sleep", "1000")
    await agent.run("c", "sh", "-c", "sleep 500 & sleep 501 & echo up; exec sleep 502", sandbox_pidns=True)
    assert (await agent.call("ReadStdout", pb.ReadStreamRequest(container_id="c", len=9))).data == b"up\n"
    await agent.kill("c", 9)
    assert await agent.wait("c") == 137
    assert await agent.read_all("c") == b""
    await agent.remove("c")


@pytest_twisted.ensureDeferred
async def test_the_network_is_the_forwarders_namespace():
    from twisted.internet import reactor

    setup = "ip netns add podns && ip -n podns link add pod0 type veth peer name pod1"
    agent = await Agent(reactor, setup=setup).connect()
    try:
        await agent.sandbox()
        await agent.run("c", "sh", "-c", "ls /sys/class/net; exit 0", network="/run/netns/podns")
        assert (await agent.read_all("c")).split() == [b"lo", b"pod0", b"pod1"]
        code, text = await agent.refused_run("d", "true", network="/run/netns/gone")
        assert code == Code.INTERNAL
        assert text.startswith("crun create: ")
        assert "/run/netns/gone" in text
        await agent.run("d", "true", network="/run/netns/podns")  # nothing was left of the failure
    finally:
        await agent.close()


@pytest_twisted.ensureDeferred
async def test_errors_as_the_kata_agent_words_them(agent):
    await agent.sandbox()
    nobody = {"container_id": "nobody"}
    table = [
        ("RemoveContainer", pb.RemoveContainerRequest(**nobody), Code.INTERNAL, "Invalid container id"),
        ("StartContainer", pb.StartContainerRequest(**nobody), Code.INTERNAL, "Invalid container id"),
        ("StatsContainer", pb.StatsContainerRequest(**nobody), Code.INVALID_ARGUMENT, "invalid container id"),
        ("WaitProcess", pb.WaitProcessRequest(**nobody), Code.NOT_FOUND, "process not found"),
        ("SignalProcess", pb.SignalProcessRequest(**nobody, signal=9), Code.NOT_FOUND, "process not found"),
        ("ReadStdout", pb.ReadStreamRequest(**nobody, len=1), Code.NOT_FOUND, "process not found"),
        ("SetPolicy", pb.SetPolicyRequest(policy="x"), Code.NOT_FOUND, "is not supported"),
        ("CopyFile", pb.CopyFileRequest(path="/etc/passwd", file_mode=0o100644), Code.INVALID_ARGUMENT, "outside"),
        ("AddARPNeighbors", pb.AddARPNeighborsRequest(), Code.UNIMPLEMENTED, ""),
    ]
    for method, request, code, text in table:
        got = await agent.refused(method, request)
        assert got[0] == code and text in got[1], (method, got)
    from tests.agent.world import recorded_container

    request = recorded_container()
    del request.storages[:]
    code, text = await agent.refused("CreateContainer", request)
    assert code == Code.INTERNAL and "does not exist in the VM" in text
    code, text = await agent.refused("CreateContainer", pb.CreateContainerRequest(container_id="../x"))
    assert code == Code.INVALID_ARGUMENT


@pytest_twisted.ensureDeferred
async def test_destroy_ends_everything_and_polls(agent):
    await agent.sandbox()
    poll = agent.call("GetOOMEvent", pb.GetOOMEventRequest(), timeout=None)
    await agent.run("c", "sleep", "1000")
    wait = agent.call("WaitProcess", pb.WaitProcessRequest(container_id="c"), timeout=None)
    await agent.call("DestroySandbox", pb.DestroySandboxRequest())
    assert (await wait).status == 137
    with pytest.raises(Exception) as caught:
        await poll
    assert caught.value.status.code == Code.INTERNAL
    mounts = (agent.root / "proc" / str(agent.process.pid) / "mountinfo").read_text()
    assert "kata-containers" not in mounts and "/ns/" not in mounts
    await agent.sandbox()
    await agent.run("c", "true")
    assert await agent.wait("c") == 0
