"""What stops a build in the middle: one clear line, exit 2 (130 when interrupted), nothing half-made left."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from peerpods.errors import ConfigError
from peerpods.image import debian, inputs
from peerpods.image.__main__ import main
from peerpods.image.system import lock
from tests.images import built

pytestmark = [pytest.mark.images, pytest.mark.root, pytest.mark.timeout(600)]
TEST_IMAGE = ("build", "--tee", "none", "--profile", "prod-test", "--no-formats")
A = "a" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """The cache as it is, by links, so that what a build adds stands alone; nothing half-made may be among it."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for entry in built.CACHE.iterdir():
        if entry.suffix != ".new":  # another build's
            (folder / entry.name).symlink_to(entry)
    yield folder
    added = [entry for entry in folder.iterdir() if not entry.is_symlink()]
    assert [entry.name for entry in added if entry.suffix == ".new" or not (entry / "packages.lock").exists()] == []


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Copies of the locks in the tree, of what the archive has today: only what a test changes is wrong with them."""
    folder = tmp_path / "locks"
    shutil.copytree(lock.FOLDER, folder)
    monkeypatch.setattr(lock, "FOLDER", folder)
    held = lock.load("amd64", strict=True)
    assert held is not None
    archive = debian.Archive(built.CACHE / "image-apt")
    archive.update()
    try:
        lock.present(held, archive.stanzas(held.names()))
    except ConfigError:  # the archive has moved on since the locks were written
        assert main(["lock", "--cache", str(built.CACHE), "--quiet"]) == 0
    return lock.files("amd64")


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path, *words: str) -> str:
    """The one line that a build ends with."""
    out = tmp_path / "out" / "image"
    capsys.readouterr()
    code = main([*TEST_IMAGE, *words, "--quiet", "--cache", str(cache), "--out", str(out)])
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1), said.err
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return said.err


@pytest.mark.parametrize("which", [0, 1], ids=["image", "tools"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"no-such-package 1.0 {A}", "no-such-package (no such package)"),
        (f"zstd 0.0.1-1 {A}", "zstd 0.0.1-1 (now 1.5."),
    ],
)
def test_a_locked_package_that_the_archive_has_not(
    locks: tuple[Path, Path],
    which: int,
    line: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
) -> None:
    kept = [row for row in locks[which].read_text().splitlines() if row.split()[0] != line.split()[0]]
    locks[which].write_text("\n".join([*kept, line]) + "\n")
    error = refused(tmp_path, capsys, cache, "--lock", "strict")
    assert "LOCK=strict: 1 package of the lock are gone from the archive: " in error
    assert said in error and "refresh with `make lock`" in error


def test_a_package_that_the_lock_has_not(
    locks: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    rows = [row for row in locks[1].read_text().splitlines() if not row.startswith("zstd ")]
    locks[1].write_text("\n".join(rows) + "\n")
    error = refused(tmp_path, capsys, cache, "--lock", "strict")
    assert "LOCK=strict: 1 package of the tools differ from the lock: zstd 1.5." in error and "(not locked)" in error


def test_an_archive_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "apt"
    sources.mkdir()
    (sources / "sources.list").write_text("deb http://127.0.0.1:1/debian trixie main\n")
    monkeypatch.setattr(debian, "APT", sources)
    error = refused(tmp_path, capsys, tmp_path / "new")
    assert "the Debian archive http://127.0.0.1:1/debian cannot be read: " in error
    assert "onnection refused" in error and "(check the network, the proxy and the sources in /etc/apt)" in error


def test_an_image_that_is_too_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setitem(inputs.DATA["size_limit"], "prod-test", 50_000_000)
    error = refused(tmp_path, capsys, cache)
    assert "PROFILE=prod-test: the image is " in error and "more than the 50 MB that it may be" in error


def in_small_file_system(folder: Path, options: str, cache: Path) -> tuple[int, list[str], list[str]]:
    """A build on a tmpfs that only it can see: its exit code, its lines, and the names that are left on the tmpfs."""
    script = f"""mount -t tmpfs -o {options} small "$0" || exit 99
folder=$0; listing=$1; shift; "$@"; code=$?
ls -A "$folder/out" 2>/dev/null >"$listing"; exit $code"""
    listing = folder.parent / "left"
    words = [sys.executable, "-m", "peerpods.image", *TEST_IMAGE, "--quiet", "--cache", str(cache)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, folder, listing, *words,
         "--out", f"{folder}/out/image"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=500, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines(), listing.read_text().split()


def test_a_disk_without_room_is_seen_before_the_work(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    code, lines, left = in_small_file_system(small, "size=64m", small / "cache")
    assert (code, len(lines), left) == (2, 1, [])
    assert f"MiB are free in {small}/cache (make room, or set CACHE)" in lines[0]


def test_a_disk_that_fills_in_the_middle(tmp_path: Path, cache: Path) -> None:
    """Room enough by its bytes, but for so few files that laying down the root fills it: the same error, and cheap."""
    small = tmp_path / "small"
    small.mkdir()
    code, lines, left = in_small_file_system(small, "size=8g,nr_inodes=500", cache)
    assert (code, len(lines), left) == (2, 1, []), lines
    assert f"no room on the disk for {small}/out/image.new/work/root/" in lines[0]
    assert "(make room, or set CACHE)" in lines[0]


def working(session: int) -> list[str]:
    """What still runs of a session, and does not end at once: it was told to before."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = status.read_text().partition(" (")[2].rpartition(") ")
            if int(rest.split()[3]) == session:
                process = os.pidfd_open(int(status.parent.name))
                ended, _, _ = select.select([process], [], [], 10)
                os.close(process)
                found += [] if ended else [name]
    return found


@pytest.mark.parametrize(
    ("number", "step", "lacking"),
    [
        (signal.SIGINT, "fetching and unpacking", "image-tools-"),
        (signal.SIGINT, "laying down the root, compiling", ""),
        (signal.SIGINT, "initrd", ""),
        (signal.SIGTERM, "initrd", ""),
    ],
)
def test_an_interrupted_build_leaves_nothing_and_nobody(
    number: signal.Signals, step: str, lacking: str, tmp_path: Path, cache: Path
) -> None:
    for entry in cache.glob(f"{lacking}*") if lacking else ():
        entry.unlink()
    out, said = tmp_path / "out" / "image", []
    words = [sys.executable, "-m", "peerpods.image", *TEST_IMAGE, "--cache", str(cache), "--out", str(out)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell's job in the background, as a CI run may be, ignores SIGINT and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            said.append(line.rstrip("\n"))
            if said[-1].startswith(f"image: {step}") and said[-1].endswith("…"):
                process.send_signal(number)
        assert process.stdout.read() == ""
    assert working(process.pid) == []
    assert process.returncode == 130, said
    assert said[-1] == "image: interrupted: nothing half-made is left"
    assert said[-2].startswith(f"image: {step}")
    assert not out.parent.exists() or not list(out.parent.iterdir())
