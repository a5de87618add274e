"""The cache of firmware: what is there is not made again, what fails leaves nothing. No compiler, no network."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image.firmware import build, facts, get, source
from peerpods.image.firmware.recipe import Recipe
from peerpods.image.firmware.source import Source, SourceArchive, SourceFile
from peerpods.image.progress import Progress
from peerpods.image.system.tools import Tools

QUIET = Progress(quiet=True)
SOURCE = Source(name="edk2", version="1", files=(SourceFile("u", "a.orig.tar.xz", "d" * 64),))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Stands in for archive and compiler; the list says what was compiled."""
    done: list[str] = []
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "packages.lock").write_text("gcc 14 abc\n")

    def compile_(self: build.Site, recipe: Recipe, jobs: int, progress: Progress) -> Path:
        done.append(recipe.file)
        (self.work / "result").write_bytes(b"firmware")
        if jobs == 99:
            raise LocalFailure("the compiler failed")
        return self.work / "result"

    monkeypatch.setattr(SourceArchive, "refresh", lambda self, progress: None)
    monkeypatch.setattr(SourceArchive, "source", lambda self, name: SOURCE)
    monkeypatch.setattr(SourceArchive, "fetch_source", lambda self, source: [])
    monkeypatch.setattr(build.tree, "make", lambda *_: Tools(tools))
    monkeypatch.setattr(build.Site, "build", compile_)
    return done


def test_it_is_built_once_and_says_where_it_comes_from(made: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = get("snp", cache, QUIET)
    assert get("snp", cache, QUIET) == first and made == ["OVMF.amdsev.fd"]
    said = facts(first["OVMF.amdsev.fd"])
    assert said["source"] == {"a.orig.tar.xz": "d" * 64} and said["tools"] == ["gcc 14 abc"]
    assert said["sha256"] == build.digest(first["OVMF.amdsev.fd"])
    assert sorted(path.name for path in first["OVMF.amdsev.fd"].parent.iterdir()) == ["OVMF.amdsev.fd", "firmware.json"]


def test_a_build_that_fails_leaves_nothing(made: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(LocalFailure, match="the compiler failed"):
        get("snp", cache, QUIET, jobs=99)
    assert [path.name for path in cache.iterdir()] == ["firmware.lock"]


def test_no_room_is_said_before_anything(made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "DISK_NEEDED", 1 << 62)
    with pytest.raises(LocalFailure, match="are free"):
        get("snp", tmp_path / "cache", QUIET)
    assert made == []


def test_another_tee_is_refused_before_anything(made: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no firmware file"):
        get("se", tmp_path / "cache", QUIET)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceArchive:
    monkeypatch.setattr(SourceArchive, "update", lambda self: (_ for _ in ()).throw(LocalFailure("no network")))
    (tmp_path / "sources").mkdir()
    return SourceArchive(tmp_path)


def test_lists_at_hand_serve_where_there_is_no_network(archive: SourceArchive, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(LocalFailure, match="no network"):
        archive.refresh(QUIET)
    stamp = archive.folder / "updated"
    stamp.write_text("")
    archive.refresh(QUIET)
    old = time.time() - source.FRESH - 1
    os.utime(stamp, (old, old))
    archive.refresh(Progress())
    assert "the ones at hand serve: no network" in capsys.readouterr().err


def test_a_damaged_source_is_thrown_away(archive: SourceArchive) -> None:
    file = archive.folder / "sources/a.orig.tar.xz"
    file.write_bytes(b"damaged")
    with pytest.raises(LocalFailure, match="is damaged"):
        archive.fetch_source(SOURCE)
    assert not file.exists()
