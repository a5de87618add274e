"""The locks in the source tree: which .debs and wheels a release is built from, and by which tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from peerpods.errors import ConfigError, Refused
from peerpods.image import debian, key
from peerpods.image.publish.sbom import parse_lock

FIRMWARE = "firmware/"
"""Before the names of what firmware is made of and by, in tools.lock: a tree of its own, perhaps of another day."""
FOLDER = key.ENGINE / "locks"
WORDS = ("strict", "anew")
_REMEDY = "take them from a snapshot archive, or refresh with `make lock` and build a new release"


def strict(word: str) -> bool:
    """Whether a LOCK word allows only locked packages.

    Raises:
        ConfigError: it is none.
    """
    if word not in WORDS:
        raise ConfigError(f"LOCK={word}: there is no such lock", setting="LOCK", remedy="choose strict or anew")
    return word == "strict"


@attrs.frozen(kw_only=True)
class Locks:
    """Both locks of an architecture, as texts; they may hold packages that one image does not use."""

    image: str
    tools: str

    def pins(self) -> list[debian.Listed]:
        """Every .deb of image and tools, sorted: what is chosen in a strict build."""
        return [one for one in self.debs() if not one.name.startswith(FIRMWARE)]

    def debs(self) -> list[debian.Listed]:
        """These and the .debs that firmware is compiled by, sorted; the latter's names begin with FIRMWARE."""
        parts = (*parse_lock(self.image), *parse_lock(self.tools))
        return sorted({debian.Listed(one.name, one.version, one.sha256) for one in parts if "pkg:deb/" in one.purl})

    def names(self) -> set[str]:
        """The archive's names of all .debs."""
        return {one.name.removeprefix(FIRMWARE) for one in self.debs()}


def files(arch: str) -> tuple[Path, Path]:
    """The lock of the images' packages of an architecture, and the one of the tools."""
    return FOLDER / f"debian-trixie-{arch}.lock", FOLDER / f"debian-trixie-{arch}.tools.lock"


def load(arch: str, *, strict: bool) -> Locks | None:
    """The locks; None when there are none and none are needed.

    Raises:
        ConfigError: one cannot be read, with `strict`.
        Refused: one is corrupt: its first line that is none is named.
    """
    texts = []
    for path in files(arch):
        try:
            texts.append(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and not strict:
                return None
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"LOCK=strict: {path} cannot be read: {why}", setting="LOCK") from error
        try:
            parse_lock(texts[-1])
        except Refused as error:
            raise Refused(
                error.message.replace("packages.lock", str(path)), remedy="write it anew with `make lock`"
            ) from error
    return Locks(image=texts[0], tools=texts[1])


def present(locks: Locks, described: Iterable[Mapping[str, str]]) -> None:
    """Refuse when the archive has not each locked .deb as it is locked. Pure.

    Args:
        locks: the locks.
        described: all versions that the archive has: fields Package, Version, SHA256.

    Raises:
        ConfigError: naming what is gone.
    """
    versions: dict[str, set[str]] = {}
    digests = set()
    for one in described:
        versions.setdefault(one["Package"], set()).add(one["Version"])
        digests.add((one["Package"], one["Version"], one.get("SHA256", "")))
    gone = []
    for pin in locks.debs():
        name = pin.name.removeprefix(FIRMWARE)
        if (name, pin.version, pin.sha256) in digests:
            continue
        known = versions.get(name)
        if not known:
            gone.append(f"{pin.name} (no such package)")
        elif pin.version in known:
            gone.append(f"{pin.name} {pin.version} (another digest)")
        else:
            gone.append(f"{pin.name} {pin.version} (now {' or '.join(sorted(known))})")
    if gone:
        raise ConfigError(
            f"LOCK=strict: {_count(gone)} of the lock are gone from the archive: {_shown(gone)}",
            setting="LOCK",
            remedy=_REMEDY,
        )


def compare(locked: str, used: str) -> list[str]:
    """What was used and is not as locked, one entry a package, sorted. Pure.

    Args:
        locked: a lock's text; it may hold packages that this image does not use.
        used: packages.lock or tools.lock of a build.

    Raises:
        Refused: when a line of either is none.
    """
    known = {part.name: part for part in parse_lock(locked)}
    drift = []
    for part in parse_lock(used):
        lock = known.get(part.name)
        if lock is None:
            drift.append(f"{part.name} {part.version} (not locked)")
        elif lock.sha256 != part.sha256:
            drift.append(f"{part.name} {lock.version} -> {part.version}")
    return sorted(drift)


def check(locks: Locks | None, image: str, tools: str, *, strict: bool) -> str:
    """Compare a build's packages and tools with the locks; one line about the drift, or "".

    Args:
        locks: as `load` gives them.
        image: packages.lock of the build.
        tools: its tools.lock.
        strict: whether drift ends the build.

    Raises:
        ConfigError: drift with `strict`.
    """
    if locks is None:
        return "there is no lock: the archive's newest packages are used"
    said = []
    for of, drift in (("", compare(locks.image, image)), (" of the tools", compare(locks.tools, tools))):
        if drift:
            said.append(f"{_count(drift)}{of} differ from the lock: {_shown(drift)}")
    if said and strict:
        raise ConfigError(f"LOCK=strict: {'; '.join(said)}", setting="LOCK", remedy=_REMEDY)
    return "; ".join(said)


def _count(entries: list[str]) -> str:
    return f"{len(entries)} package{'s' * (len(entries) != 1)}"


def _shown(entries: list[str]) -> str:
    return ", ".join(entries[:6]) + (f" and {len(entries) - 6} more" if len(entries) > 6 else "")


def merge(texts: Iterable[str]) -> str:
    """One lock of several: every package of any of them, sorted. Pure.

    Raises:
        Refused: two of them have a package in different versions.
    """
    lines = {line for text in texts for line in text.splitlines() if line.strip()}
    names: dict[str, str] = {}
    for line in lines:
        name = line.split()[0]
        if names.setdefault(name, line) != line:
            raise Refused(f"two images would have different versions of {name}")
    return "".join(f"{line}\n" for line in sorted(lines))
