"""The image itself: its files, what is and is not inside, the same bytes twice, and a boot to a listening forwarder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from peerpods.clouds.interface import TAG_CLUSTER
from peerpods.clouds.libvirt.domain import instance_mac
from peerpods.errors import LocalFailure
from peerpods.image import build, inputs, key, phases, seal, trial
from peerpods.image.agentkind import Agent
from peerpods.image.base import Base
from peerpods.image.progress import Progress
from peerpods.model import InstanceState

pytestmark = [pytest.mark.root, pytest.mark.vm]
MOST_COMPRESSED = 120_000_000  # bytes; what the image aims at


@pytest.fixture(scope="module")
def image() -> Path:
    """The image of this tree, built when it is not in the cache."""
    return build.image(build.default_cache(), Agent(), Progress())


@pytest.fixture
def base() -> Base:
    """The base layer, for its tools."""
    return Base(build.default_cache() / f"image-base-{key.base_key()}")


@pytest.fixture(scope="module")
def daemon() -> Iterator[trial.PrivateDaemon]:
    """A private libvirt; its folder is short, since it holds unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ppim") as folder:
        started = trial.PrivateDaemon(Path(folder))
        yield started
        started.close()


@pytest.mark.timeout(600)
def test_files_digests_and_size(image: Path, base: Base) -> None:
    """Exactly the promised files; digests are true; small enough."""
    assert {file.name for file in image.iterdir()} == {*build.FILES, "SHA256SUMS"}
    sums = dict(reversed(line.split("  ")) for line in (image / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: build.digest(image / name) for name in build.FILES}
    facts = json.loads((image / "manifest.json").read_text())
    assert facts["agent"]["kind"] == "development" and facts["epoch"] == inputs.EPOCH
    assert f"peerpods.verity={facts['roothash']}," in (image / "cmdline").read_text()
    for name, entry in facts["files"].items():
        assert entry == {"sha256": sums[name], "size": (image / name).stat().st_size}
    assert len(facts["packages"]) > 20 and len(facts["wheels"]) > 8
    assert build.compressed_size(base, image) <= MOST_COMPRESSED


@pytest.mark.timeout(600)
def test_a_changed_byte_is_found(image: Path, base: Base, tmp_path: Path) -> None:
    """The root hash on the command line covers every block of the root."""
    verity = (image / "cmdline").read_text().split("peerpods.verity=")[1].strip()
    copy = tmp_path / "root.img"
    shutil.copyfile(image / "root.img", copy)
    seal.verify(base, copy, verity)
    with open(copy, "r+b") as file:
        file.seek(copy.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(LocalFailure, match=r"veritysetup|ld-linux"):
        seal.verify(base, copy, verity)


@pytest.mark.timeout(600)
def test_second_build_is_the_cached_one(image: Path) -> None:
    """The command finds it by its key and prints the same folder."""
    done = subprocess.run(
        [sys.executable, "-m", "peerpods.image", "build"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(image)
    assert done.stderr.strip() == "image: it is there already"


@pytest.mark.timeout(900)
def test_two_builds_have_one_digest() -> None:
    """From scratch, under differing paths, umask, time zone, locale, host name; only fetched packages are shared."""
    first = build.twice(build.default_cache(), [], Progress())
    assert set(first) == set(build.FILES)


ANSWERS = """
import socket, sys, time
end = time.monotonic() + 10
while True:
    try:
        socket.create_connection((sys.argv[1], 15150), 2).close()
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
"""


@pytest.mark.timeout(300)
@pytest_twisted.ensureDeferred
async def test_boot_to_forwarder_and_agent(image: Path, daemon: trial.PrivateDaemon) -> None:
    """The real thing through libvirt: verity on, user data read, tunnel built, forwarder first, then the agent."""
    provider = trial.make_provider(reactor, daemon, image)
    await provider.start()
    try:
        found = await trial.start(reactor, provider, daemon.folder, trial.document(), timeout=240)
        console = (await provider.console(found.instance.id)).decode()
        assert not found.stopped, console
        print(phases.table(phases.rows(found.phases, found.created)))
        assert tuple(phase.name for phase in found.phases) == phases.NAMES
        uptimes = [phase.uptime for phase in found.phases]
        assert uptimes == sorted(uptimes)
        rows = phases.rows(found.phases, found.created)
        assert sum(row.share for row in rows) == pytest.approx(1.0)
        assert "PRIVATE KEY" not in console and "Traceback" not in console
        mac = instance_mac(found.instance.token).split(":")
        local = f"fe80::5054:ff:fe{mac[3]}:{mac[4]}{mac[5]}%ppbr0"
        for address in (found.instance.addresses[0], local):
            done = await deferToThread(daemon.inside, sys.executable, "-c", ANSWERS, address)
            assert done.returncode == 0, (address, done.stderr)
    finally:
        await end_all(provider)


async def end_all(provider: Any) -> None:
    """Delete what the test made."""
    for instance in await provider.list({TAG_CLUSTER: "trial"}):
        await provider.delete(instance.id)
    await provider.stop()


@pytest.mark.timeout(300)
@pytest_twisted.ensureDeferred
async def test_the_end_of_the_forwarder_is_the_end_of_the_vm(image: Path, daemon: trial.PrivateDaemon) -> None:
    """A forwarder that refuses to start (nobody to expect) ends the VM; the console says why, in plain lines."""
    provider = trial.make_provider(reactor, daemon, image)
    await provider.start()
    try:
        found = await trial.start(reactor, provider, daemon.folder, trial.document(client_ca=""), timeout=240)
        assert found.stopped == "the forwarder ended (status 1)"
        tail = (await provider.console(found.instance.id)).decode().splitlines()[-20:]
        assert any("forwarder: " in line and "tls-client-ca is missing" in line for line in tail), tail
    finally:
        await end_all(provider)


@pytest.mark.timeout(300)
@pytest_twisted.ensureDeferred
async def test_another_root_hash_does_not_boot(image: Path, daemon: trial.PrivateDaemon, tmp_path: Path) -> None:
    """A changed command line (another root hash) does not boot, and the last 20 console lines say it."""
    for name in ("vmlinuz", "initrd.img", "root.img"):
        (tmp_path / name).symlink_to(image / name)
    line = (image / "cmdline").read_text()
    at = line.index("peerpods.verity=") + len("peerpods.verity=")
    (tmp_path / "cmdline").write_text(line[:at] + ("1" if line[at] == "0" else "0") + line[at + 1 :])
    provider = trial.make_provider(reactor, daemon, tmp_path)
    await provider.start()
    try:
        found = await trial.start(reactor, provider, daemon.folder, trial.document(), timeout=240)
        assert found.stopped == "it ended without a word"
        assert [phase.name for phase in found.phases] == ["kernel"]
        tail = "\n".join((await provider.console(found.instance.id)).decode().splitlines()[-20:])
        assert "it is not the one of this kernel command line" in tail
        assert re.search(r"verity: .* is corrupted", tail), tail
        assert (await provider.describe(found.instance.id)).state is InstanceState.STOPPED
        print(tail)
    finally:
        await end_all(provider)
