"""What only libvirt can get wrong: half-made domains, strangers, lost daemons, full disks, leases."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from peerpods.clouds.interface import TAG_CLUSTER, CreateRequest, InstanceEvent
from peerpods.clouds.libvirt import operations as ops
from peerpods.clouds.libvirt.domain import instance_mac, instance_uuid
from peerpods.clouds.libvirt.provider import LibvirtProvider
from peerpods.clouds.libvirt.settings import LibvirtSettings
from peerpods.clouds.libvirt.storage import cut_file
from peerpods.clouds.libvirt.verify import is_local
from peerpods.errors import CloudError, CloudFailure, ConfigError
from peerpods.model import InstanceSpec, InstanceState
from tests.clouds.libvirt import tinyguest
from tests.clouds.libvirt.daemon import DaemonProcess
from tests.clouds.libvirt.test_contract import make_settings

pytestmark = [pytest.mark.root, pytest.mark.vm]


@pytest.fixture
def conn(daemon: DaemonProcess) -> Iterator[Any]:
    """The test's own look at the daemon."""
    made = libvirt.open(daemon.uri)
    yield made
    made.close()


class Case:
    """A provider and orders for it."""

    def __init__(self, daemon: DaemonProcess, **settings: Any) -> None:
        self.cluster = f"c-{uuid.uuid4().hex[:8]}"
        self.provider = LibvirtProvider(make_settings(daemon, **settings), reactor)

    def request(self, **changes: Any) -> CreateRequest:
        number = uuid.uuid4().hex[:8]
        values: dict[str, Any] = {
            "token": f"{number}-1",
            "name": f"podvm-x-{number}",
            "spec": InstanceSpec(),
            "user_data": b"#cloud-config\n",
            "tags": {TAG_CLUSTER: self.cluster},
        }
        return CreateRequest(**{**values, **changes})

    async def close(self) -> None:
        for instance in await self.provider.list({TAG_CLUSTER: self.cluster}):
            await self.provider.delete(instance.id)
        await self.provider.stop()


@pytest_twisted.async_yield_fixture
async def case(daemon: DaemonProcess) -> Any:
    made = Case(daemon)
    await made.provider.start()
    yield made
    await made.close()


async def until(check: Callable[[], Any], seconds: float = 40.0) -> None:
    end = reactor.seconds() + seconds
    while True:
        found = check()
        if isinstance(found, Deferred):
            found = await found
        if found:
            return
        assert reactor.seconds() < end, "it did not come in time"
        await deferLater(reactor, 0.1)


def volumes(conn: Any) -> list[str]:
    pool = conn.storagePoolLookupByName("default")
    pool.refresh(0)
    return [name for name in pool.listVolumes() if name.startswith("podvm-")]


def reservations(conn: Any, token: str) -> int:
    return conn.networkLookupByName("default").XMLDesc(0).count(instance_mac(token))


@pytest_twisted.ensureDeferred
async def test_delete_leaves_no_domain_volume_or_reservation(case: Case, conn: Any) -> None:
    request = case.request()
    instance = await case.provider.create(request)
    assert len(volumes(conn)) == 2
    assert reservations(conn, request.token) == 1
    modes = [oct(p.stat().st_mode & 0o777) for p in Path(pool_folder(conn)).glob("*-cidata.iso")]
    assert modes == ["0o600"]
    await case.provider.delete(instance.id)
    assert volumes(conn) == []
    assert reservations(conn, request.token) == 0
    assert conn.listAllDomains() == []


def pool_folder(conn: Any) -> str:
    return ops.storage.pool_path(conn.storagePoolLookupByName("default"))


@pytest_twisted.ensureDeferred
async def test_the_guest_takes_the_reserved_address(case: Case, conn: Any) -> None:
    instance = await case.provider.create(case.request())
    assert len(instance.addresses) == 1, "the address is known before the guest has booted"

    def leased() -> bool:
        leases = conn.networkLookupByName("default").DHCPLeases(instance_mac(instance.token))
        return [lease["ipaddr"] for lease in leases] == [instance.addresses[0]]

    await until(leased)
    assert (await case.provider.describe(instance.id)).addresses[0] == instance.addresses[0]


@pytest_twisted.ensureDeferred
async def test_the_guest_sees_the_user_data_disk_by_its_label(case: Case) -> None:
    instance = await case.provider.create(case.request())

    async def said() -> bool:
        return tinyguest.SAYS.encode() in await case.provider.console(instance.id)

    await until(lambda: Deferred.fromCoroutine(said()))
    assert b"cidata" in (await case.provider.console(instance.id)).replace(b"\r", b"").split(b"\n")


@pytest.mark.parametrize("stage", ["_thd_fill", "_thd_reserve", "_thd_start"])
@pytest_twisted.ensureDeferred
async def test_a_create_that_dies_in_between_is_found_finished_and_deleted(
    case: Case, conn: Any, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def dies(*_: Any) -> None:
        raise libvirt.libvirtError("the process was killed here")

    request = case.request()
    with monkeypatch.context() as patch:
        patch.setattr(ops, stage, dies)
        with pytest.raises(CloudError, match="killed here"):
            await case.provider.create(request)
    found = await case.provider.find(request.token)
    assert found is not None
    assert found.state is InstanceState.PENDING
    finished = await case.provider.create(request)
    assert (finished.id, finished.state) == (found.id, InstanceState.RUNNING)
    await case.provider.delete(found.id)
    assert volumes(conn) == []
    with monkeypatch.context() as patch:
        patch.setattr(ops, stage, dies)
        with pytest.raises(CloudError):
            await case.provider.create(request)
    await case.provider.delete(found.id)
    assert volumes(conn) == []
    assert reservations(conn, request.token) == 0


@pytest_twisted.ensureDeferred
async def test_what_ran_and_stopped_is_not_started_again(case: Case, conn: Any) -> None:
    request = case.request()
    instance = await case.provider.create(request)
    await deferToThread(conn.lookupByUUIDString(instance.id).destroy)
    again = await case.provider.create(request)
    assert (again.id, again.state) == (instance.id, InstanceState.STOPPED)


STRANGER = "<domain type='qemu'><name>{}</name><memory>8192</memory><os><type>hvm</type></os></domain>"


@pytest_twisted.ensureDeferred
async def test_strangers_are_neither_listed_nor_deleted_nor_overwritten(case: Case, conn: Any) -> None:
    stranger = conn.defineXML(STRANGER.format("podvm-stranger"))
    try:
        assert await case.provider.list({}) == []
        with pytest.raises(CloudError) as caught:
            await case.provider.describe(stranger.UUIDString())
        assert caught.value.kind is CloudFailure.NOT_FOUND
        await case.provider.delete(stranger.UUIDString())
        with pytest.raises(CloudError, match="exists already"):
            await case.provider.create(case.request(name="podvm-stranger"))
        assert conn.lookupByName("podvm-stranger").UUIDString() == stranger.UUIDString()
    finally:
        stranger.undefine()


@pytest_twisted.ensureDeferred
async def test_a_restart_of_libvirtd_is_survived_and_ends_meanwhile_are_told(case: Case, daemon: DaemonProcess) -> None:
    events: list[InstanceEvent] = []
    case.provider.watch(events.append)
    first = await case.provider.create(case.request())
    second = await case.provider.create(case.request())
    await deferToThread(daemon.restart)
    assert {i.id for i in await case.provider.list({TAG_CLUSTER: case.cluster})} == {first.id, second.id}
    # Making one more shows that the daemon has found its guests again: it tells nobody of ends before that.
    await case.provider.create(case.request())

    def end() -> None:
        other = libvirt.open(daemon.uri)
        other.lookupByUUIDString(first.id).destroy()
        other.close()

    await deferToThread(end)
    await until(lambda: [e for e in events if e.instance.id == first.id])
    assert [e.instance.id for e in events] == [first.id]
    assert (await case.provider.describe(second.id)).state is InstanceState.RUNNING


@pytest_twisted.ensureDeferred
async def test_a_guest_that_ended_while_the_daemon_was_away_is_told(case: Case, daemon: DaemonProcess) -> None:
    events: list[InstanceEvent] = []
    case.provider.watch(events.append)
    instance = await case.provider.create(case.request())
    pid_file = daemon.folder / "run/qemu" / f"{instance.name}.pid"

    def kill_both() -> None:
        process = subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -9 {pid_file.read_text().strip()}"])
        daemon.restart()
        process.wait(10)

    await deferToThread(kill_both)
    await until(lambda: events)
    assert events[0].instance.id == instance.id
    assert events[0].instance.state is InstanceState.STOPPED
    assert len(events) == 1


@pytest_twisted.ensureDeferred
async def test_an_end_that_libvirt_told_nobody_of_is_found_by_the_next_round(
    case: Case, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case.provider, "_ended", lambda *_: None)
    events: list[InstanceEvent] = []
    case.provider.watch(events.append)
    instance = await case.provider.create(case.request())
    await case.provider._round()
    assert events == []
    await deferToThread(conn.lookupByUUIDString(instance.id).destroy)
    await case.provider._round()
    assert [(e.instance.id, e.instance.state) for e in events] == [(instance.id, InstanceState.STOPPED)]
    await case.provider._round()
    assert len(events) == 1


@pytest_twisted.ensureDeferred
async def test_a_volume_of_the_pool_boots_over_an_overlay(daemon: DaemonProcess, conn: Any) -> None:
    folder = Path(pool_folder(conn))
    base = folder / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "64M"], check=True)
    case = Case(daemon, image_dir="", vol_name="base.qcow2", root_disk_size=2)
    await case.provider.start()
    try:
        await case.provider.verify()
        request = case.request()
        instance = await case.provider.create(request)
        assert instance.state is InstanceState.RUNNING
        overlay = folder / f"{request.name}-root.qcow2"
        info = subprocess.run(
            ["qemu-img", "info", "-U", str(overlay)], check=True, capture_output=True, text=True
        ).stdout
        assert "virtual size: 2 GiB" in info
        assert f"backing file: {base}" in info
        with pytest.raises(CloudError, match="'absent' is not in the storage pool") as caught:
            await case.provider.create(case.request(spec=InstanceSpec(image="absent")))
        assert caught.value.kind is CloudFailure.NOT_FOUND
        assert caught.value.remedy
    finally:
        await case.close()
        base.unlink()
    assert volumes(conn) == []


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_a_quota_error_with_a_remedy(daemon: DaemonProcess, conn: Any) -> None:
    small = daemon.folder / "small"
    small.mkdir()
    daemon.inside("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small))
    pool = conn.storagePoolDefineXML(f"<pool type='dir'><name>small</name><target><path>{small}</path></target></pool>")
    pool.create()
    case = Case(daemon, pool_name="small")
    await case.provider.start()
    try:
        request = case.request(user_data=b"#" * 200_000)
        with pytest.raises(CloudError, match="No space left") as caught:
            await case.provider.create(request)
        assert caught.value.kind is CloudFailure.QUOTA
        assert "free space" in str(caught.value)
        found = await case.provider.find(request.token)
        assert found is not None
        await case.provider.delete(found.id)
        assert pool.listVolumes() == []
        assert reservations(conn, request.token) == 0
    finally:
        await case.close()
        pool.destroy()
        pool.undefine()
        daemon.inside("umount", str(small))


@pytest_twisted.ensureDeferred
async def test_image_annotation_is_refused_with_direct_boot(case: Case) -> None:
    for spec in (InstanceSpec(image="other"), InstanceSpec(gpus=1)):
        with pytest.raises(CloudError) as caught:
            await case.provider.create(case.request(spec=spec))
        assert caught.value.kind is CloudFailure.INVALID


@pytest_twisted.ensureDeferred
async def test_sizes_of_the_pod_win_over_the_defaults(case: Case, conn: Any) -> None:
    request = case.request(spec=InstanceSpec(vcpus=2, memory_mib=320))
    await case.provider.create(request)
    info = conn.lookupByUUIDString(instance_uuid(request.token)).info()
    assert (info[1], info[3]) == (320 * 1024, 2)


@pytest.mark.parametrize(
    ("asked", "settings", "gets"),
    [(64, {}, 256), (256, {}, 256), (257, {}, 257), (64, {"min_memory": 96}, 96), (0, {"memory": 128}, 128)],
)
def test_a_small_pod_gets_a_vm_that_boots(asked: int, settings: dict[str, int], gets: int) -> None:
    spec = InstanceSpec(memory_mib=asked)
    request = CreateRequest(token="a-1", name="podvm-a", spec=spec, user_data=b"#cloud-config\n", tags={})
    assert LibvirtProvider(LibvirtSettings(**settings), Clock())._order(request).memory_mib == gets


@pytest_twisted.ensureDeferred
async def test_kvm_is_refused_where_the_cpu_has_none(daemon: DaemonProcess, monkeypatch: Any) -> None:
    from peerpods.clouds import kvm

    monkeypatch.setattr(kvm, "probe", lambda: kvm.KvmVerdict(False, "the CPU has neither vmx nor svm"))
    case = Case(daemon, accel="kvm")
    with pytest.raises(ConfigError, match="neither vmx nor svm") as caught:
        await case.provider.verify()
    assert caught.value.setting == "accel"


def test_a_console_file_is_cut_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    with path.open("ab") as guest:
        guest.write(b"old " * 1000 + b"newest")
        guest.flush()
        assert not cut_file(path, 5000, 6)
        assert cut_file(path, 4000, 6)
        guest.write(b" line")
    assert path.read_bytes() == b"newest line"
    assert not cut_file(tmp_path / "absent", 1, 1)


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///system?socket=/a/b", True),
        ("qemu+ssh://root@host/system", False),
        ("qemu+tls://host/system", False),
        ("qemu://host/system", False),
    ],
)
def test_which_daemon_is_local(uri: str, local: bool) -> None:
    assert is_local(uri) is local
