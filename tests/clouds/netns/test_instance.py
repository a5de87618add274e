"""Instances of the provider netns: real forwarder, a provider's death, the console's bound, addresses."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from peerpods.clouds.interface import CreateRequest
from peerpods.clouds.netns import launcher
from peerpods.clouds.netns.provider import NetnsProvider
from peerpods.clouds.netns.settings import NetnsSettings
from peerpods.clouds.netns.state import Record, Store, choose_address, started_at
from peerpods.model import InstanceSpec, InstanceState
from tests.contract.provider import user_data
from tests.podnet.harness import Space, Spaces


def order() -> CreateRequest:
    return CreateRequest(token="t-1", name="podvm-t", spec=InstanceSpec(), user_data=user_data(), tags={"a": "b"})


def answers(home: Space, address: str) -> bool:
    def dial() -> bool:
        with socket.socket() as sock:
            sock.settimeout(0.5)
            return sock.connect_ex((address, 15150)) == 0

    return home.do(dial)


@pytest.mark.root
@pytest_twisted.ensureDeferred
async def test_the_real_forwarder_listens_and_survives_its_provider(tmp_path: Path) -> None:
    spaces = Spaces(tmp_path)
    home = spaces.new("node")
    settings = NetnsSettings(instances_dir=str(tmp_path / "i"))
    first = NetnsProvider(settings, reactor, home=str(home.path))
    await first.start()
    second = NetnsProvider(settings, reactor, home=str(home.path))
    try:
        instance = await first.create(order())
        end = reactor.seconds() + 20
        while not answers(home, instance.addresses[0]):
            console = (await first.console(instance.id)).decode()
            assert (await first.describe(instance.id)).state is InstanceState.RUNNING, console
            assert reactor.seconds() < end, console
            await deferLater(reactor, 0.05)
        # The first provider is never stopped, as after kill -9; another finds what it left.
        await second.start()
        found = await second.find("t-1")
        assert found is not None and found == instance
        assert (await second.create(order())).id == instance.id
        record = Store(tmp_path / "i").read(instance.id)
        assert record is not None
        mounts = Path(f"/proc/{record.pid}/mountinfo").read_text()
        assert str(home.path) not in mounts, "an instance must not keep the node's namespaces alive"
        assert not (tmp_path / "i" / instance.id / "user-data").exists()
        await second.delete(instance.id)
        assert started_at(record.pid) == 0
        assert not answers(home, instance.addresses[0])
    finally:
        for left in await first.list({}):
            await first.delete(left.id)
        await first.stop()
        await second.stop()
        spaces.close()


def test_the_console_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    console = launcher.Console(path)
    for number in range(3000):
        console.write(f"{number:08d}".encode() * 128)
    assert path.stat().st_size <= launcher.CONSOLE_MAX
    assert path.read_bytes().endswith(b"00002999" * 128)


def test_addresses_differ_until_none_is_left() -> None:
    taken: set[str] = set()
    for number in range(13):
        address = choose_address("10.0.0.0/28", f"t{number}", taken)
        assert address not in taken and address not in ("10.0.0.0", "10.0.0.1", "10.0.0.15")
        taken.add(address)
    with pytest.raises(LookupError):
        choose_address("10.0.0.0/28", "more", taken)


def test_a_pid_of_another_process_is_not_the_instance(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        record = Record(id="ns-1", name="n", token="t", address="10.0.0.2", tags=(), pid=child.pid, started=1)
        assert not record.alive()
        store = Store(tmp_path)
        store.write(record)
        assert store.read("ns-1") == record and store.all() == [record]
        assert store.read("../ns-1") is None and store.read("ns-2") is None
        (tmp_path / "ns-1/instance.json").write_text("{")
        assert store.all() == []
    finally:
        child.communicate(timeout=10)
    assert started_at(child.pid) == 0
