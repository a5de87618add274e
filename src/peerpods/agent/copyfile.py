"""CopyFile: what the pod mounts (ConfigMaps, tokens, hosts, resolv.conf) arrives in pieces; nothing is shared.

Everything stays below one folder. Folders are walked one name at a time by descriptor and no link is followed, so that
neither `..` nor a planted link leads out. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from peerpods.errors import Refused

BASE = "/run/kata-containers/shared/containers"
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEFAULT_DIR_MODE = 0o750
NAME_MAX = 255
PARTIAL = ".tmp"


class Copy(Protocol):
    """A CopyFileRequest."""

    path: str
    file_size: int
    file_mode: int
    dir_mode: int
    uid: int
    gid: int
    offset: int
    data: bytes


def relative_names(path: str, base: str = BASE) -> list[str]:
    """The names of a path below the base, in order.

    Raises:
        Refused: when it is not below the base, or has `..`, `.`, an empty or overlong name.
    """
    prefix = base.rstrip("/") + "/"
    if not path.startswith(prefix):
        raise Refused(f"CopyFile outside {prefix}: {path[:200]!r}")
    names = path[len(prefix) :].split("/")
    for name in names:
        if name in ("", ".", "..") or "\0" in name or len(name.encode()) > NAME_MAX:
            raise Refused(f"CopyFile with a path that is not plain: {path[:200]!r}")
    return names


@contextmanager
def _folder(base: str, names: list[str], mode: int) -> Iterator[int]:
    """Descriptor of the folder base/names…, made where it is missing."""
    Path(base).mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(base, _DIR)
    try:
        for name in names:
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=fd)
            inner = os.open(name, _DIR, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def copy_file(request: Copy, base: str = BASE) -> None:
    """Carry out one CopyFile request (spec/wire 3.6). A repeated request gives the same result.

    Raises:
        Refused: when the path leaves the base, the type is not file, folder or link, or a piece does not fit.
        OSError: from the filesystem (no space, a link where a folder should be).
    """
    names = relative_names(request.path, base)
    kind = stat.S_IFMT(request.file_mode)
    dir_mode = (request.dir_mode & 0o777) or DEFAULT_DIR_MODE
    with _folder(base, names[:-1], dir_mode) as parent:
        if kind == stat.S_IFREG:
            _regular(parent, names[-1], request)
        elif kind == stat.S_IFDIR:
            _directory(parent, names[-1], request)
        elif kind == stat.S_IFLNK:
            _link(parent, names[-1], request)
        else:
            raise Refused(f"CopyFile of type {kind:#o}: only files, folders and links travel", remedy="mount none")


def _owner(request: Copy) -> tuple[int, int]:
    # -1 keeps the present owner.
    return max(request.uid, -1), max(request.gid, -1)


def _regular(parent: int, name: str, request: Copy) -> None:
    size, offset = request.file_size, request.offset
    if offset < 0 or size < 0 or offset + len(request.data) > size:
        raise Refused(f"CopyFile of {request.path!r}: {len(request.data)} bytes at {offset} do not fit in {size}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if offset == 0 else 0)
    fd = os.open(name + PARTIAL, flags, 0o600, dir_fd=parent)
    try:
        have = os.fstat(fd).st_size
        if offset > have:
            raise Refused(f"CopyFile of {request.path!r}: a piece at {offset} after only {have} bytes")
        done = 0
        while done < len(request.data):
            done += os.pwrite(fd, request.data[done:], offset + done)
        if offset + done < size:
            return
        os.fchown(fd, *_owner(request))
        os.fchmod(fd, stat.S_IMODE(request.file_mode))
    finally:
        os.close(fd)
    os.rename(name + PARTIAL, name, src_dir_fd=parent, dst_dir_fd=parent)


def _directory(parent: int, name: str, request: Copy) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIR, dir_fd=parent)
    try:
        os.fchown(fd, *_owner(request))
        os.fchmod(fd, stat.S_IMODE(request.file_mode))
    finally:
        os.close(fd)


def _link(parent: int, name: str, request: Copy) -> None:
    target = os.fsencode(bytes(request.data).decode(errors="surrogateescape"))
    if not target or b"\0" in target:
        raise Refused(f"CopyFile of the link {request.path!r} has no target")
    with suppress(FileNotFoundError):
        os.unlink(name + PARTIAL, dir_fd=parent)
    os.symlink(target, os.fsencode(name + PARTIAL), dir_fd=parent)
    # Over the old link in one step: readers of `..data` never miss it.
    os.rename(name + PARTIAL, name, src_dir_fd=parent, dst_dir_fd=parent)
    os.chown(name, *_owner(request), dir_fd=parent, follow_symlinks=False)
