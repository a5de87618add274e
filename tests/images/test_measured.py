"""Predicted values against real ones: PCR 11 against systemd-measure, all events of an image against a firmware's.

No TDX is here. An OVMF with a vTPM measures by the same code of edk2, the stub and the kernel; recorded.py of the unit
tests says where a TD puts the same events. So events and their order are shown, not the hardware's registers.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from peerpods.image import debian, variant
from peerpods.image.measure import eventlog, pcr, pe
from peerpods.image.progress import Progress
from peerpods.image.publish.replay import replay
from peerpods.image.system import engine, packages
from peerpods.image.system.tools import Tools
from tests.image.measure import recorded
from tests.images import built
from tests.images.vmbox import VmBox

pytestmark = [pytest.mark.images, pytest.mark.timeout(1100)]
BOOT_SECONDS = 400.0  # on a loaded machine; an idle one needs about a minute
SAY_LOG = 'base64 /sys/kernel/security/tpm0/binary_bios_measurements | while read l; do echo "LOG:$l"; done'
SAY_REGISTERS = 'cd /sys/class/tpm/tpm0; for f in pcr-sha256/* pcr-sha384/*; do echo "PCR:$f:$(cat $f)"; done'
LOGGED = re.compile(r"LOG:([A-Za-z0-9+/=]+)$", re.MULTILINE)
REGISTER = re.compile(r"PCR:pcr-(sha256|sha384)/(\d+):([0-9A-F]+)$", re.MULTILINE)
IMA = 10  # extended by the kernel, which logs elsewhere
BANKS = ("sha256", "sha384")
BOOTS = ("disk", "uki")


@attrs.frozen
class Told:
    """What a VM says of itself, by the shell of a debug image."""

    log: bytes
    registers: dict[tuple[str, int], str]


@pytest.fixture(scope="module")
def tdx_image() -> Path:
    return built.image("debug", tee="tdx")


@pytest.fixture(scope="module")
def measured(tdx_image: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tdx_image / "measurements.json").read_text())
    return found


def told(folder: Path, machine: built.Machine, image: Path, boot: str) -> Told:
    """Boot an image, and ask it for its event log and registers."""
    more = ["-kernel", image / "podvm.efi"] if boot == "uki" else []
    with VmBox(folder / boot, machine, image / "podvm.raw", told=None, code=machine.plain, more=more) as box:
        box.wait_for("built-in shell (ash)", BOOT_SECONDS)
        for line in (SAY_LOG, SAY_REGISTERS, 'echo ALL-"SAID"'):
            box.type(line)
        box.wait_for("ALL-SAID", BOOT_SECONDS)
        console = box.console
    values = {(bank, int(index)): value.lower() for bank, index, value in REGISTER.findall(console)}
    assert len(values) == len(BANKS) * 24, console[-3000:]
    return Told(base64.b64decode("".join(LOGGED.findall(console))), values)


@pytest.fixture(scope="module")
def boots(tdx_image: Path) -> Iterator[dict[str, Told]]:
    """Both at once."""
    folder, machine = Path(tempfile.mkdtemp(prefix="ppvm")), built.machine()
    try:
        with ThreadPoolExecutor(len(BOOTS)) as pool:
            running = {boot: pool.submit(told, folder, machine, tdx_image, boot) for boot in BOOTS}
            yield {boot: one.result() for boot, one in running.items()}
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("boot", BOOTS)
@pytest.mark.parametrize("bank", BANKS)
def test_the_log_replays_to_the_registers(boots: dict[str, Told], boot: str, bank: str) -> None:
    one = boots[boot]
    values = eventlog.replay(eventlog.parse(one.log).events, bank)
    assert set(values) >= {0, 1, 2, 3, 4, 5, 6, 7, 9, 11}
    zeros = bytes(len(values[0]))
    for index in set(range(16)) - {IMA}:
        assert values.get(index, zeros).hex() == one.registers[bank, index], index


@pytest.mark.parametrize("bank", BANKS)
def test_the_registers_of_a_disk_boot_are_the_computed_ones(
    boots: dict[str, Told], measured: dict[str, Any], bank: str
) -> None:
    seen, values = boots["disk"].registers, measured["vtpm"][bank]
    assert {f"pcr{index}": seen[bank, index] for index in (4, 9, 11)} == {
        name: values[name] for name in ("pcr4", "pcr9", "pcr11")
    }
    assert seen[bank, 7] == values["pcr7"]["no secure boot in the firmware"]
    found = replay(measured, eventlog.parse(boots["disk"].log))
    assert (found.boot, found.holds) == ("disk", True)


@pytest.mark.parametrize("boot", BOOTS)
def test_a_td_s_events_are_the_computed_ones_in_their_order(
    boots: dict[str, Told], measured: dict[str, Any], boot: str
) -> None:
    log = eventlog.parse(boots[boot].log)
    seen = [(rtmr, one.digests["sha384"].hex()) for rtmr, one in recorded.into_td(log.events)]
    expected = [(one["register"], one["digest"]) for one in measured["tdx"]["boots"][boot]["events"]]
    assert [pair for pair in seen if pair[0] in (1, 2)] == expected
    found = replay(measured, eventlog.parse(recorded.as_ccel(boots[boot].log)))
    assert (found.boot, found.holds) == (boot, True), [row for row in found.rows if row.holds is False]
    values = measured["tdx"]["boots"][boot]["rtmr"]
    assert (found.registers["RTMR1"], found.registers["RTMR2"]) == (values["1"], values["2"])
    known = {row.text for row in found.rows if row.register == "RTMR0" and row.holds}
    assert known == {"SecureBoot, no secure boot in the firmware", "PK", "KEK", "db", "dbx", "separator"}


def toolbox() -> Tools:
    archive = debian.Archive(built.CACHE / "image-apt")
    archive.update()
    chosen = packages.choose(variant.choose("none", "amd64", "prod-test"), archive, built.CACHE)
    return engine.tools_tree(built.CACHE, chosen.tools, archive, Progress())


def test_register_11_is_what_systemd_measure_says(tmp_path: Path) -> None:
    """The sections by objcopy, the values by Debian's systemd-measure: nothing of ours reads the UKI for it."""
    image, tools = built.image("prod-test"), toolbox()
    shutil.copyfile(image / "podvm.efi", tmp_path / "podvm.efi")
    names = ("linux", "osrel", "cmdline", "initrd", "uname", "sbat")
    for name in names:
        tools.run(tmp_path, "objcopy", "-O", "binary", f"--only-section=.{name}", "/work/podvm.efi", f"/work/{name}")
    paths = [":".join(pcr.PHASES[:count]) for count in range(len(pcr.PHASES) + 1)]
    said = json.loads(
        tools.run(
            tmp_path, "/usr/lib/systemd/systemd-measure", "calculate", "--json=short",
            *[f"--{name}=/work/{name}" for name in names], *[f"--bank={bank}" for bank in BANKS],
            *[f"--phase={path}" for path in paths],
        )
    )  # fmt: skip
    values = json.loads((image / "measurements.json").read_text())["vtpm"]
    uki = pe.parse((image / "podvm.efi").read_bytes())
    for bank in BANKS:
        theirs = {row.get("phase", ""): row["hash"] for row in said[bank]}
        ours = {}
        for count, path in enumerate(paths):
            made = pcr.Bank(bank)
            pcr.unified_kernel(made, uki, pcr.PHASES[:count])
            ours[path] = made.values[11].hex()
        assert ours == theirs
        assert values[bank]["pcr11"] == theirs[""]
