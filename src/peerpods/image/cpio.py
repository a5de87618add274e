"""An initrd archive (cpio, format newc), the same bytes for the same content. Pure.

Layout of one entry (Linux Documentation/driver-api/early-userspace/buffer-format.rst): `070701`, thirteen fields of
eight hex digits (ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize,
check), the name with a NUL, padding to four bytes, the content, padding to four bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

import attrs


@attrs.frozen
class Entry:
    """One file of the archive.

    `name` has no leading slash; `mode` includes the type (`stat.S_IFREG | 0o755`); `device` is (major, minor) of a
    node. A symlink's `content` is its target.
    """

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | mode, content)


def folder(name: str) -> Entry:
    """A folder, 0755."""
    return Entry(name, stat.S_IFDIR | 0o755)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def write(entries: Iterable[Entry], mtime: int) -> bytes:
    """The archive: entries sorted by name (so a folder precedes what is in it), missing parent folders added, then the
    trailer, padded to 512 bytes.

    Raises:
        ValueError: when a name occurs twice or is not relative.
    """
    known: dict[str, Entry] = {}
    for entry in entries:
        if entry.name.startswith("/") or not entry.name or entry.name in known:
            raise ValueError(f"archive name is absolute, empty or there twice: {entry.name!r}")
        known[entry.name] = entry
    for name in list(known):
        parts = name.split("/")[:-1]
        for end in range(1, len(parts) + 1):
            parent = "/".join(parts[:end])
            known.setdefault(parent, folder(parent))
    out = bytearray()
    for number, name in enumerate(sorted(known), start=1):
        _append(out, known[name], number, mtime)
    _append(out, Entry("TRAILER!!!", 0), 0, 0)
    out += bytes(-len(out) % 512)
    return bytes(out)


def _append(out: bytearray, entry: Entry, number: int, mtime: int) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, mtime, len(entry.content), 0, 0, *entry.device, len(name), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
    out += bytes(-len(out) % 4)
    out += entry.content
    out += bytes(-len(out) % 4)
