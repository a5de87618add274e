"""SNP launch digests. The expected values come from sev-snp-measure 0.0.13, run on the same synthetic firmware."""

from __future__ import annotations

import itertools

import pytest

from peerpods.errors import Refused
from peerpods.image.measure.firmware import Firmware, parse_firmware
from peerpods.image.measure.snp import CPU_MODELS, FEATURES, KernelFiles, Machine, Vmm, launch_digest, launch_digests
from tests.image.measure import synthetic

FILES = KernelFiles(kernel=b"kernel", initrd=b"initrd", command_line="ro")
KNOWN = [
    (
        Machine(vcpus=1),
        None,
        "086d7fea81a818275f20e3e9236e6ca34eeee9cccc32464bcbb44e459b7d3500be03e4161c4db9d95afd121690af5f39",
    ),
    (
        Machine(vcpus=2, cpu="EPYC-Milan", features=0x21),
        FILES,
        "b373dd5360a9b0816d3802dc94e9e7c865b2b952cdaf2395392fdaa47b159ab54c80ca247c4e2eb6dc100647a43d659d",
    ),
    (
        Machine(vcpus=64, cpu="EPYC-Genoa"),
        FILES,
        "5bb3f26a82c7b0520abc514a41ce3120b61f6fcf489407af98fcd78643932f833060e063bb6bd60f04fb83af8791006b",
    ),
    (
        Machine(vcpus=2, vmm=Vmm.EC2),
        None,
        "4b116c1bed738db54722c23c29763bd38aaaafb139b98549ce02bf4df0374b7ecd665aa41831f2c5f513c2ccd9cff7f2",
    ),
    (
        Machine(vcpus=4, cpu="EPYC-Turin", vmm=Vmm.GCE),
        None,
        "ede175bd29bcfb872bb52c4ce0742bba9277bd52bd0d99af56b92316ba797cfaa8beadae3bd4c392c7a8803c30ab4fd0",
    ),
]


@pytest.fixture(scope="module")
def firmware() -> Firmware:
    return parse_firmware(synthetic.firmware())


@pytest.mark.parametrize(("machine", "files", "expected"), KNOWN)
def test_equals_an_independent_tool(
    firmware: Firmware, machine: Machine, files: KernelFiles | None, expected: str
) -> None:
    assert launch_digest(firmware, machine, files).hex() == expected


def test_a_table_of_shapes_equals_its_single_values_and_no_two_are_equal(firmware: Firmware) -> None:
    machines = [
        Machine(vcpus=vcpus, cpu=cpu, features=features)
        for vcpus, cpu, features in itertools.product((1, 2, 8), ("EPYC-v4", "EPYC-Milan"), FEATURES.values())
    ]
    table = dict(launch_digests(firmware, machines, FILES))
    assert len(set(table.values())) == len(machines)
    assert table[machines[5]] == launch_digest(firmware, machines[5], FILES)


@pytest.mark.parametrize("part", ["kernel", "initrd", "command_line", "firmware"])
def test_every_byte_that_counts_changes_the_digest(firmware: Firmware, part: str) -> None:
    machine = Machine(vcpus=2)
    before = launch_digest(firmware, machine, FILES)
    if part == "firmware":
        changed = bytearray(firmware.data)
        changed[100] ^= 1
        assert launch_digest(parse_firmware(bytes(changed)), machine, FILES) != before
        return
    fields = {"kernel": b"kernel", "initrd": b"initrd", "command_line": "ro"}
    value = fields[part]
    fields[part] = value + (" quiet" if isinstance(value, str) else b"\0")  # type: ignore[operator]
    assert launch_digest(firmware, machine, KernelFiles(**fields)) != before  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine(vcpus=1, cpu="i386"), "CPU model 'i386' is unknown"),
        (Machine(vcpus=0), "0 vCPUs"),
        (Machine(vcpus=513), "513 vCPUs"),
    ],
)
def test_a_shape_that_no_vm_has_is_refused_in_words(firmware: Firmware, machine: Machine, words: str) -> None:
    with pytest.raises(Refused, match=words):
        launch_digest(firmware, machine)


def test_a_kernel_is_refused_where_the_firmware_would_not_measure_it() -> None:
    firmware = parse_firmware(synthetic.firmware(hashes=False))
    assert launch_digest(firmware, Machine(vcpus=1))
    with pytest.raises(Refused, match=r"would not be measured.*AmdSev"):
        launch_digest(firmware, Machine(vcpus=1), FILES)


def test_firmware_without_sev_is_refused() -> None:
    with pytest.raises(Refused, match="no SEV-SNP metadata"):
        launch_digest(parse_firmware(synthetic.firmware(sev=False)), Machine(vcpus=1))


def test_signatures_are_those_of_the_processors() -> None:
    assert CPU_MODELS["EPYC-Milan"] == 0x00A00F11
    assert CPU_MODELS["EPYC-v4"] == 0x00800F12
