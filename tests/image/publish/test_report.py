"""What is laid out for diffoscope, and what `peerpods image diff --report` says without it."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner

from peerpods.cli.main import cli
from peerpods.image.publish import report
from peerpods.image.publish.report import Part, Programs
from tests.image.measure import synthetic
from tests.image.publish.conftest import Maker

KIND = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")


def gpt(content: bytes) -> bytes:
    """A disk with one partition, which begins at sector 40."""
    assert len(content) % 512 == 0
    disk = bytearray(40 * 512)
    struct.pack_into("<8s", disk, 512, b"EFI PART")
    struct.pack_into("<QII", disk, 512 + 72, 2, 4, 128)
    disk[1024:1040] = KIND.bytes_le
    struct.pack_into("<QQ", disk, 1024 + 32, 40, 39 + len(content) // 512)
    return bytes(disk) + content


def test_partitions_are_those_of_the_table(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(gpt(bytes(1024)))
    assert report.partitions(disk) == [Part(KIND, 40 * 512, 1024)]
    disk.write_bytes(b"no disk at all")
    assert report.partitions(disk) == []


def test_only_what_differs_counts_and_signatures_never_do(make_image: Maker) -> None:
    one = make_image("one", tee="none")
    two = make_image("two", tee="none", cmdline=b"console=ttyS0 rw\n")
    (two.path / "SHA256SUMS.sig").write_bytes(b"another signer")
    found = report.differing(one.path, two.path)
    assert "cmdline" in found
    assert not {"vmlinuz", "SHA256SUMS", "SHA256SUMS.sig", "signing-key.pub"} & set(found)


def test_a_uki_is_laid_out_by_sections_and_other_forms_of_the_disk_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    for name, content in {
        "podvm.efi": synthetic.program(),
        "podvm.raw": gpt(bytes(512)),
        "podvm.vhd": b"vhd",
        "other": b"x",
    }.items():
        (folder / name).write_bytes(content)
    report.stage(folder, tmp_path / "laid", ["other", "podvm.efi", "podvm.raw", "podvm.vhd", "gone"], Programs())
    laid = {file.relative_to(tmp_path / "laid").as_posix() for file in (tmp_path / "laid").rglob("*") if file.is_file()}
    assert {"other", "podvm.efi/cmdline", "podvm.efi/sections.txt", "podvm.raw/partitions.txt"} <= laid
    assert not laid & {"podvm.vhd", "gone", "podvm.efi/linux", "podvm.raw/part"}
    assert (tmp_path / "laid/podvm.efi/cmdline").read_bytes() == b"console=ttyS0 ro"
    assert (tmp_path / "laid/podvm.raw/partitions.txt").read_text().startswith(f"1 {KIND} {40 * 512} 512 ")


def test_a_file_counts_as_another_when_mode_or_time_differ(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    before = report.listing(tmp_path)
    assert len(before.splitlines()) == 2
    (tmp_path / "file").chmod(0o755)
    assert report.listing(tmp_path) != before


def test_without_diffoscope_one_line_says_how_to_get_it(
    make_image: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_image("one", tee="none"), make_image("two", tee="none", cmdline=b"console=ttyS0 rw\n")
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["image", "diff", str(one.path), str(two.path)]
    done = CliRunner().invoke(cli, [*words, "--report", str(tmp_path / "report.html")])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "make diffoscope" in done.stderr and "diffoscope-minimal" in done.stderr
    assert not (tmp_path / "report.html").exists()
    plain = CliRunner().invoke(cli, words)
    assert plain.exit_code == 1
    assert "--report FILE" in plain.stderr


def test_diffoscope_of_the_host_serves_too(make_image: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: it shows what it is called with, ends as diffoscope does, and what it writes becomes the report."""
    one, two = make_image("one", tee="none"), make_image("two", tee="none", cmdline=b"console=ttyS0 rw\n")
    program = tmp_path / "bin/diffoscope"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nfor word; do kind=$last; last=$word; done\ncat "$kind/cmdline" "$last/cmdline" > report\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    target = tmp_path / "reports/report.txt"
    done = CliRunner().invoke(cli, ["image", "diff", str(one.path), str(two.path), "--report", str(target)])
    assert done.exit_code == 1, done.stderr
    assert target.read_text() == "console=ttyS0 ro\nconsole=ttyS0 rw\n"
    assert [path.name for path in target.parent.iterdir()] == ["report.txt"]
    assert str(target) in done.stderr
