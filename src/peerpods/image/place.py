"""Folders that get their final name only when they are whole, one builder at a time, where there is room."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image.progress import Progress
from peerpods.image.run import NO_ROOM, ROOM


@contextmanager
def fresh(final: Path) -> Iterator[Path]:
    """An empty folder beside `final` that replaces it when all went well, and is removed when not.

    It is locked meanwhile: one that is there without a lock was left by a process that was killed.

    Raises:
        LocalFailure: another process makes `final` now.
    """
    scratch = final.with_name(final.name + ".new")
    if scratch.is_dir():
        os.close(_locked(scratch))
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    held = _locked(scratch)
    try:
        yield scratch
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(held)


def _locked(scratch: Path) -> int:
    """The folder opened and locked."""
    held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        name = scratch.with_suffix("")
        raise LocalFailure(f"{name} is being made by another build", remedy="wait for its end") from None
    return held


def replaceable(out: Path) -> None:
    """Refuse to put an image in the place of what is none: `fresh` would remove it.

    Raises:
        ConfigError: there is a file, or a folder with other things than an image.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is there and no folder", setting="out", remedy="name another folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise ConfigError(
            f"{out} has other things than an image, which would be removed",
            setting="out",
            remedy="name another folder with --out",
        )


@contextmanager
def alone(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file `path`; waits for another build, and says so."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another build is under way: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def room(places: Iterable[Path], needed: int) -> None:
    """Refuse to begin where less than `needed` bytes are free; a place that is not there yet counts as its parent.

    Raises:
        LocalFailure: naming the place.
    """
    for place in places:
        there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
        if shutil.disk_usage(there).free < needed:
            raise LocalFailure(f"less than {needed >> 20} MiB are free in {place}", remedy=ROOM)


def in_words(error: OSError) -> str:
    """An error of the operating system in one line: what happened, and to which file. Pure."""
    first = error
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        source, target, why = error.args[0][0]
        if NO_ROOM in str(why):
            return f"no room on the disk for {target} ({ROOM})"
        return " ".join(f"{source} cannot be copied: {why}".split())
    if first.errno in (errno.ENOSPC, errno.EDQUOT):
        name = first.filename2 or first.filename
        return f"no room on the disk{f' for {name}' if name else ''} ({ROOM})"
    return " ".join(str(error).split())
