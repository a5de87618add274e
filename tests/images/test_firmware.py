"""Real firmware: built from the edk2 source, read by the measurement code and by independent tools.

Each is compiled once and then comes from the cache. PEERPODS_FIRMWARE_TWICE=1 compiles both again, with one compiler at
a time, another folder, umask, time zone and host name, and compares the bytes (about 10 minutes more on two cores).
"""

from __future__ import annotations

import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from peerpods.image import build, firmware
from peerpods.image.agentkind import Agent
from peerpods.image.firmware.build import digest
from peerpods.image.measure import pe, snp, tdx
from peerpods.image.measure.firmware import SevKind, parse_firmware
from peerpods.image.progress import Progress
from tests.images import built
from tests.images.vmbox import Told, VmBox

pytestmark = [pytest.mark.images, pytest.mark.root, pytest.mark.timeout(2400)]
TWICE = os.environ.get("PEERPODS_FIRMWARE_TWICE") == "1"


def get(tee: str) -> dict[str, Path]:
    return firmware.get(tee, build.default_cache(), Progress())


def test_the_sev_firmware_takes_kernel_hashes_and_measures_as_another_tool_says(tmp_path: Path) -> None:
    guest = pytest.importorskip("sevsnpmeasure.guest")
    from sevsnpmeasure.vcpu_types import CPU_SIGS
    from sevsnpmeasure.vmm_types import VMMType

    file = get("snp")["OVMF.amdsev.fd"]
    read = parse_firmware(file.read_bytes(), file.name)
    assert read.has(SevKind.KERNEL_HASHES) and read.hash_table_gpa
    for name, data in (("kernel", b"k" * 9000), ("initrd", b"i" * 5000)):
        (tmp_path / name).write_bytes(data)
    files = snp.KernelFiles(kernel=b"k" * 9000, initrd=b"i" * 5000, command_line="ro roothash=00")
    for cpu, vcpus, features in (("EPYC-v4", 1, 1), ("EPYC-Milan", 2, 0x21), ("EPYC-Genoa", 64, 1)):
        machine = snp.Machine(vcpus=vcpus, cpu=cpu, features=features)
        expected = guest.snp_calc_launch_digest(
            vcpus, CPU_SIGS[cpu], str(file), str(tmp_path / "kernel"), str(tmp_path / "initrd"), "ro roothash=00",
            features, "", VMMType.QEMU,
        )  # fmt: skip
        assert snp.launch_digest(read, machine, files) == expected


LINE = "console=ttyS0 panic=-1"
MEMORY = 1 << 30


def boots(file: Path, kernel: Path, initrd: Path, table: Path, at: int, seconds: float) -> float:
    """Seconds until the kernel spoke; 0 when it did not. Without SEV nobody injects the table: a loader device does."""
    command = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-m", str(MEMORY >> 20), "-bios", file, "-kernel", kernel,
               "-initrd", initrd, "-append", LINE, "-display", "none", "-no-reboot", "-serial", "stdio", "-net", "none",
               "-device", f"loader,file={table},addr={at:#x},force-raw=on"]  # fmt: skip
    began, seen = time.monotonic(), b""
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as machine:
        assert machine.stdout is not None
        try:
            while (left := began + seconds - time.monotonic()) > 0:
                if select.select([machine.stdout], [], [], left)[0]:
                    piece = os.read(machine.stdout.fileno(), 4096)
                    seen += piece
                    if b"Linux version" in seen:
                        return time.monotonic() - began
                    if not piece:
                        break
        finally:
            machine.kill()
    return 0.0


def as_given_to_the_firmware(kernel: bytes, initrd: bytes) -> bytes:
    """The kernel with its header filled in as QEMU does for machines that are not confidential (hw/i386/x86.c)."""
    patched = bytearray(kernel)
    patched[0x210], patched[0x211] = 0xB0, patched[0x211] | 0x80
    struct.pack_into("<H", patched, 0x224, 0x20000 - 0x10000 - 0x200)
    struct.pack_into("<I", patched, 0x228, 0x20000)
    struct.pack_into("<II", patched, 0x218, MEMORY - 0x28000 - 1 - len(initrd) & ~4095, len(initrd))
    return bytes(patched)


def test_the_sev_firmware_boots_what_the_hashes_say_and_nothing_else(tmp_path: Path) -> None:
    file = get("snp")["OVMF.amdsev.fd"]
    at = parse_firmware(file.read_bytes()).hash_table_gpa
    image = build.image(build.default_cache(), Agent(), Progress())
    kernel, initrd = (image / "vmlinuz").read_bytes(), (image / "initrd.img").read_bytes()

    def tried(kernel: bytes, initrd: bytes, line: str, seconds: float) -> float:
        files = snp.KernelFiles(kernel=kernel, initrd=initrd, command_line=line)
        table = tmp_path / "table"
        table.write_bytes(files.page(at % 4096)[at % 4096 :])
        return boots(file, image / "vmlinuz", image / "initrd.img", table, at, seconds)

    given = as_given_to_the_firmware(kernel, initrd)
    took = tried(given, initrd, LINE, 90)
    assert took, "the firmware refused the kernel, initrd and command line that the hashes name"
    for wrong in ((given + b"x", initrd, LINE), (given, initrd + b"x", LINE), (given, initrd, LINE + "x")):
        assert not tried(*wrong, max(2 * took, 8))


def test_a_kernel_by_the_vmm_has_the_digest_that_another_tool_says() -> None:
    other = pytest.importorskip("veritas.vendor.td_payload_qemu_hash")
    image = build.image(build.default_cache(), Agent(), Progress())
    kernel, initrd = image / "vmlinuz", (image / "initrd.img").read_bytes()
    given = pe.parse(as_given_to_the_firmware(kernel.read_bytes(), initrd))
    assert pe.authenticode(given, "sha384").hex() == other.compute_kernel_hash(str(kernel), len(initrd), MEMORY)


def flipped(file: Path, target: Path, section: str) -> Path:
    """A copy of a UKI in which a bit of one of its sections differs."""
    data = bytearray(file.read_bytes())
    part = next(part for part in pe.parse(bytes(data)).sections if part.name == section)
    data[part.offset + part.virtual_size // 2] ^= 1
    target.write_bytes(data)
    return target


def test_the_sev_firmware_boots_the_unified_kernel_of_the_hashes_with_its_disk_and_no_other() -> None:
    """As docs/images.md says to launch: podvm.efi as -kernel, without initrd and command line, podvm.raw as the disk.

    Both machines start at once. The wrong one has said nothing when the right one is through to our units and its end.
    """
    file, image = get("snp")["OVMF.amdsev.fd"], built.image("prod-test")
    at = parse_firmware(file.read_bytes()).hash_table_gpa
    files = snp.KernelFiles(kernel=(image / "podvm.efi").read_bytes())
    with tempfile.TemporaryDirectory(prefix="ppvm") as scratch:
        table = Path(scratch) / "table"
        table.write_bytes(files.page(at % 4096)[at % 4096 :])

        def box(name: str, kernel: Path) -> VmBox:
            more: list[str | Path] = ["-kernel", kernel, "-device", f"loader,file={table},addr={at:#x},force-raw=on"]
            disk = image / "podvm.raw"
            return VmBox(Path(scratch) / name, built.machine(), disk, told=Told(), code=file, tpm=False, more=more)

        wrong = flipped(image / "podvm.efi", Path(scratch) / "wrong.efi", ".osrel")
        with box("other", wrong) as other, box("own", image / "podvm.efi") as own:
            own.wait_for_end(400)
            assert "peerpods stopped: this machine has neither a TEE nor a vTPM" in own.console
            assert other.console == "" and other.qemu.poll() is None


@pytest.mark.parametrize("name", ["OVMF.inteltdx.fd", "OVMF.fd"])
def test_the_tdx_firmware_measures_as_another_tool_says(name: str) -> None:
    other = pytest.importorskip("veritas.vendor.td_shim_tee_info_hash")
    file = get("tdx")[name]
    read = parse_firmware(file.read_bytes(), name)
    assert tdx.mrtd(read, tdx.Order.ONE_PASS).hex() == other.compute_mrtd(str(file))


def test_without_a_tee_it_is_debian_s_own() -> None:
    file = get("none")["OVMF.fd"]
    assert file.stat().st_size == 4 << 20 and not parse_firmware(file.read_bytes()).has(SevKind.KERNEL_HASHES)


@pytest.mark.skipif(not TWICE, reason="slow: PEERPODS_FIRMWARE_TWICE=1 compiles each firmware a second time")
@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_a_second_build_elsewhere_gives_the_same_bytes(tee: str, tmp_path: Path) -> None:
    first = next(iter(get(tee).values()))
    place = tmp_path / "another-longer-name"
    place.mkdir()
    for name in ("debs", "sources"):
        shutil.copytree(build.default_cache() / "firmware-apt" / name, place / "firmware-apt" / name)
    words = ["firmware", "--tee", tee, "--jobs", "1", "--cache", str(place)]
    script = 'hostname another; umask 077; exec "$0" "$@"'
    environment = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        ["unshare", "--uts", "sh", "-c", script, sys.executable, "-m", "peerpods.image", *words],
        env=environment, capture_output=True, text=True, timeout=1800, check=True,
    )  # fmt: skip
    second = Path(done.stdout.splitlines()[0])
    assert second != first and digest(second) == digest(first)
