"""The image itself: its files, what is and is not inside, the same bytes twice, and a boot to a listening forwarder."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peerpods import userdata
from peerpods.clouds.libvirt.iso import build_iso
from peerpods.errors import LocalFailure
from peerpods.image import build, inputs, key, seal, trial
from peerpods.image.agentkind import Agent
from peerpods.image.base import Base
from peerpods.image.progress import Progress
from peerpods.model import PodNetwork
from peerpods.pki.issue import issue
from peerpods.userdata.apf import ApfConfig

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


def cidata(folder: Path) -> Path:
    """A user data disk as the adaptor makes it."""
    keys = issue("podvm-trial-12345678", datetime.datetime.now(datetime.UTC))
    network = PodNetwork(
        interface="eth0", mac="02:00:00:00:00:05", mtu=1450, addresses=("10.244.1.5/24", "fd00:1::5/64"),
        node_address="10.0.2.2",
    )  # fmt: skip
    apf = ApfConfig(
        pod_name="trial", pod_namespace="default", server_key=keys.server_key, server_cert=keys.server_cert,
        client_ca=keys.client_cert, network=network, vxlan_id=555001,
    )  # fmt: skip
    disk = folder / "cidata.iso"
    files = {"user-data": userdata.document(apf), "meta-data": b"instance-id: trial\n"}
    disk.write_bytes(build_iso("cidata", files))
    return disk


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


@pytest.mark.timeout(300)
def test_boot_to_forwarder_and_agent(image: Path, tmp_path: Path) -> None:
    """The real thing under QEMU: verity on, user data read, tunnel built, forwarder first, then the agent."""
    qemu = trial.command(image, cidata(tmp_path))
    phases, lines = trial.boot(qemu, until=trial.AGENT, timeout=240)
    for name, seconds, share in trial.shares(phases):
        print(f"{name:24} {seconds:6.2f} s {share:4.0%}")
    names = [phase.name for phase in phases]
    assert names == ["kernel", "initrd", "python", "user-data", "import", trial.LISTENING, trial.AGENT]
    assert [phase.uptime for phase in phases] == sorted(phase.uptime for phase in phases)
    console = "\n".join(lines)
    assert "PRIVATE KEY" not in console and "Traceback" not in console


@pytest.mark.timeout(300)
def test_another_root_hash_does_not_boot(image: Path, tmp_path: Path) -> None:
    """A changed command line (another root hash) does not boot, and the console says it."""
    qemu = trial.command(image, cidata(tmp_path))
    at = qemu.index("-append") + 1
    verity = qemu[at].split("peerpods.verity=")[1]
    wrong = ("0" if verity[0] != "0" else "1") + verity[1:]
    qemu[at] = qemu[at].replace(verity, wrong)
    with pytest.raises(LocalFailure, match="not ready"):
        trial.boot(qemu, timeout=60)
