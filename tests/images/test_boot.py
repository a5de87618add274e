"""Images booted whole: OVMF, vTPM, systemd, our units. What they say is what was computed; what was changed ends."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from peerpods.image.measure import pcr, pe
from peerpods.pki.contexts import client_context
from tests.images import built, disks
from tests.images.vmbox import Told, VmBox, flipped

pytestmark = [pytest.mark.images, pytest.mark.timeout(1100)]
INITDATA = 'algorithm = "sha384"\nversion = "0.1.0"\n\n[data]\n"policy.rego" = "package agent_policy"\n'
BOOT_SECONDS = 400.0  # on a loaded machine; an idle one needs about a minute
AT_ONCE = 2
OURS = re.compile(
    r"^\[ *\d+\.\d+\] \S+\[\d+\]: "
    r"(protected by vtpm|peerpods-measured \S+=\S+( sha256=[0-9a-f]{64})?|\{.*\"event\": \"ready\".*\})$"
)
FIRMWARE = re.compile(r"^(BdsDxe: |EFI stub: )")


@attrs.frozen
class Boot:
    """What is left of a boot for the tests to judge."""

    console: str
    measured: dict[str, str]
    facts: dict[str, Any] = attrs.Factory(dict)


def dial(port: int, told: Told, *, known: bool) -> str:
    """A TLS connection to the forwarder: "served" when the handshake is through, else the refusal's words."""
    keys = told.keys
    context = client_context(keys.server_cert, keys.client_cert, keys.client_key)
    if not known:
        context = ssl.create_default_context(cadata=keys.server_cert)
        context.check_hostname = False
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=keys.server_name) as link:
                link.settimeout(3.0)
                try:
                    return "ended" if link.recv(1) == b"" else "spoke"
                except TimeoutError:
                    return "served"
        except OSError as error:
            return f"refused: {error}"


@attrs.define
class Boots:
    """All boots, two at a time; each result is asked for by name."""

    folder: Path
    machine: built.Machine
    pool: ThreadPoolExecutor
    running: dict[str, Future[Boot]] = attrs.Factory(dict)

    def of(self, name: str) -> Boot:
        """Wait for a boot."""
        return self.running[name].result()

    def whole(self, image: Path) -> Boot:
        """To the running agent; then the forwarder is dialled."""
        told = Told(INITDATA)
        disk = image / "podvm.raw"
        with VmBox(self.folder / "whole", self.machine, disk, told=told, code=self.machine.plain) as box:
            box.wait_for('"room": "agent"', BOOT_SECONDS)
            console = box.console
            facts = {
                "known": dial(box.port, told, known=True),
                "stranger": dial(box.port, Told(), known=True),
                "bare": dial(box.port, told, known=False),
            }
            return Boot(console, box.measured(), facts)

    def able(self, image: Path) -> Boot:
        """By a firmware that knows Secure Boot, to the registers; without initdata."""
        disk = image / "podvm.raw"
        with VmBox(self.folder / "able", self.machine, disk, told=Told(), code=self.machine.code) as box:
            box.wait_for("peerpods-measured initdata=", BOOT_SECONDS)
            return Boot(box.console, box.measured())

    def ends(self, name: str, disk: Path, *, tpm: bool) -> Boot:
        """Until it powers off."""
        box = VmBox(self.folder / name, self.machine, disk, told=Told(), code=self.machine.plain, tpm=tpm)
        with box:
            box.wait_for_end(BOOT_SECONDS)
            return Boot(box.console, box.measured())

    def changed(self, name: str, image: Path, offset: int) -> Boot:
        """With one bit of the disk changed."""
        return self.once(name, flipped(image / "podvm.raw", self.folder / f"{name}.raw", offset))

    def other(self, name: str, image: Path) -> Boot:
        """With the hash tree's partition named for another root hash."""
        return self.once(name, disks.renamed(image / "podvm.raw", self.folder / f"{name}.raw", disks.HASHES))

    def once(self, name: str, disk: Path) -> Boot:
        """Until it powers off; then the disk is removed."""
        try:
            return self.ends(name, disk, tpm=True)
        finally:
            disk.unlink()


@pytest.fixture(scope="module")
def image() -> Path:
    return built.image("prod-test")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ppvm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def release(scratch: Path) -> Path:
    return built.image("prod", built.release_agent(scratch / "release"))


@pytest.fixture(scope="module")
def boots(image: Path, release: Path, scratch: Path) -> Iterator[Boots]:
    parts = disks.partitions(image / "podvm.raw")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = Boots(scratch, built.machine(), pool)
        jobs = {
            "whole": (found.whole, image),
            "able": (found.able, image),
            "root": (found.changed, "root", image, parts[disks.ROOT].offset + 4095),
            "tree": (
                found.changed,
                "tree",
                image,
                parts[disks.HASHES].offset + disks.superblock(image / "podvm.raw").hash_block + 7,
            ),
        }
        jobs["superblock"] = (found.changed, "superblock", image, parts[disks.HASHES].offset)
        jobs["missing"] = (found.other, "missing", image)
        for name, (call, *words) in jobs.items():
            found.running[name] = pool.submit(call, *words)  # type: ignore[arg-type]
        for name, folder in (("bare", image), ("release", release)):
            found.running[name] = pool.submit(found.ends, name, folder / "podvm.raw", tpm=False)
        try:
            yield found
        finally:
            pool.shutdown(cancel_futures=True)


def predicted(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "measurements.json").read_text())["vtpm"]["sha256"]
    return values


def test_the_registers_are_the_computed_ones(boots, image):
    seen, values = boots.of("whole").measured, predicted(image)
    bank = pcr.Bank()
    pcr.initdata(bank, hashlib.sha384(INITDATA.encode()).digest())
    assert seen["4"] == values["pcr4"]
    assert seen["7"] in values["pcr7"].values()
    assert seen["8"] == bank.values[8].hex()
    assert seen["9"] == values["pcr9"]
    assert seen["11"] == values["pcr11"]
    assert seen["initdata"] == hashlib.sha384(INITDATA.encode()).hexdigest()


def test_with_a_firmware_that_knows_secure_boot_only_register_7_is_another(boots, image):
    seen, values = boots.of("able").measured, predicted(image)
    assert {name: seen[name] for name in ("4", "9", "11")} == {name: values[f"pcr{name}"] for name in ("4", "9", "11")}
    assert {seen["7"], boots.of("whole").measured["7"]} == set(values["pcr7"].values())


def test_without_initdata_register_8_is_untouched(boots):
    seen = boots.of("able").measured
    assert seen["8"] == bytes(32).hex()
    assert seen["initdata"] == "none"


def test_the_forwarder_serves_its_relay_and_nobody_else(boots):
    facts = boots.of("whole").facts
    assert facts["known"] == "served"
    assert facts["stranger"].startswith("refused")
    assert facts["bare"] == "ended" or facts["bare"].startswith("refused")


def test_the_console_shows_nothing_but_our_lines(boots):
    lines = [line for line in boots.of("whole").console.splitlines() if not FIRMWARE.match(line)]
    assert [line for line in lines if not OURS.match(line)] == []
    assert len(lines) == 9  # protection, five registers, initdata, forwarder, agent


@pytest.mark.parametrize("name", ["bare", "release"])
def test_without_tee_and_vtpm_it_says_so_and_powers_off(boots, name):
    seen = boots.of(name)
    assert "peerpods stopped: this machine has neither a TEE nor a vTPM" in seen.console
    assert seen.measured == {}
    assert '"room"' not in seen.console


@pytest.mark.parametrize("name", ["root", "tree"])
def test_a_changed_bit_of_root_or_hash_tree_ends_the_boot(boots, name):
    seen = boots.of(name)
    assert "is corrupted" in seen.console
    assert seen.measured == {}
    assert '"room"' not in seen.console


@pytest.mark.parametrize(("name", "failed"), [("missing", ""), ("superblock", "systemd-veritysetup@root.service")])
def test_without_a_verity_root_the_initrd_says_so_and_powers_off(boots, name, failed):
    seen = boots.of(name)
    assert "peerpods stopped: the root cannot be used: no disk has the root hash of the command line" in seen.console
    assert failed in seen.console
    assert seen.measured == {}


def test_the_root_hash_of_the_command_line_is_the_disks_and_no_bit_of_the_root_can_change(image):
    disk = image / "podvm.raw"
    said = (image / "cmdline").read_text().split("roothash=")[1].split()[0]
    assert disks.root_hash(disk) == said
    facts = disks.superblock(disk)
    assert (facts.data_block, facts.hash_block) == (4096, 4096)  # 512, a sector, costs eight times the work
    assert disks.root_hash(disk, flip=facts.blocks * facts.data_block - 1) != said


@pytest.mark.parametrize("section", [".linux", ".initrd", ".cmdline", ".osrel", ".text"])
def test_a_changed_bit_of_the_uki_changes_the_registers(image, section):
    data = bytearray((image / "podvm.efi").read_bytes())
    values = predicted(image)
    part = next(part for part in pe.parse(bytes(data)).sections if part.name == section)
    data[part.offset + min(part.virtual_size, part.raw_size) // 2] ^= 1
    changed = pe.parse(bytes(data))
    bank = pcr.Bank()
    pcr.boot_images(bank, [("uki", changed), ("kernel", pe.parse(changed.section(".linux") or b""))])
    pcr.kernel_inputs(bank, (changed.section(".cmdline") or b"").decode("latin-1"), pcr.stub_initrd(changed))
    pcr.unified_kernel(bank, changed)
    assert bank.values[4].hex() != values["pcr4"]
    assert (bank.values[11].hex() == values["pcr11"]) == (section == ".text")  # the stub measures what it carries
    assert (bank.values[9].hex() == values["pcr9"]) == (section in (".linux", ".text"))


def test_a_changed_bit_of_the_agent_changes_root_hash_and_registers(release, scratch):
    content = bytearray(built.STAND_IN)
    content[-1] ^= 1
    other = built.image("prod", built.release_agent(scratch / "other", bytes(content)))
    assert (release / "roothash").read_text() != (other / "roothash").read_text()
    ours, theirs = predicted(release), predicted(other)
    assert all(ours[f"pcr{number}"] != theirs[f"pcr{number}"] for number in (4, 9, 11))
    assert (release / "initrd.img").read_bytes() == (other / "initrd.img").read_bytes()
