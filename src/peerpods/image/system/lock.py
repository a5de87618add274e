"""The lock in the source tree: which .deb and wheel of which digest a release is built from."""

from __future__ import annotations

from pathlib import Path

from peerpods.errors import ConfigError
from peerpods.image import key
from peerpods.image.publish.sbom import parse_lock

FOLDER = key.ENGINE / "locks"


def file(arch: str) -> Path:
    """The lock of an architecture."""
    return FOLDER / f"debian-trixie-{arch}.lock"


def compare(locked: str, used: str) -> list[str]:
    """What was used and is not as locked, one entry a package, sorted. Pure.

    Args:
        locked: the lock's text; it may hold packages that this image does not use.
        used: packages.lock of a build.

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


def check(used: str, arch: str, *, strict: bool, place: Path | None = None) -> str:
    """Compare a build's packages with the lock; one line about the drift, or "".

    Args:
        strict: whether drift ends the build.

    Raises:
        ConfigError: drift with `strict`, or no lock with `strict`.
        Refused: the lock is corrupt.
    """
    path = place or file(arch)
    try:
        locked = path.read_text()
    except OSError as error:
        if strict:
            raise ConfigError(f"LOCK=strict: {path} cannot be read: {error.strerror}", setting="LOCK") from error
        return f"no lock for {arch}: the archive's newest packages are used"
    drift = compare(locked, used)
    if not drift:
        return ""
    shown = ", ".join(drift[:6]) + (f" and {len(drift) - 6} more" if len(drift) > 6 else "")
    if strict:
        raise ConfigError(
            f"LOCK=strict: {len(drift)} packages of the lock are gone from the archive: {shown}",
            setting="LOCK",
            remedy="take them from a snapshot archive, or refresh with `make lock` and build a new release",
        )
    return f"{len(drift)} packages differ from the lock: {shown}"


def update(texts: list[str], arch: str) -> Path:
    """Write the lock from builds' packages.lock: every package of any of them, sorted."""
    lines = sorted({line for text in texts for line in text.splitlines() if line.strip()})
    path = file(arch)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path
