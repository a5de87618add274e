"""Streams, event queue, image words, pause program, cgroup figures: each alone."""

from __future__ import annotations

import json
import os

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from peerpods.agent import cgroup, kernel, pause, pull, storage
from peerpods.agent.command import CommandFailed, CommandTimeout, run
from peerpods.agent.oom import EVENTS_MAX, OomQueue
from peerpods.agent.stream import PIPE_SIZE, READERS_MAX, Input, Output, make_pipe
from peerpods.errors import GuestError, Refused
from peerpods.protocols import agent_pb2 as pb


def start(coroutine):
    return Deferred.fromCoroutine(coroutine)


@pytest_twisted.ensureDeferred
async def test_reads_give_what_there_is_and_wait_for_more():
    ours, theirs = make_pipe(reading=True)
    output = Output(reactor, ours)
    os.write(theirs, b"abcdef")
    assert await output.read(4) == b"abcd"
    assert await output.read(4) == b"ef"
    waiting = start(output.read(4))
    assert not waiting.called
    os.write(theirs, b"g")
    assert await waiting == b"g"
    os.close(theirs)
    assert await output.read(4) == b""
    assert await output.read(4) == b""
    output.close()
    assert await output.read(4) == b""


@pytest_twisted.ensureDeferred
async def test_nothing_is_read_ahead():
    ours, theirs = make_pipe(reading=True)
    os.set_blocking(theirs, False)
    output = Output(reactor, ours)
    written = 0
    with pytest.raises(BlockingIOError):
        while True:
            written += os.write(theirs, bytes(65536))
    await deferLater(reactor, 0)
    with pytest.raises(BlockingIOError):
        os.write(theirs, bytes(4096))
    assert written <= PIPE_SIZE
    assert len(await output.read(1 << 30)) == written
    os.close(theirs)
    output.close()


@pytest_twisted.ensureDeferred
async def test_a_cancelled_read_takes_nothing_and_too_many_are_refused():
    ours, theirs = make_pipe(reading=True)
    output = Output(reactor, ours)
    first = start(output.read(10))
    rest = [start(output.read(10)) for _ in range(READERS_MAX - 1)]
    with pytest.raises(Refused):
        await output.read(10)
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    os.write(theirs, b"x")
    assert await rest[0] == b"x"
    output.close()
    assert [await r for r in rest[1:]] == [b""] * (READERS_MAX - 2)
    os.close(theirs)


@pytest_twisted.ensureDeferred
async def test_after_the_end_of_the_process_a_held_stream_ends():
    ours, theirs = make_pipe(reading=True)
    output = Output(reactor, ours)
    waiting = start(output.read(10))
    os.write(theirs, b"last")
    output.process_ended()
    assert await waiting == b"last"
    assert await output.read(10) == b""
    output.close()
    os.close(theirs)


@pytest_twisted.ensureDeferred
async def test_stdin_waits_for_its_reader_and_tells_when_there_is_none():
    ours, theirs = make_pipe(reading=False)
    stdin = Input(reactor, ours)
    data = os.urandom(PIPE_SIZE * 2)
    writing = start(stdin.write(data))
    assert not writing.called
    got = b""
    while len(got) < len(data):
        got += os.read(theirs, 1 << 20)
        await deferLater(reactor, 0)
    assert await writing == len(data)
    assert got == data
    os.close(theirs)
    with pytest.raises(BrokenPipeError):
        await stdin.write(b"x")
    await stdin.end()
    await stdin.end()
    with pytest.raises(BrokenPipeError):
        await stdin.write(b"x")


def test_oom_queue_never_loses_and_never_grows():
    queue = OomQueue()
    queue.look("a", lambda: 0)
    poll = queue.next()
    queue.look("a", lambda: 1)
    queue.look("a", lambda: 1)
    assert poll.result == "a"
    cancelled = queue.next()
    cancelled.cancel()
    cancelled.addErrback(lambda f: f.trap(CancelledError) and None)
    queue.look("a", lambda: 2)
    assert queue.next().result == "a"
    for number in range(EVENTS_MAX + 5):
        queue.look(f"c{number}", lambda: 1)
    assert queue.next().result == "c5"
    lost = OomQueue()
    failed = lost.next()
    lost.close(InterruptedError("gone"))
    failed.addErrback(lambda f: f.trap(InterruptedError).__name__)
    assert failed.result == "InterruptedError"


@pytest_twisted.ensureDeferred
async def test_commands():
    assert await run(reactor, ["sh", "-c", "echo a; echo b >&2"], timeout=10) == "a\nb\n"
    with pytest.raises(CommandFailed, match="status 3: why") as caught:
        await run(reactor, ["sh", "-c", "echo first; echo why >&2; exit 3"], timeout=10)
    assert caught.value.status == 3
    with pytest.raises(CommandTimeout, match=r"sleep did not end within 0 s"):
        await run(reactor, ["sleep", "100"], timeout=0.05)
    with pytest.raises(GuestError, match="not installed"):
        await run(reactor, ["no-such-program"], timeout=1)
    assert await run(reactor, ["sh", "-c", "sleep 30 & echo $!"], timeout=10) != ""
    big = await run(reactor, ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"], timeout=10)
    assert len(big) == 256 * 1024


@pytest.mark.parametrize(
    ("reference", "host"),
    [
        ("busybox", "docker.io"),
        ("library/busybox:1", "docker.io"),
        ("lab.local/busybox:1", "lab.local"),
        ("localhost/x", "localhost"),
        ("10.0.0.1:5000/demo/busybox@sha256:00", "10.0.0.1:5000"),
        ("[fd00::1]:5000/x", "[fd00::1]:5000"),
    ],
)
def test_registry_of_a_reference(reference, host):
    assert pull.registry_of(reference) == host


def test_skopeo_arguments(tmp_path):
    registries = pull.parse_registries('{"insecure": ["r:5000"], "ca": {"s": "PEM"}}')
    plain = pull.copy_arguments("r:5000/x:1", tmp_path, "t", registries, auth=None, ca_folder=None)
    assert "--src-tls-verify=false" in plain and plain[-2:] == ["docker://r:5000/x:1", f"oci:{tmp_path}:t"]
    other = pull.copy_arguments("s/x:1", tmp_path, "t", registries, auth="/a", ca_folder="/c")
    assert "--src-tls-verify=false" not in other
    assert other[4:8] == ["--src-authfile", "/a", "--src-cert-dir", "/c"]


@pytest.mark.parametrize("text", ["", "[]", '{"insecure": [1]}', '{"ca": ["x"]}', '{"ca": {"h": 1}}', "{"])
def test_registries_json_that_is_not_understood(text):
    with pytest.raises(GuestError, match=r"registries\.json is not understood"):
        pull.parse_registries(text)


def test_words_of_skopeo():
    line = 'time="2026" level=fatal msg="initializing source docker://r/x:1: \\"no\\" manifest unknown"'
    assert pull.skopeo_words(line) == 'initializing source docker://r/x:1: "no" manifest unknown'
    assert pull.skopeo_words("plain\n\n") == "plain"
    assert pull.skopeo_words("") == "skopeo said nothing"


def test_a_full_disk_is_said_so(tmp_path):
    error = pull.failure("r/x", "write /tmp/a: no space left on device", tmp_path)
    assert "no room for image r/x" in str(error) and "MiB free" in str(error)
    assert "cannot pull image r/x: denied" in str(pull.failure("r/x", "denied", tmp_path))


def test_digest_of_a_layout(tmp_path):
    entry = {"digest": "sha256:" + "a" * 64, "annotations": {"org.opencontainers.image.ref.name": "t"}}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    assert pull.digest_of(tmp_path, "t") == "a" * 64
    with pytest.raises(GuestError):
        pull.digest_of(tmp_path, "u")


@pytest.mark.parametrize(
    "path", ["/etc", "/run/kata-containers", "/run/kata-containers/../x", "/run/kata-containers/a/"]
)
def test_storage_places_that_are_refused(path):
    with pytest.raises(Refused):
        storage.check_place(path)


@pytest.mark.parametrize(
    ("options", "source", "expected"),
    [
        (['image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox"}}'], "r/pause:3", True),
        (['image_guest_pull={"metadata":{"io.kubernetes.cri-o.ContainerType":"sandbox"}}'], "r/pause:3", True),
        (['image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"container"}}'], "r/x", False),
        (["image_guest_pull=junk"], "r/x", False),
        ([], "pause", True),
    ],
)
def test_which_storage_is_the_sandbox_containers(options, source, expected):
    wanted = pb.Storage(driver="image_guest_pull", driver_options=options, source=source)
    assert storage.is_sandbox_container(wanted) is expected


def test_mount_options():
    flags, data = kernel.split_options(["noexec", "nosuid", "nodev", "rw", "mode=1777", "size=5"])
    assert flags == kernel.MS_NOEXEC | kernel.MS_NOSUID | kernel.MS_NODEV
    assert data == "mode=1777,size=5"


def test_pause_rootfs_from_the_image_or_made(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    pause.make_rootfs(made, ["/pause"], bundle=str(tmp_path / "none"))
    assert os.access(made / "pause", os.X_OK)
    (tmp_path / "bundle/rootfs").mkdir(parents=True)
    (tmp_path / "bundle/rootfs/pause").write_text("#!x")
    copied = tmp_path / "copied"
    copied.mkdir()
    pause.make_rootfs(copied, ["/pause"], bundle=str(tmp_path / "bundle"))
    assert (copied / "pause").read_text() == "#!x"
    with pytest.raises(GuestError, match="pause_bundle"):
        pause.pause_program("z80")


def test_cgroup_v2_figures(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io\n")
    folder = tmp_path / "peerpods-x"
    folder.mkdir()
    files = {
        "cpu.stat": "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 4\nthrottled_usec 7\n",
        "memory.current": "4096\n",
        "memory.max": "max\n",
        "memory.events": "low 0\nmax 3\noom_kill 2\n",
        "memory.stat": "anon 10\nfile 20\n",
        "pids.current": "2\n",
        "pids.max": "max\n",
        "io.stat": "8:0 rbytes=100 wbytes=50 rios=3 wios=1 dbytes=0\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    found = cgroup.detect(tmp_path)
    assert found.version == 2 and {"memory", "blkio", "memsw"} <= found.controllers
    stats = cgroup.stats(found, "/peerpods-x")
    assert stats.cpu_stats.cpu_usage.total_usage == 5_000_000
    assert stats.cpu_stats.throttling_data.throttled_time == 7000
    assert (stats.memory_stats.usage.usage, stats.memory_stats.usage.failcnt) == (4096, 3)
    assert stats.memory_stats.usage.limit == cgroup.NO_LIMIT
    assert dict(stats.memory_stats.stats) == {"anon": 10, "file": 20}
    assert stats.pids_stats.current == 2 and stats.pids_stats.limit == 0
    assert [(e.op, e.value) for e in stats.blkio_stats.io_service_bytes_recursive] == [("Read", 100), ("Write", 50)]
    assert cgroup.oom_kills(found, "/peerpods-x") == 2
    assert cgroup.stats(found, "/gone").memory_stats.usage.usage == 0


def test_no_cgroups(tmp_path):
    found = cgroup.detect(tmp_path)
    assert found.version == 0
    assert cgroup.stats(found, "/x") == pb.CgroupStats()
    assert cgroup.crun_prefix(tmp_path) == []
