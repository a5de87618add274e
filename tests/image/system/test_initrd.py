"""What is taken out of dracut's initrd, and what its end says; on a tree made here."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from peerpods.errors import LocalFailure
from peerpods.image import inputs
from peerpods.image.system import initrd

DATA = inputs.DATA["dracut"]
UNITS = "usr/lib/systemd/system"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As dracut leaves it: all that the inputs name, and more."""
    names = [f"usr/bin/{name}" for name in (*DATA["programs"], "bash")]
    names += [f"usr/lib/udev/rules.d/{name}" for name in (*DATA["rules"], "70-mouse.rules")]
    names += [f"usr/lib/systemd/system-generators/{name}" for name in (*DATA["generators"], "systemd-debug-generator")]
    names += [pattern.replace("*", ".1") for pattern in DATA["stripped"]]
    names += ["usr/sbin/agetty", f"{UNITS}/sysinit.target"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o755 if "bin" in name else 0o600)
    (tmp_path / "usr/bin/sh").symlink_to("bash")
    (tmp_path / f"{UNITS}/sysinit.target.wants").mkdir()
    (tmp_path / f"{UNITS}/sysinit.target.wants/systemd-sysctl.service").symlink_to("../systemd-sysctl.service")
    return tmp_path


def test_no_shell_and_nothing_but_what_is_named_is_left(tree: Path) -> None:
    initrd.lean(tree)
    assert {path.name for path in (tree / "usr/bin").iterdir()} == set(DATA["programs"])
    assert not list((tree / "usr/sbin").iterdir())
    assert {path.name for path in (tree / "usr/lib/udev/rules.d").iterdir()} == set(DATA["rules"])
    assert not list((tree / f"{UNITS}/sysinit.target.wants").iterdir())
    assert (tree / f"{UNITS}/sysinit.target").exists()


def test_what_dracut_no_longer_brings_is_an_error_that_names_it(tree: Path) -> None:
    (tree / "usr/bin/dmsetup").unlink()
    (tree / "usr/lib/udev/rules.d/55-dm.rules").unlink()
    with pytest.raises(LocalFailure, match=r"55-dm\.rules, dmsetup"):
        initrd.lean(tree)


@pytest.mark.parametrize("files", [DATA["files"], inputs.DATA["system_files"]], ids=["initrd", "root"])
@pytest.mark.parametrize("unit", ["emergency.service", "rescue.service"])
def test_an_emergency_is_told_on_the_console_and_ends_the_vm(files: dict[str, str], unit: str) -> None:
    lines = files[f"{UNITS}/{unit}"].splitlines()
    assert {"SuccessAction=poweroff-immediate", "FailureAction=poweroff-immediate", "StandardOutput=tty"} <= set(lines)
    assert [line for line in lines if line.startswith('ExecStart=echo "peerpods stopped: ')]
    assert not [line for line in lines if "sulogin" in line or "/sh" in line]


def test_the_wait_for_the_root_has_an_end_and_a_crash_too() -> None:
    words = inputs.DATA["command_line"]["system"]
    assert "systemd.default_device_timeout_sec=60" in words
    assert "systemd.crash_action=poweroff" in words


def test_the_archive_holds_each_file_with_one_of_two_modes(tree: Path) -> None:
    found = {entry.name: entry for entry in initrd.entries(tree)}
    assert found["usr/bin/bash"].mode == stat.S_IFREG | 0o755
    assert found[f"{UNITS}/sysinit.target"].mode == stat.S_IFREG | 0o644
    assert found["usr/bin/sh"].content == b"bash"
    assert found["usr/bin"].mode == stat.S_IFDIR | 0o755
