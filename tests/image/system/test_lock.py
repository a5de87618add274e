"""The locks: drift in one line, strict builds that end, corrupt locks refused, what is gone from the archive named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peerpods.errors import ConfigError, Refused
from peerpods.image import inputs
from peerpods.image.publish import provenance
from peerpods.image.system import lock, packages, relock
from peerpods.image.variant import choose

A, B = "a" * 64, "b" * 64
LOCKED = f"libc6 2.41-12 {A}\nsystemd 257.9-1 {A}\nattrs-25.4.0-py3-none-any.whl {A}\n"
TOOLS = f"erofs-utils 1:1.8.6-1 {A}\nlibc6 2.41-12 {A}\n"
LOCKS = lock.Locks(image=LOCKED, tools=TOOLS)


def described(*rows: tuple[str, str, str]) -> list[dict[str, str]]:
    return [dict(zip(("Package", "Version", "SHA256"), row, strict=True)) for row in rows]


ARCHIVE = described(
    ("libc6", "2.41-12", A), ("libc6", "2.41-13", B), ("systemd", "257.9-1", A), ("erofs-utils", "1:1.8.6-1", A)
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the locks are, whole."""
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    for path, text in zip(lock.files("amd64"), (LOCKED, TOOLS), strict=True):
        path.write_text(text)
    return tmp_path


def test_as_locked_is_silent() -> None:
    assert lock.check(LOCKS, LOCKED, TOOLS, strict=True) == ""
    assert lock.check(LOCKS, f"libc6 2.41-12 {A}\n", "", strict=True) == ""


def test_drift_of_image_and_tools_is_one_line_and_ends_a_strict_build() -> None:
    used, tools = f"libc6 2.41-13 {B}\nnftables 1.1.3-1 {A}\n", f"erofs-utils 1:1.9-1 {B}\n"
    assert lock.check(LOCKS, used, tools, strict=False) == (
        "2 packages differ from the lock: libc6 2.41-12 -> 2.41-13, nftables 1.1.3-1 (not locked);"
        " 1 package of the tools differ from the lock: erofs-utils 1:1.8.6-1 -> 1:1.9-1"
    )
    for image, programs in ((used, TOOLS), (LOCKED, tools)):
        with pytest.raises(ConfigError, match=r"LOCK=strict: \d package") as caught:
            lock.check(LOCKS, image, programs, strict=True)
        assert "snapshot" in str(caught.value) and "\n" not in str(caught.value)


def test_much_drift_stays_one_line() -> None:
    used = "".join(f"package{index} 1 {A}\n" for index in range(50))
    line = lock.check(LOCKS, used, "", strict=False)
    assert line.endswith("and 44 more") and "\n" not in line


def test_what_the_archive_has_as_it_is_locked_is_fine_beside_newer_versions() -> None:
    lock.present(LOCKS, ARCHIVE)


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (described(("libc6", "2.41-13", B)), "libc6 2.41-12 (now 2.41-13)"),
        (described(("libc6", "2.41-12", B)), "libc6 2.41-12 (another digest)"),
        ([], "libc6 (no such package)"),
    ],
)
def test_a_locked_package_that_is_gone_is_named_in_one_line(archive: list[dict[str, str]], said: str) -> None:
    rest = [row for row in ARCHIVE if row["Package"] != "libc6"]
    with pytest.raises(ConfigError) as caught:
        lock.present(LOCKS, [*rest, *archive])
    assert f"LOCK=strict: 1 package of the lock are gone from the archive: {said} (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tool_that_is_gone_ends_a_strict_build_too() -> None:
    with pytest.raises(ConfigError, match="erofs-utils"):
        lock.present(LOCKS, [row for row in ARCHIVE if row["Package"] != "erofs-utils"])


def test_pins_are_the_packages_of_both_and_no_wheels() -> None:
    assert [pin.name for pin in LOCKS.pins()] == ["erofs-utils", "libc6", "systemd"]


def test_the_compiler_of_firmware_is_looked_for_by_its_own_name_and_not_pinned() -> None:
    """Its tree may be of another day, so its versions may be others."""
    locks = lock.Locks(image=LOCKED, tools=f"{TOOLS}firmware/gcc 4:14 {A}\nfirmware/libc6 2.41-13 {B}\n")
    assert locks.pins() == LOCKS.pins()
    assert locks.names() == {"erofs-utils", "libc6", "systemd", "gcc"}
    lock.present(locks, [*ARCHIVE, *described(("gcc", "4:14", A))])
    with pytest.raises(ConfigError, match=r"1 package of the lock are gone .*: firmware/gcc \(no such package\)"):
        lock.present(locks, ARCHIVE)


def test_what_firmware_is_made_of_stands_among_the_tools(tmp_path: Path) -> None:
    folder = tmp_path / "firmware-snp"
    folder.mkdir()
    said = {"tools": [f"gcc 4:14 {A}"], "source": {"edk2_2025.02.orig.tar.xz": B}}
    (folder / "firmware.json").write_text(json.dumps(said))
    found = packages.firmware_lock({"OVMF.amdsev.fd": folder / "OVMF.amdsev.fd", "own.fd": tmp_path / "own.fd"})
    assert found == f"firmware/edk2_2025.02.orig.tar.xz {B}\nfirmware/gcc 4:14 {A}\n"
    held = lock.Locks(image="", tools=found)
    assert lock.check(held, "", found, strict=True) == ""
    with pytest.raises(ConfigError, match=r"edk2-2025\.02"):
        lock.check(held, "", found.replace(B, A), strict=True)


@pytest.mark.parametrize("gone", [0, 1])
def test_no_lock(folder: Path, gone: int) -> None:
    lock.files("amd64")[gone].unlink()
    assert lock.load("amd64", strict=False) is None
    assert "no lock" in lock.check(None, LOCKED, TOOLS, strict=False)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        lock.load("amd64", strict=True)


@pytest.mark.parametrize("text", ["libc6\n", f"libc6 1 2 {A}\n", "libc6 1 abc\n", f"libc6 1 {A[:63]}"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("strict", [True, False])
def test_a_corrupt_lock_is_refused_with_its_file_and_line(folder: Path, text: str, which: int, strict: bool) -> None:
    path = lock.files("amd64")[which]
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + text)
    with pytest.raises(Refused) as caught:
        lock.load("amd64", strict=strict)
    assert f"{path}, line {number}: " in str(caught.value)


def test_words() -> None:
    assert lock.strict("strict") and not lock.strict("anew")
    with pytest.raises(ConfigError, match="LOCK=Strict: there is no such lock"):
        lock.strict("Strict")


def test_one_lock_of_several_has_each_package_once_in_order() -> None:
    assert lock.merge([f"b 1 {A}\na 1 {A}\n", f"a 1 {A}\nc 2 {B}\n"]) == f"a 1 {A}\nb 1 {A}\nc 2 {B}\n"
    with pytest.raises(Refused, match="different versions of a"):
        lock.merge([f"a 1 {A}\n", f"a 2 {A}\n"])


def test_the_locks_in_the_tree_hold_what_every_image_asks_for() -> None:
    """What is asked for by name; the archive alone knows what that depends on."""
    held = lock.load("amd64", strict=True)
    assert held is not None
    names = [{line.split()[0] for line in text.splitlines()} for text in (held.image, held.tools)]
    assert "linux-image-cloud-amd64" in names[0] and any(name.startswith("linux-image-6.12") for name in names[0])
    for tee, facts in inputs.DATA["tees"].items():
        for profile, row in inputs.DATA["profiles"].items():
            if "amd64" in facts["architectures"] and (row["layout"] == "system" or tee == "none"):
                assert choose(tee, "amd64", profile).packages().keys() <= names[0]
    for layout in ("system", "minimal"):
        assert set(inputs.DATA["tools"][layout]) <= names[1]
    firmware = inputs.DATA["pins"]["firmware"]
    assert {f"firmware/{name}" for name in firmware["tools"]} <= names[1]
    for name in (firmware["source"], firmware["stock"]["package"]):
        assert [line for line in names[1] if line.startswith(f"firmware/{name}_")]


def test_each_set_of_packages_is_looked_at_once() -> None:
    sets = [(one.layout, *one.packages()) for one in relock.variants()]
    assert len(set(sets)) == len(sets) >= 3


def test_the_provenance_names_the_tools() -> None:
    manifest = {"variant": {"tee": "none", "arch": "amd64", "profile": "prod"}, "epoch": 0, "agent": {}}
    made = json.loads(provenance.statement({"podvm.raw": A, "tools.lock": B}, manifest, A, ""))
    named = made["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "tools.lock", "digest": {"sha256": B}} in named
