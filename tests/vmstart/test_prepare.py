"""Which VM may go on: protection, initdata binding, and what is shown."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from peerpods.errors import GuestError
from peerpods.vmstart import prepare, tee
from peerpods.vmstart.tee import Tee

DIGEST = hashlib.sha384(b"initdata").digest()


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"/dev/sev-guest", "/dev/tpmrm0"}, Tee.SNP),
        ({"/dev/tdx_guest"}, Tee.TDX),
        ({"/sys/firmware/uv/prot_virt_guest"}, Tee.SE),
        ({"/dev/tpm0"}, Tee.VTPM),
        (set(), Tee.NONE),
    ],
)
def test_the_strongest_protection_counts(there: set[str], found: Tee) -> None:
    assert tee.detect(lambda path: path in there, lambda _path: "1\n") is found


def test_a_machine_that_could_protect_but_does_not_is_none() -> None:
    assert tee.detect(lambda path: path == tee.PROTECTED, lambda _path: "0\n") is Tee.NONE


@pytest.mark.parametrize("image_id", ["podvm", "podvm-prodtest"])
def test_a_release_ends_without_protection(image_id: str) -> None:
    with pytest.raises(GuestError, match="neither a TEE nor a vTPM"):
        prepare.check_protection(image_id, Tee.NONE)
    assert prepare.check_protection(image_id, Tee.VTPM) == "protected by vtpm"


def test_a_debug_image_warns_loudly() -> None:
    assert prepare.check_protection("podvm-debug", Tee.NONE).startswith("WARNING")


@pytest.mark.parametrize("size", [32, 48])
def test_binding_holds_for_the_initdata_it_was_launched_with(size: int) -> None:
    tee.check_binding(DIGEST[:size].ljust(size, b"\0"), DIGEST)
    tee.check_binding(bytes(size), None)


@pytest.mark.parametrize(
    ("bound", "digest", "words"),
    [
        (bytes(32), DIGEST, "launched for none"),
        (DIGEST[:32], None, "none came with its user data"),
        (hashlib.sha256(b"other").digest(), DIGEST, "is not the one"),
        (DIGEST[:31] + b"\xff", DIGEST, "is not the one"),
    ],
)
def test_any_other_initdata_is_refused(bound: bytes, digest: bytes | None, words: str) -> None:
    with pytest.raises(GuestError, match=words):
        tee.check_binding(bound, digest)


def test_registers_are_shown_one_a_line() -> None:
    shown = prepare.lines({4: b"\1" * 32, 8: None}, DIGEST)
    assert shown == [f"peerpods-measured pcr=4 sha256={'01' * 32}", f"peerpods-measured initdata={DIGEST.hex()}"]
    assert prepare.lines({}, None) == ["peerpods-measured initdata=none"]


def test_the_digest_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "initdata.digest"
    assert prepare.read_digest(str(file)) is None
    file.write_text(DIGEST.hex())
    assert prepare.read_digest(str(file)) == DIGEST
    file.write_text("nonsense")
    with pytest.raises(GuestError, match="is no digest"):
        prepare.read_digest(str(file))


def test_os_release_is_understood_with_and_without_quotes() -> None:
    assert prepare.os_release('NAME="a b"\nIMAGE_ID=podvm\n# no\n')["IMAGE_ID"] == "podvm"


def test_the_report_of_snp_is_read_through_configfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = bytearray(1184)
    report[0xC0:0xE0] = b"\5" * 32
    made: list[str] = []

    really = os.mkdir

    def mkdir(path: str) -> None:
        made.append(path)
        really(path)
        (Path(path) / "inblob").write_bytes(b"")
        (Path(path) / "outblob").write_bytes(bytes(report))

    def rmdir(path: str) -> None:
        made.remove(path)

    monkeypatch.setattr(tee.os, "mkdir", mkdir)
    monkeypatch.setattr(tee.os, "rmdir", rmdir)
    assert tee.snp_host_data(str(tmp_path)) == b"\5" * 32
    assert made == []
    monkeypatch.undo()
    with pytest.raises(GuestError, match="no SNP report"):
        tee.snp_host_data(str(tmp_path / "none"))
