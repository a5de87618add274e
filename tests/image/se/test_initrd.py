"""The initrd of s390x: its archive, and its script run with stand-ins for all that it calls: any failure ends it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import attrs
import pytest

from peerpods.image import cpio
from peerpods.image.se import initrd
from tests.image.test_pure import fake_module

HASH = "0123456789abcdef" * 4
STUB = """#!/bin/sh
echo "${0##*/} $*" >> @LOG@
case "${0##*/} $*" in "${FAIL:-nothing}"*) exit 1 ;; esac
case "$1" in sed | cut) exec "$@" ;; esac
case $0 in *findfs) echo /dev/null ;; esac
exit 0
"""


def test_libraries_of_libraries_come_along():
    from peerpods.image import pause

    program = Path("/bin/sh").resolve().read_bytes()
    asked = []
    found = initrd.libraries([program], lambda name: asked.append(name) or pause.program())
    assert "libc.so.6" in found
    assert sorted(asked) == list(found)


def test_the_archive_has_a_script_programs_and_modules_in_their_order():
    module = fake_module(b"depends=dm-mod\0", ">")
    loaded: initrd.Loaded = {"sha_common": (b"1", {}), "sha256_s390": (b"2", {}), "dm_mod": (b"3", {})}
    loaded["dm_verity"] = (module, {"depends": ["dm-mod"]})
    entries = initrd.entries(
        script=b"#!", busybox=b"bb", programs={"usr/sbin/veritysetup": b"vs"}, shared={"libx.so": b"x"},
        release="6.12", loaded=loaded, tried={"sha256_s390", "sha_common"},
    )  # fmt: skip
    by_name = {entry.name: entry for entry in entries}
    assert by_name["etc/modules"].content == b"dm_mod dm_verity\n"
    assert by_name["etc/modules.tried"].content == b"sha_common sha256_s390\n"
    assert b"dm_verity.ko: dm_mod.ko\n" in by_name["usr/lib/modules/6.12/modules.dep"].content
    assert by_name["usr/lib/ld64.so.1"].content == b"s390x-linux-gnu/ld64.so.1"
    assert stat.S_IMODE(by_name["init"].mode) == 0o755
    assert cpio.write(entries, 1) == cpio.write(reversed(entries), 1)


@attrs.frozen
class Ran:
    """One run of the script."""

    status: int
    said: str
    calls: list[str]


def run(folder: Path, line: str, fail: str = "") -> Ran:
    """The script with its files below `folder` and stand-ins for its programs; a call that begins with `fail` fails."""
    log = folder / "log"
    log.write_text("")
    for name in ("busybox", "findfs", "veritysetup"):
        (folder / name).write_text(STUB.replace("@LOG@", str(log)))
        (folder / name).chmod(0o755)
    text = initrd.SCRIPT.read_text()
    for old, new in {
        "/usr/bin/busybox": f"{folder}/busybox", "/usr/sbin/": f"{folder}/", "/etc/": f"{folder}/",
        "/proc/cmdline": f"{folder}/cmdline", "[ -b ": "[ -e ", "-lt 300": "-lt 3",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (folder / "init").write_text(text.replace("export PATH=", "export OTHER="))
    (folder / "modules").write_text("dm_mod dm_verity\n")
    (folder / "modules.tried").write_text("sha256_s390\n")
    (folder / "cmdline").write_text(line + "\n")
    environment = {"PATH": "/usr/bin:/bin", "FAIL": fail}
    done = subprocess.run(
        ["sh", folder / "init"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout, log.read_text().splitlines())


def test_it_opens_the_root_by_its_hash_and_hands_over(tmp_path):
    seen = run(tmp_path, f"console=ttysclp0 roothash={HASH} quiet", fail="busybox modprobe sha256_s390")
    assert seen.status == 0
    assert seen.said == ""
    parts = ["01234567-89ab-cdef-0123-456789abcdef"] * 2
    assert [call for call in seen.calls if call.startswith("findfs")] == [f"findfs PARTUUID={part}" for part in parts]
    assert f"veritysetup open --panic-on-corruption /dev/null root /dev/null {HASH}" in seen.calls
    assert seen.calls[-1] == "busybox switch_root /root /usr/lib/systemd/systemd"
    loaded = [call.split()[-1] for call in seen.calls if call.startswith("busybox modprobe")]
    assert loaded == ["sha256_s390", "dm_mod", "dm_verity"]


@pytest.mark.parametrize(
    ("line", "fail", "said"),
    [
        ("quiet", "", "has no roothash= of 64 digits"),
        (f"roothash={HASH[1:]}", "", "has no roothash= of 64 digits"),
        (f"roothash={HASH.upper()}", "", "has no roothash= of 64 digits"),
        (f"roothash={HASH}", "busybox modprobe dm_verity", "refused its module dm_verity"),
        (f"roothash={HASH}", "findfs", "no disk has the partitions"),
        (f"roothash={HASH}", "veritysetup", "dm-verity refused the root disk"),
        (f"roothash={HASH}", "busybox mount -t proc", "no /proc"),
        (f"roothash={HASH}", "busybox mount -t erofs", "the root disk has no root file system"),
        (f"roothash={HASH}", "busybox mount -t tmpfs -o mode=755,nodev tmpfs /upper", "no memory to write to"),
        (f"roothash={HASH}", "busybox mount -t overlay", "memory cannot be laid over the root"),
        (f"roothash={HASH}", "busybox mount --move /dev", "/dev cannot be moved"),
    ],
)
def test_whatever_fails_powers_the_machine_off_in_words(tmp_path, line, fail, said):
    seen = run(tmp_path, line, fail)
    assert f"peerpods stopped: {said}" in seen.said.replace("the kernel command line ", "").replace("the kernel ", "")
    assert seen.calls[-1] == "busybox poweroff -f"
    assert seen.status == 1
    assert not [call for call in seen.calls if "switch_root" in call]
