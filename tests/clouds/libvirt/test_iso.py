"""The ISO writer against our reader in the VM, and against the tool of others."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerpods.clouds.libvirt.iso import SECTOR, build_iso
from peerpods.userdata.iso import read_iso_file

FILES = {"user-data": b"#cloud-config\n" + b"x" * 5000, "meta-data": b"local-hostname: a\n", "vendor-data": b""}


def test_label_and_size() -> None:
    image = build_iso("cidata", FILES)
    assert image[16 * SECTOR + 40 : 16 * SECTOR + 72] == b"cidata".ljust(32)
    assert len(image) == 25 * SECTOR
    assert int.from_bytes(image[16 * SECTOR + 80 : 16 * SECTOR + 84], "little") == 25


def test_equal_input_gives_equal_bytes() -> None:
    assert build_iso("cidata", FILES) == build_iso("cidata", dict(reversed(FILES.items())))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3 * SECTOR), st.binary(max_size=10))
def test_the_reader_of_the_vm_gets_it_back(first: bytes, second: bytes) -> None:
    disk = io.BytesIO(build_iso("cidata", {"user-data": first, "meta-data": second}))
    assert read_iso_file(disk, "user-data", 1 << 20) == first
    assert read_iso_file(disk, "meta-data", 1 << 20) == second
    assert read_iso_file(disk, "absent", 1 << 20) is None


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "x" * 31, "ü"])
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        build_iso("cidata", {name: b""})


def test_labels_and_counts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="label"):
        build_iso("x" * 33, {})
    with pytest.raises(ValueError, match="too many"):
        build_iso("cidata", {f"file-number-{n}": b"" for n in range(60)})


@pytest.mark.skipif(shutil.which("isoinfo") is None, reason="isoinfo (genisoimage) is not installed")
def test_isoinfo_reads_it(tmp_path: Path) -> None:
    image = tmp_path / "i.iso"
    image.write_bytes(build_iso("cidata", FILES))
    command = ["isoinfo", "-i", str(image), "-x", "/USER-DATA.;1"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == FILES["user-data"]
