"""The s390x root of TEE=se, built from packages and booted in emulation: an IBM Z without Secure Execution.

Only with PEERPODS_S390X=1: where this was written the mirror's lists of two s390x suites, and some of its s390x files,
were those of another day, so that a build without SE_SUITES and SE_DEBS (src/peerpods/image/se/sources.py) ends in
words. Both are taken from the environment here as in `make image`. The container itself has never been started.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import attrs
import pytest

from peerpods.image import agentkind, debian, pause, variant
from peerpods.image.progress import Progress
from peerpods.image.publish import signing
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.verify import verify
from peerpods.image.se import root
from peerpods.image.system import engine
from tests.images import built, disks
from tests.images.test_boot import dial
from tests.images.vmbox import Told, VmBox, flipped

WANTED = os.environ.get("PEERPODS_S390X") == "1"
WHY = "the mirror's s390x half was not whole where this was written: PEERPODS_S390X=1, with SE_SUITES if need be"
pytestmark = [pytest.mark.images, pytest.mark.timeout(1100), pytest.mark.skipif(not WANTED, reason=WHY)]
QEMU = ("qemu-system-s390x", "qemu-user")
ROOT = UUID("5eead9a9-fe09-4a1e-a1d7-520d00531306")
HASHES = UUID("b325bfbe-c7be-4ab8-8357-139e652d2f6b")
MEMORY_MIB = 2048  # half a GiB of it is for swiotlb, as the command line of TEE=se says
BOOT_SECONDS = 400.0
OPENED = "peerpods stopped: this machine has neither a TEE nor a vTPM"


@attrs.frozen
class Z:
    """The emulators of Debian 13, unpacked."""

    tree: Path

    def system(self) -> list[str]:
        """The command that emulates a machine, whatever the host is."""
        loader = self.tree / "usr/lib64/ld-linux-x86-64.so.2"
        program = self.tree / "usr/bin/qemu-system-s390x"
        libraries = self.tree / "usr/lib/x86_64-linux-gnu"
        return [str(loader), "--library-path", str(libraries), str(program), "-L", str(self.tree / "usr/share/qemu")]


class ZBox(VmBox):
    """One boot of an s390x image by kernel, initrd and command line, its disk beside them."""

    def __init__(self, folder: Path, z: Z, image: Path, *, disk: Path | None = None, line: str = "") -> None:
        super().__init__(
            folder, built.Machine(z.tree), disk or image / "podvm.raw", told=Told(), code=Path("none"), tpm=False
        )
        self._z = z
        self._image = image
        self._line = line or (image / "cmdline").read_text().strip()

    def _start(self) -> None:
        here = self._folder
        subprocess.run(["cp", "--sparse=always", self._disk, here / "disk.raw"], check=True)
        assert self._told is not None
        (here / "seed.iso").write_bytes(self._told.disk)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [
            *self._z.system(), "-machine", "s390-ccw-virtio,accel=tcg", "-cpu", "max", "-m", str(MEMORY_MIB),
            "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot",
            "-chardev", "stdio,id=console,signal=off", "-device", "sclpconsole,chardev=console",
            "-kernel", f"{self._image}/vmlinuz", "-initrd", f"{self._image}/initrd.img", "-append", self._line,
            "-drive", f"file={here}/disk.raw,format=raw,if=none,id=root", "-device", "virtio-blk-ccw,drive=root",
            "-drive", f"file={here}/seed.iso,format=raw,if=none,id=seed,readonly=on",
            "-device", "virtio-blk-ccw,drive=seed",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:15150",
            "-device", "virtio-net-ccw,netdev=net",
        ]  # fmt: skip
        self.began = time.monotonic()
        self.qemu = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._processes.append(self.qemu)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def told(self) -> Told:
        """What this VM is told at birth."""
        assert self._told is not None
        return self._told


@pytest.fixture(scope="module")
def z() -> Z:
    facts = json.dumps([QEMU, engine.tools_key()])
    folder = built.CACHE / f"image-machine-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    if not folder.exists():
        archive = debian.Archive(built.CACHE / "image-apt")
        archive.update()
        scratch = folder.with_name(folder.name + ".new")
        shutil.rmtree(scratch, ignore_errors=True)
        debian.unpack(archive.fetch(archive.closure(QEMU)), scratch)
        scratch.rename(folder)
    return Z(folder)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ppz"))
    yield folder
    shutil.rmtree(folder)


def build(profile: str, out: Path) -> Path:
    order = engine.Order(
        variant=variant.choose("se", "s390x", profile), agent=agentkind.Agent(), out=out, cache=built.CACHE,
        formats=False, signing_key=signing.own_key(built.CACHE / "signing-key.pem"),
    )  # fmt: skip
    return root.build(order, Progress())


@pytest.fixture(scope="module")
def image(scratch: Path) -> Path:
    return build("prod-test", scratch / "prod-test")


@pytest.fixture(scope="module")
def debug(scratch: Path) -> Path:
    return build("debug", scratch / "debug")


def test_the_folder_verifies_and_its_root_hash_is_the_disks(image, monkeypatch):
    monkeypatch.setattr(disks, "ROOT", ROOT)
    monkeypatch.setattr(disks, "HASHES", HASHES)
    folder = ImageFolder(image)
    assert [one for one in verify(folder, None) if not one.holds] == []
    assert not folder.has("podvm.se")
    assert "se" not in folder.json("measurements.json")
    assert f"roothash={folder.text('roothash')}" in folder.text("cmdline").split()
    assert disks.root_hash(image / "podvm.raw") == folder.text("roothash")
    suites = folder.manifest["suites"]
    assert suites == [name for _, name in root.settings(os.environ, tee="se", release=False).suites]


def test_a_second_build_gives_the_same_bytes(image, scratch):
    again = build("prod-test", scratch / "again")
    names = ("podvm.raw", "initrd.img", "vmlinuz", "cmdline", "packages.lock", "manifest.json")
    assert [name for name in names if (image / name).read_bytes() != (again / name).read_bytes()] == []


def test_without_a_tee_it_gets_to_our_units_says_so_and_powers_off(z, image, scratch):
    with ZBox(scratch / "bare", z, image) as box:
        box.wait_for_end(BOOT_SECONDS)
    assert OPENED in box.console
    assert '"room"' not in box.console


def test_a_changed_bit_of_the_root_ends_the_boot(z, image, scratch):
    part = disks.partitions(image / "podvm.raw")[ROOT]
    disk = flipped(image / "podvm.raw", scratch / "changed.raw", part.offset + 4095)
    with ZBox(scratch / "changed", z, image, disk=disk) as box:
        box.wait_for_end(BOOT_SECONDS)
    assert "is corrupted" in box.console
    assert OPENED not in box.console


def test_another_root_hash_finds_no_disk_and_powers_off(z, image, scratch):
    said = (image / "roothash").read_text().strip()
    line = (image / "cmdline").read_text().strip().replace(said, said[::-1])
    with ZBox(scratch / "other", z, image, line=line) as box:
        box.wait_for_end(BOOT_SECONDS)
    assert "peerpods stopped: no disk has the partitions of this root hash" in box.console
    assert OPENED not in box.console


def test_the_debug_image_serves_its_relay_and_nobody_else(z, debug, scratch):
    with ZBox(scratch / "debug-box", z, debug) as box:
        box.wait_for('"room": "agent"', BOOT_SECONDS)
        assert dial(box.port, box.told, known=True) == "served"
        assert dial(box.port, Told(), known=True).startswith("refused")


def test_the_pause_program_ignores_its_children_and_waits(z, tmp_path):
    program = tmp_path / "pause"
    program.write_bytes(pause.program("s390x"))
    program.chmod(0o755)
    words = [z.tree / "usr/bin/qemu-s390x", "-strace", program]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        try:
            while " pause(" not in seen:
                more = process.stderr.read(1)
                assert more, seen
                seen += more
        finally:
            process.kill()
    assert "rt_sigaction(SIGCHLD," in seen
    assert " = 0\n" in seen
