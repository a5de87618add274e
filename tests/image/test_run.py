"""A tool's failure is one line; what is interrupted takes its children with it; folders are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image import place
from peerpods.image.run import need, run, telling

APT = """W: Some index is old
E: Failed to fetch http://127.0.0.1:1/debian/dists/trixie/InRelease  Could not connect to 127.0.0.1:1
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""
PYTHON = """compiling
Traceback (most recent call last):
  File "x", line 1, in <module>
ValueError: no such section
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (APT, "E: Failed to fetch http://127.0.0.1:1/debian/dists/trixie/InRelease Could not connect to 127.0.0.1:1"),
        (PYTHON, "ValueError: no such section"),
        ("reading\nmkfs.erofs: error writing: No space left on device\nmake: *** Error 1\n",
         "mkfs.erofs: error writing: No space left on device"),
        ("one\n\ntwo\n", "two"),
        ("", ""),
        ("x" * 1000, "x" * 300),
    ],
)  # fmt: skip
def test_the_telling_line(said: str, line: str) -> None:
    assert telling(said) == line


def test_a_failure_is_one_line_that_says_where_the_rest_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(LocalFailure) as caught:
        run(["sh", "-c", "echo first >&2; echo 'error: second' >&2; echo third >&2; exit 3"], name="some tool")
    (log,) = tmp_path.iterdir()
    text = str(caught.value)
    assert text == f"some tool failed with status 3: error: second; all that it said is in {log}"
    assert log.read_text() == "first\nerror: second\nthird\n"
    with pytest.raises(LocalFailure, match=r"sh failed with status 1: short$"):
        run(["sh", "-c", "echo short; exit 1"])
    assert list(tmp_path.iterdir()) == [log]


def test_a_full_disk_is_called_that() -> None:
    with pytest.raises(LocalFailure, match=r"dd found no room on the disk: .*No space left.*\(make room, or set CACHE"):
        run(["dd", "if=/dev/zero", "of=/dev/full", "count=1"])


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match=r"no-such-tool is not there \(run `make setup`\)"):
        run(["no-such-tool"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalFailure, match=r"not on PATH: dpkg-deb, tar \("):
        need(["dpkg-deb", "tar"])


def test_children_of_a_tool_end_with_it(tmp_path: Path) -> None:
    """The pipe's end shows it: it is at its end only when nobody has it open any more."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        words = ["sh", "-c", f"exec 9>/proc/{os.getpid()}/fd/{writer}; sleep 600 & wait"]
        with pytest.raises(LocalFailure, match="sh did not end within 1 s"):
            run(words, timeout=1)
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == b""


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    final = tmp_path / "a" / "folder"
    with pytest.raises(KeyboardInterrupt), place.fresh(final) as scratch:
        (scratch / "half").touch()
        raise KeyboardInterrupt
    assert not list(final.parent.iterdir())
    with place.fresh(final) as scratch:
        (scratch / "whole").touch()
    assert [file.name for file in final.iterdir()] == ["whole"] and list(final.parent.iterdir()) == [final]
    with pytest.raises(ValueError, match="late"), place.fresh(final):
        raise ValueError("late")
    assert (final / "whole").exists()


def test_two_builds_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    final = tmp_path / "snp-amd64-prod-0.1"
    (tmp_path / f"{final.name}.new").mkdir()  # of a build that was killed
    with place.fresh(final) as scratch:
        (scratch / "first").touch()
        with pytest.raises(LocalFailure, match=f"{final} is being made by another build"), place.fresh(final):
            raise AssertionError("the second one began")
        assert (scratch / "first").exists()
    assert [file.name for file in final.iterdir()] == ["first"]
    with place.fresh(final) as scratch:
        assert not list(scratch.iterdir())


def test_nothing_but_an_image_is_replaced(tmp_path: Path) -> None:
    place.replaceable(tmp_path / "not" / "yet")
    place.replaceable(tmp_path)
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(ConfigError, match="has other things than an image, which would be removed"):
        place.replaceable(tmp_path)
    with pytest.raises(ConfigError, match="letter is there and no folder"):
        place.replaceable(tmp_path / "letter")
    (tmp_path / "manifest.json").write_text("{}")
    place.replaceable(tmp_path)


def test_room_is_asked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    place.room([tmp_path / "not" / "yet"], 1)
    with pytest.raises(LocalFailure, match=r"MiB are free in .*not/yet \(make room"):
        place.room([tmp_path / "not" / "yet"], 1 << 62)
    assert not (tmp_path / "not").exists()


def test_errors_of_the_system_in_words(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x")
    assert place.in_words(full) == "no room on the disk for /x (make room, or set CACHE)"
    many = shutil.Error([("a", "b", str(full)), ("c", "d", str(full))])
    assert place.in_words(many) == "no room on the disk for b (make room, or set CACHE)"
    assert place.in_words(shutil.Error([("a", "b", "no\nright")])) == "a cannot be copied: no right"
    assert place.in_words(PermissionError(13, "Permission denied", "/y")) == "[Errno 13] Permission denied: '/y'"
