"""What CopyFile may write: files, folders and inner links below one folder, within bounds. Pure.

Rules: security.md 6, duty 7; shim-trace.md 4; wire.md 3.6. A link may point anywhere below the shared folder, as
kubelet's volumes are made of links (`..data`). Every link that passes has the form `../…/name/…` and is written into a
real folder, so no chain of links can lead out: each step ends below the shared folder again.
"""

from __future__ import annotations

import stat

import attrs

from peerpods.errors import Refused
from peerpods.ttrpc.status import Code

SHARED = "/run/kata-containers/shared/containers"
KUBELET_PODS = "/var/lib/kubelet/pods"
MAX_PATH = 4095  # bytes, PATH_MAX without its zero
MAX_NAME = 255  # bytes, NAME_MAX
MAX_DEPTH = 64  # components below the shared folder
MAX_FILE = 512 << 20  # bytes of one file
MAX_TOTAL = 1 << 30  # bytes of all files: they live in the VM's memory
DATA_LINK = "..data"  # kubelet's link to a volume's newest version
MAX_ENTRIES = 32768  # files, folders and links
TEMPORARY = ".tmp"  # what the agent adds to a file's name until it is complete


class Denied(Refused):
    """A path, kind or size that CopyFile may not have."""

    code = Code.PERMISSION_DENIED


class TooMuch(Refused):
    """A bound is reached."""

    code = Code.RESOURCE_EXHAUSTED


@attrs.frozen
class Copy:
    """A CopyFile that may pass, once the real folders on the way have been looked at."""

    path: str
    """Below SHARED; no component of its parents is a link that passed here."""
    kind: int
    """stat.S_IFREG, S_IFDIR or S_IFLNK."""
    size: int
    """Bytes that it adds."""
    known: tuple[str, ...]
    """Paths that are new with it."""
    target: str = ""
    """Of a link."""


def split(path: str, base: str) -> tuple[str, ...] | None:
    """The components of `path` below `base`; None when it is not plainly below it (`..`, `.`, `//`, base itself)."""
    if not path.startswith(base + "/") or "\0" in path or len(path.encode()) > MAX_PATH:
        return None
    names = tuple(path[len(base) + 1 :].split("/"))
    if len(names) > MAX_DEPTH or any(not _plain(name) for name in names):
        return None
    return names


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and len(name.encode()) <= MAX_NAME


def may_be_made(source: str) -> tuple[str, tuple[str, ...]] | None:
    """(base, components below it) of a bind source that may be made as a folder; None for all others."""
    for base in (KUBELET_PODS, SHARED):
        names = split(source, base)
        if names is not None:
            return base, names
    return None


def check_link(names: tuple[str, ...], target: str) -> None:
    """Check where a link at `names` (below the shared folder) points.

    Raises:
        Denied: when it is absolute, not in the plain form `../…/name/…`, or leads out of the shared folder.
    """
    parts = target.split("/")
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    rest = parts[ups:]
    if rest[-1:] == [""] and len(rest) > 1:
        rest.pop()
    if not rest or any(not _plain(name) for name in rest) or "\0" in target or len(target.encode()) > MAX_PATH:
        raise Denied(
            "CopyFile of a link: its target is not of the form ../name",
            remedy="relative links to what lies below the volume can be copied, others cannot",
        )
    if ups >= len(names):
        raise Denied("CopyFile of a link: its target is outside the shared folder")


class SharedFolder:
    """What has passed into the shared folder so far."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        """Path below SHARED (joined by "/") to S_IFREG, S_IFDIR or S_IFLNK."""
        self.total = 0
        """Bytes that have passed."""

    def check(self, path: str, mode: int, data: bytes, file_size: int, offset: int) -> Copy:
        """Whether a CopyFile may pass, by its fields.

        Raises:
            Denied: for a wrong place, kind or size.
            TooMuch: when a bound is reached.
        """
        names = split(path, SHARED)
        if names is None:
            raise Denied(
                "CopyFile names a path that is not plainly below the shared folder", remedy=f"write to {SHARED}"
            )
        kind = stat.S_IFMT(mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise Denied("CopyFile of something that is neither file, folder nor link")
        key = "/".join(names)
        parents = ["/".join(names[:count]) for count in range(1, len(names))]
        self._check_place(key, kind, parents)
        size = self._check_size(kind, data, file_size, offset)
        if kind == stat.S_IFLNK:
            check_link(names, _target(data))
        known = tuple(name for name in (*parents, key) if name not in self.kinds)
        if len(self.kinds) + len(known) > MAX_ENTRIES:
            raise TooMuch(f"CopyFile: more than {MAX_ENTRIES} files", remedy="mount less into the pod")
        if self.total + size > MAX_TOTAL:
            raise TooMuch(f"CopyFile: more than {MAX_TOTAL} bytes", remedy="mount less into the pod")
        return Copy(path, kind, size, known, _target(data) if kind == stat.S_IFLNK else "")

    def _check_place(self, key: str, kind: int, parents: list[str]) -> None:
        for parent in parents:
            if self.kinds.get(parent, stat.S_IFDIR) != stat.S_IFDIR:
                raise Denied("CopyFile through something that is not a folder")
        there = self.kinds.get(key, kind)
        if (there == stat.S_IFDIR) != (kind == stat.S_IFDIR):
            raise Denied("CopyFile over something of another kind")
        if kind == stat.S_IFREG and self.kinds.get(key + TEMPORARY) == stat.S_IFLNK:
            raise Denied("CopyFile of a file whose temporary name is a link")

    def _check_size(self, kind: int, data: bytes, file_size: int, offset: int) -> int:
        if kind == stat.S_IFREG:
            if not 0 <= file_size <= MAX_FILE or offset < 0 or offset + len(data) > file_size:
                raise Denied(
                    f"CopyFile of a file with impossible sizes, or over {MAX_FILE} bytes",
                    remedy="mount smaller files into the pod",
                )
        elif offset or (data and kind == stat.S_IFDIR):
            raise Denied("CopyFile of a folder or link with the sizes of a file")
        return len(data)

    def passed(self, copy: Copy) -> dict[str, int | None]:
        """Note a copy that is about to reach the agent; gives what `failed` needs."""
        key = copy.path[len(SHARED) + 1 :]
        before = {name: self.kinds.get(name) for name in (*copy.known, key)}
        for name in copy.known:
            self.kinds[name] = stat.S_IFDIR
        self.kinds[key] = copy.kind
        self.total += copy.size
        if copy.target and key.endswith("/" + DATA_LINK):
            self._forget_older(key[: -len(DATA_LINK)], copy.target)
        return before

    def _forget_older(self, volume: str, current: str) -> None:
        """Count no longer what an update of a kubelet volume replaced, or a rotating token would use up the entries.

        Such a volume is a folder `..<time>` per version and the link `..data` to the newest. What is forgotten is
        still looked at on disk before each copy (`effects.on_real_folders`), so no link can be copied through.
        """
        for name in list(self.kinds):
            version = name[len(volume) :].partition("/")[0] if name.startswith(volume) else ""
            if version.startswith("..") and version not in (DATA_LINK, current):
                del self.kinds[name]

    def failed(self, copy: Copy, before: dict[str, int | None]) -> None:
        """Take back a copy that the agent did not make. A link stays noted: it may be there in part."""
        if copy.kind == stat.S_IFLNK:
            return
        self.total -= copy.size
        for name, kind in before.items():
            if kind is None:
                self.kinds.pop(name, None)
            else:
                self.kinds[name] = kind


def _target(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Denied("CopyFile of a link whose target is not UTF-8") from None
