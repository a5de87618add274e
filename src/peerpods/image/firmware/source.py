"""Debian's source packages: found in the signed lists, fetched and checked by digest, unpacked with their patches."""

from __future__ import annotations

import re
import time
from pathlib import Path

import attrs

from peerpods.errors import LocalFailure
from peerpods.image import debian
from peerpods.image.progress import Progress

HELPER = "/usr/lib/apt/apt-helper"
FRESH = 86400.0  # seconds for which package lists are not read anew
_FILE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$", re.M)
_VERSION = re.compile(r"^Version: (\S+)$", re.M)
TARBALLS = (".orig.tar.xz", ".debian.tar.xz")


@attrs.frozen
class SourceFile:
    """One file of a source package, as the signed list names it."""

    uri: str
    file: str
    sha256: str


@attrs.frozen(kw_only=True)
class Source:
    """A source package in format 3.0 (quilt): upstream's archive and Debian's, which brings the patches."""

    name: str
    version: str
    files: tuple[SourceFile, ...]

    def digests(self) -> dict[str, str]:
        """File name to SHA-256: what names this source."""
        return {one.file: one.sha256 for one in self.files}


def parse(name: str, listed: str, shown: str) -> Source:
    """A source package from what apt prints of it. Pure.

    Args:
        name: the package's.
        listed: `apt-get source --print-uris`: one file a line, with the digest of the signed list.
        shown: `apt-cache showsrc`, for the version.

    Raises:
        LocalFailure: when it is not there with both archives and SHA-256 digests.
    """
    files = [SourceFile(m["uri"], m["file"], m["sha256"]) for m in _FILE.finditer(listed)]
    wanted = tuple(one for end in TARBALLS for one in files if one.file.endswith(end))
    version = next((found for found in _VERSION.findall(shown) if _belongs(found, wanted)), "")
    if len(wanted) != len(TARBALLS) or not version:
        raise LocalFailure(f"the Debian archive lists no source package {name} with {' and '.join(TARBALLS)}")
    return Source(name=name, version=version, files=wanted)


def _belongs(version: str, files: tuple[SourceFile, ...]) -> bool:
    """Whether Debian's archive among the files carries this version (without its epoch) in its name."""
    return any(f"_{version.partition(':')[2] or version}.debian." in one.file for one in files)


@attrs.frozen
class SourceArchive(debian.Archive):
    """A private apt that knows source packages too."""

    kinds: tuple[str, ...] = ("deb", "deb-src")

    def refresh(self, progress: Progress) -> None:
        """Read the lists anew when they are older than a day; without a network the old ones serve, which is said.

        Raises:
            LocalFailure: when there are none at all.
        """
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH:
            return
        try:
            with progress.step("reading the Debian 13 package lists, with sources"):
                self.update()
        except LocalFailure as error:
            if not stamp.exists():
                raise
            progress.say(f"the package lists could not be read anew, the ones at hand serve: {error.message[:120]}")
            return
        stamp.write_text("")

    def source(self, name: str) -> Source:
        """The newest source package of that name."""
        listed = self._apt("apt-get", "source", "-qq", "--download-only", "--print-uris", name)
        return parse(name, listed, self._apt("apt-cache", "showsrc", name))

    def fetch_source(self, source: Source) -> list[Path]:
        """Its archives, each compared with the signed list's digest. What is there already is only compared.

        Raises:
            LocalFailure: when one is not to be had or differs; nothing of it is left then.
        """
        folder = self.folder / "sources"
        folder.mkdir(exist_ok=True)
        found = []
        for one in source.files:
            target = folder / one.file
            if not target.exists():
                scratch = folder / f"{one.file}.part"
                scratch.unlink(missing_ok=True)
                self._apt(HELPER, "download-file", one.uri, str(scratch), f"SHA256:{one.sha256}")
                scratch.rename(target)
            debian.checked(target, f"SHA256:{one.sha256}")
            found.append(target)
        return found


def patches(series: str) -> list[str]:
    """Names of the patches of a `debian/patches/series`, in order. Pure."""
    lines = (line.split("#")[0].split() for line in series.splitlines())
    return [line[0] for line in lines if line]
