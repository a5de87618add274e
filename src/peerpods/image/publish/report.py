"""Where two images differ, in depth: what is inside of their files is laid out, and diffoscope of Debian 13 compares.

diffoscope looks into archives and programs by itself; it knows neither a root in a partition nor a UKI's sections.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path
from uuid import UUID

import attrs

from peerpods.errors import ConfigError, LocalFailure, Refused
from peerpods.image import debian, inputs
from peerpods.image.measure import pe
from peerpods.image.progress import Progress
from peerpods.image.publish import folder as names
from peerpods.image.run import run
from peerpods.image.system import tools
from peerpods.image.system.tools import Tools

PACKAGES = (
    "diffoscope-minimal",
    "bash",
    "coreutils",
    "diffutils",
    "binutils",
    "cpio",
    "zstd",
    "xxd",
    "erofs-utils",
    "libc-bin",
    "file",
)
SECTOR = 512
TIMEOUT = 900  # seconds for diffoscope; it then says what it has
OPTIONS = (
    "--no-progress",
    f"--timeout={TIMEOUT}",
    "--exclude-directory-metadata=yes",  # the folders are ours; modes and times of an image's are in listings
    "--max-diff-block-lines=200",
    "--max-page-diff-block-lines=200",
)
_EROFS = bytes.fromhex("e2e1f5e0")
_AS_ELSEWHERE = {names.UKI: (".linux", ".initrd")}
"""Sections that are compared as the files vmlinuz and initrd.img."""
_FOLLOW = ("podvm.qcow2", "podvm.vhd")
"""The raw disk in other forms."""


@attrs.frozen
class Programs:
    """diffoscope and what it calls: the host's, or those of a tree."""

    tree: Tools | None = None

    def run(self, work: Path, *command: str) -> None:
        """Run with `work` as the current folder.

        Raises:
            LocalFailure: it failed.
        """
        if self.tree is None:
            run(command, cwd=work, timeout=2 * TIMEOUT)
        else:
            self.tree.run(work, "env", "--chdir=/work", "TMPDIR=/work/tmp", *command, timeout=2 * TIMEOUT)


def find(cache: Path) -> Programs:
    """The tree's, else the host's.

    Raises:
        ConfigError: neither is there; how to get one.
    """
    tree = _folder(cache)
    if (tree / "packages.lock").exists():
        return Programs(Tools(tree))
    if shutil.which("diffoscope"):
        return Programs()
    raise ConfigError(
        "a report needs diffoscope, which is not here",
        setting="report",
        remedy="run `make diffoscope` (it is only unpacked below the cache), or install diffoscope-minimal",
    )


def fetch(cache: Path, progress: Progress) -> Programs:
    """Those of a tree below the cache, made when it is not there: nothing of the host changes.

    Raises:
        ConfigError, LocalFailure: no archive, or no network.
    """
    tree = _folder(cache)
    if not (tree / "packages.lock").exists():
        archive = debian.Archive(cache / "image-apt")
        archive.update()
        tools.make(tree, archive.resolve(archive.closure(PACKAGES)), archive, progress)
    return Programs(Tools(tree))


def _folder(cache: Path) -> Path:
    facts = json.dumps([PACKAGES, inputs.DATA["archive"]])
    return cache / f"image-diffoscope-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def write(old: Path, new: Path, report: Path, programs: Programs) -> None:
    """Compare two folders, images' or others, and write the report: text if its name ends in .txt, else HTML.

    Raises:
        LocalFailure: a program failed.
    """
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=report.parent) as name:
        work = Path(name)
        (work / "tmp").mkdir()
        for side, folder in (("old", old), ("new", new)):
            stage(folder, work / side, differing(old, new), programs)
        kind = "--text" if report.suffix == ".txt" else "--html"
        words = ("diffoscope", *OPTIONS, kind, "report", "old", "new")
        programs.run(work, "sh", "-c", '"$@" || [ $? = 1 ]', "sh", *words)  # 1: they differ
        if not (work / "report").exists():
            (work / "report").write_text("no difference\n")
        (work / "report").replace(report)


def differing(old: Path, new: Path) -> list[str]:
    """Names of files that are not the same in both folders, sorted; without signatures, which never are."""
    found = {path.relative_to(folder).as_posix() for folder in (old, new) for path in folder.rglob("*")}
    return sorted(name for name in found - names.UNSIGNED if digest(old / name) != digest(new / name))


def digest(file: Path) -> str:
    """SHA-256 in hex; "" when it is no file."""
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stage(folder: Path, target: Path, wanted: list[str], programs: Programs) -> None:
    """Lay out what of a folder is to be compared, in `target`: disks as table and root, UKIs as sections."""
    target.mkdir()
    for name in wanted:
        source = folder / name
        if not source.is_file() or (name in _FOLLOW and names.RAW in wanted):
            continue
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name == names.RAW and (parts := partitions(source)):
            _disk(source, parts, place, programs)
        elif name == names.UKI:
            _sections(source, place)
        else:
            _link(source, place)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or another user's
        shutil.copyfile(source, target)


def _sections(source: Path, place: Path) -> None:
    try:
        image = pe.parse(source.read_bytes(), source.name)
    except Refused:  # damaged, which may be the difference
        _link(source, place)
        return
    place.mkdir()
    rows = []
    for section in image.sections:
        content = image.section(section.name) or b""
        rows.append(f"{section.name} {section.virtual_size} {section.offset} {hashlib.sha256(content).hexdigest()}\n")
        if section.name not in _AS_ELSEWHERE[names.UKI]:
            (place / section.name.strip(".")).write_bytes(content)
    (place / "sections.txt").write_text("".join(rows))


@attrs.frozen
class Part:
    """One partition; offset and size in bytes."""

    kind: UUID
    offset: int
    size: int


def partitions(disk: Path) -> list[Part]:
    """Of a GPT (UEFI specification, GUID partition table), in its order; [] when there is none."""
    with disk.open("rb") as file:
        file.seek(SECTOR)
        header = file.read(SECTOR)
        if header[:8] != b"EFI PART":
            return []
        start, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(start * SECTOR)
        table = file.read(count * size)
    found = []
    for at in range(0, len(table) - 127, size):
        kind = UUID(bytes_le=table[at : at + 16])
        first, last = struct.unpack_from("<QQ", table, at + 32)
        if kind.int:
            found.append(Part(kind, first * SECTOR, (last - first + 1) * SECTOR))
    return found


def _disk(source: Path, parts: list[Part], place: Path, programs: Programs) -> None:
    """partitions.txt with a digest of each, and the files of each erofs with their modes and times."""
    place.mkdir()
    rows = []
    for number, part in enumerate(parts, 1):
        cut = place / "part"
        with source.open("rb") as disk, cut.open("wb") as file:
            disk.seek(part.offset)
            left = part.size
            while left and (piece := disk.read(min(left, 1 << 20))):
                file.write(piece)
                left -= len(piece)
        rows.append(f"{number} {part.kind} {part.offset} {part.size} {digest(cut)}\n")
        with cut.open("rb") as file:
            file.seek(1024)
            root = file.read(4) == _EROFS
        if root:
            files = place / f"files-of-{number}"
            inside = place.relative_to(place.parents[1])
            try:
                programs.run(place.parents[1], "fsck.erofs", f"--extract={inside / files.name}", str(inside / "part"))
                found = listing(files)
            except LocalFailure as error:  # damaged, which may be the difference
                found = f"{error}\n"
            (place / f"list-of-{number}.txt").write_text(found)
        cut.unlink()
    (place / "partitions.txt").write_text("".join(rows))


def listing(root: Path) -> str:
    """A line `MODE TIME DIGEST-OR-TARGET  PATH` for each thing below the root, sorted by path."""
    lines = []
    for path in sorted(root.rglob("*")):
        kind = path.readlink().as_posix() if path.is_symlink() else digest(path) or "-"
        facts = path.lstat()
        lines.append(f"{facts.st_mode:o} {facts.st_mtime_ns} {kind}  {path.relative_to(root)}\n")
    return "".join(lines)
