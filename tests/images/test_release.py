"""What is in the root of a release, file by file, and which policy its agent gets when it is booted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peerpods.image import inputs
from peerpods.image.progress import Progress
from peerpods.image.publish import report
from tests.images import built, disks
from tests.images.vmbox import Told, VmBox

pytestmark = [pytest.mark.images, pytest.mark.timeout(1100)]
POLICY = "default CreateSandboxRequest := true"
INITDATA = f"""algorithm = "sha384"
version = "0.1.0"

[data]
"policy.rego" = '''
package agent_policy

{POLICY}
'''
"""
BOOT_SECONDS = 400.0
PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin")
AWAY = {
    "sh",
    "bash",
    "dash",
    "ash",
    "busybox",
    "login",
    "su",
    "sudo",
    "sulogin",
    "agetty",
    "getty",
    "newgrp",
    "runuser",
}
AWAY |= {"sshd", "perl", "chsh", "passwd", "systemd-nspawn", "machinectl", "crun", "skopeo", "umoci"}
"""Shells, ways to become somebody, ways in; and what only the development agent calls."""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pprl"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def release(scratch: Path) -> Path:
    return built.image("prod", built.release_agent(scratch / "release"))


@pytest.fixture(scope="module")
def root(release: Path, scratch: Path) -> Path:
    """The root's files, as they are in the disk."""
    part = disks.partitions(release / "podvm.raw")[disks.ROOT]
    with (release / "podvm.raw").open("rb") as disk:
        disk.seek(part.offset)
        (scratch / "part").write_bytes(disk.read(part.size))
    (scratch / "tmp").mkdir()
    report.fetch(built.CACHE, Progress()).run(scratch, "fsck.erofs", "--extract=root", "part")
    return scratch / "root"


def test_there_is_no_shell_no_login_and_no_way_to_become_somebody(root: Path) -> None:
    found = {path.name for folder in PROGRAMS for path in (root / folder).iterdir()}
    assert {"kata-agent", "mount", "nft", "python3.13"} <= found
    assert found & AWAY == set()
    units = {path.name for kind in ("service", "socket") for path in (root / "usr/lib/systemd").rglob(f"*.{kind}")}
    assert {"kata-agent.service", "systemd-networkd.socket"} <= units
    assert [name for name in units if "getty" in name or "ssh" in name or "shell" in name] == []


def test_no_file_gives_rights_and_none_can_be_written_by_others(root: Path) -> None:
    modes = {path: path.lstat().st_mode for path in (root, *root.rglob("*")) if not path.is_symlink()}
    assert len(modes) > 1000
    assert [path for path, mode in modes.items() if mode & 0o6022] == []
    assert modes[root / "etc/shadow"] & 0o777 == 0o600
    rows = [line.split(":") for line in (root / "etc/shadow").read_text().splitlines()]
    assert [row[0] for row in rows] == [user["name"] for user in inputs.DATA["users"]]
    assert {row[1] for row in rows} == {"!*"}
    shells = {line.rpartition(":")[2] for line in (root / "etc/passwd").read_text().splitlines()}
    assert shells == {"/usr/sbin/nologin"} and not (root / "usr/sbin/nologin").exists()


def test_the_inputs_are_in_it(root: Path) -> None:
    for name, text in inputs.DATA["files"].items():
        assert (root / name).read_text() == text
    rows = (root / "etc/sysctl.d/50-peerpods.conf").read_text().splitlines()
    assert rows == [f"{name} = {value}" for name, value in inputs.DATA["sysctls"].items()]
    marks = (root / "etc/os-release").read_text().splitlines()
    assert {'IMAGE_ID="podvm"', 'VARIANT_ID="release"', 'PEERPODS_AGENT="kata"'} <= set(marks)


def _told(folder: Path, disk: Path, initdata: str | None) -> str:
    """The console of a machine with a vTPM, when it is off."""
    machine = built.machine()
    with VmBox(folder, machine, disk, told=Told(initdata), code=machine.plain) as box:
        box.wait_for_end(BOOT_SECONDS)
        return box.console


def test_the_agent_has_the_policy_of_the_initdata_and_without_one_a_policy_that_denies(
    release: Path, scratch: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = (
            pool.submit(_told, scratch / name, release / "podvm.raw", initdata)
            for name, initdata in (("given", INITDATA), ("bare", None))
        )
    assert f"kata-agent has the policy: {POLICY}" in one.result()
    assert "kata-agent has the policy: default AllowRequestsFailingPolicy := false" in other.result()
