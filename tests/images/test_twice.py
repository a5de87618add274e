"""Two builds in other surroundings give one digest of all that a verifier compares; a report says what differs."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from peerpods.image.progress import Progress
from peerpods.image.publish import folder as names
from peerpods.image.publish import report
from tests.images import built, twice
from tests.images.twice import Pair

pytestmark = [pytest.mark.images, pytest.mark.root, pytest.mark.timeout(1500)]
COMPARED = (
    names.RAW, names.UKI, names.INITRD, names.KERNEL, names.CMDLINE, names.ROOTHASH, names.LOCK, names.MANIFEST,
    names.MEASUREMENTS, names.RVPS, names.CYCLONEDX, names.SPDX, names.TOOLS_LOCK, "podvm.qcow2", "podvm.vhd",
    "firmware/OVMF.fd",
)  # fmt: skip
"""All but who built it and signed: provenance, sums and signature."""


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The two images that test_packer.py has too: nothing is built a third time."""
    return twice.pair()


def explained(old: Path, new: Path, name: str) -> str:
    """Which files are not the same in both folders, and where a report lies that says why; "" when none."""
    differing = report.differing(old, new)
    if not differing:
        return ""
    target = built.CACHE / "reports" / f"{name}.html"
    report.write(old, new, target, report.fetch(built.CACHE, Progress()))
    return f"{', '.join(differing)} differ between {old} and {new}: see {target}"


def test_two_builds_give_one_digest(pair: Pair) -> None:
    sums = {folder: {name: report.digest(folder / name) for name in COMPARED} for folder in (pair.first, pair.second)}
    assert sums[pair.first] == sums[pair.second], explained(pair.first, pair.second, "twice")


def test_nothing_is_published_that_is_not_compared(pair: Pair) -> None:
    published = {file.relative_to(pair.first).as_posix() for file in pair.first.rglob("*") if file.is_file()}
    assert published - names.UNSIGNED - {names.PROVENANCE} == set(COMPARED)
    statements = [_statement(folder) for folder in (pair.first, pair.second)]
    assert statements[0]["subject"] == statements[1]["subject"]


def test_the_second_build_had_other_surroundings(pair: Pair) -> None:
    seen = json.loads((pair.second.parent / "surroundings.json").read_text())
    umask = os.umask(0)
    os.umask(umask)
    assert seen["user"] == seen["group"] == twice.USER != os.getuid()
    assert seen["umask"] == 0o077 != umask
    assert seen["host"] == twice.HOST != socket.gethostname()
    assert seen["zone"] == "+14" not in time.tzname
    assert (seen["cores"], seen["locale"]) == (1, "tr_TR.UTF-8")
    assert not seen["source"].startswith(str(twice.TOP)) and not seen["cache"].startswith(str(built.CACHE))
    made = (pair.second.parent / "log").read_text()
    for step in ("packages of tools: ", "unpacking: ", "laying down the root, compiling: ", "initrd: "):
        assert step in made  # so none of it came from a cache


def _statement(folder: Path) -> dict[str, object]:
    envelope = json.loads((folder / names.PROVENANCE).read_text())
    found: dict[str, object] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def disk(folder: Path, word: str) -> Path:
    """A small image folder: a disk with one erofs, in which one line says `word`."""
    root = folder.with_name(f"{folder.name}-root")
    (root / "etc").mkdir(parents=True)
    (root / "etc/builder").write_text(f"built by {word}\n")
    folder.mkdir()
    part = folder / "part"
    subprocess.run(["mkfs.erofs", "--quiet", "-T0", part, root], check=True)
    content = part.read_bytes()
    part.unlink()
    head = bytearray(40 * 512)
    struct.pack_into("<8s", head, 512, b"EFI PART")
    struct.pack_into("<QII", head, 512 + 72, 2, 4, 128)
    head[1024:1040] = b"\1" * 16
    struct.pack_into("<QQ", head, 1024 + 32, 40, 39 + len(content) // 512)
    (folder / names.RAW).write_bytes(bytes(head) + content)
    return folder


def test_a_difference_is_found_inside_of_the_root(tmp_path: Path) -> None:
    """With a build input that is deliberately another: the builder's name, as a leak of the host would be."""
    one, other = disk(tmp_path / "one", "alice"), disk(tmp_path / "other", "bob")
    text = explained(one, other, f"small-{os.getpid()}")
    file = Path(text.rpartition(" ")[2])
    try:
        assert text.startswith(f"{names.RAW} differ between ")
        assert file.is_relative_to(built.CACHE)
        found = html.unescape(re.sub("<[^>]*>|\u200b", "", file.read_text())).replace("\xb7", " ")
    finally:
        file.unlink()
    for word in ("files-of-1/etc/builder", "built by alice", "built by bob", "list-of-1.txt"):
        assert word in found
    assert explained(one, one, "none") == ""


def test_people_get_the_same_report(tmp_path: Path) -> None:
    """As text, by the function behind `peerpods image diff --report`."""
    one, other = disk(tmp_path / "one", "alice"), disk(tmp_path / "other", "bob")
    report.fetch(built.CACHE, Progress())
    report.write(one, other, tmp_path / "report.txt", report.find(built.CACHE))
    text = (tmp_path / "report.txt").read_text()
    assert "-built by alice" in text and "+built by bob" in text
