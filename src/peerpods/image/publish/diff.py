"""`peerpods image diff A B`: what changed between two images, in words. Pure but for reading them."""

from __future__ import annotations

from collections.abc import Iterator

from peerpods.image.publish import folder as names
from peerpods.image.publish import rvps, sbom
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.verify import check_schema


def diff(old: ImageFolder, new: ImageFolder) -> list[str]:
    """One line a change, the causes first, then what they changed; empty when nothing differs."""
    packages = (*_packages(old, new, names.LOCK, "package"), *_packages(old, new, names.TOOLS_LOCK, "tool"))
    return [*_manifest(old, new), *packages, *_command_line(old, new), *_files(old, new), *_values(old, new)]


def _manifest(old: ImageFolder, new: ImageFolder) -> Iterator[str]:
    if old.variant != new.variant:
        yield f"variant: {old.variant.name} became {new.variant.name}"
    for key in ("version", "epoch", "kernel"):
        before, after = old.manifest.get(key), new.manifest.get(key)
        if before != after:
            yield f"{key}: {before} became {after}"
    before, after = old.manifest["agent"], new.manifest["agent"]
    if before.get("kind") != after.get("kind"):
        yield f"agent: {before.get('kind')} became {after.get('kind')}"
    programs = before.get("files", {}), after.get("files", {})
    for name in sorted(programs[0].keys() | programs[1].keys()):
        if programs[0].get(name) != programs[1].get(name):
            yield f"program {name}: {_short(programs[0].get(name))} became {_short(programs[1].get(name))}"


def _short(digest: object) -> str:
    return f"{str(digest)[:12]}…" if digest else "nothing"


def _packages(old: ImageFolder, new: ImageFolder, lock: str, what: str) -> Iterator[str]:
    """Of a lock; an image of given files has none of its tools."""
    texts = (one.text(lock) if lock == names.LOCK or one.has(lock) else "" for one in (old, new))
    before, after = ({part.name: part for part in sbom.parse_lock(text)} for text in texts)
    for name in sorted(before.keys() | after.keys()):
        one, two = before.get(name), after.get(name)
        if one is None and two is not None:
            yield f"{what} {name} {two.version} was added"
        elif two is None and one is not None:
            yield f"{what} {name} {one.version} was removed"
        elif one is not None and two is not None and one != two:
            change = "was built anew" if one.version == two.version else f"{one.version} became {two.version}"
            yield f"{what} {name}: {change}"


def _command_line(old: ImageFolder, new: ImageFolder) -> Iterator[str]:
    before, after = (one.text(names.CMDLINE).split() for one in (old, new))
    named = ("roothash=", "peerpods.verity=")
    for word in after:
        if word not in before and not word.startswith(named):
            yield f"command line: {word} was added"
    for word in before:
        if word not in after and not word.startswith(named):
            yield f"command line: {word} was removed"


def _files(old: ImageFolder, new: ImageFolder) -> Iterator[str]:
    derived = {
        names.MANIFEST,
        names.MEASUREMENTS,
        names.RVPS,
        names.CYCLONEDX,
        names.SPDX,
        names.PROVENANCE,
        names.LOCK,
        names.TOOLS_LOCK,
    }
    before, after = set(old.files()) - derived, set(new.files()) - derived
    for name in sorted(before | after):
        if name not in after:
            yield f"file {name} is gone"
        elif name not in before:
            yield f"file {name} is new"
        elif old.sha256(name) != new.sha256(name):
            sizes = (one.path.joinpath(name).stat().st_size for one in (old, new))
            yield f"file {name} differs ({' to '.join(f'{size:,}' for size in sizes)} bytes)"


def _values(old: ImageFolder, new: ImageFolder) -> Iterator[str]:
    measured = [one.json(names.MEASUREMENTS) for one in (old, new)]
    for one in measured:
        check_schema(one)
    before, after = map(rvps.reference_values, measured)
    for name in sorted(before.keys() | after.keys()):
        one, two = set(before.get(name, ())), set(after.get(name, ()))
        if one != two:
            kept = f", {len(one & two)} stay" if one & two else ""
            gone = f"{len(one - two)} of {len(one)} no longer hold"
            yield f"reference value {name}: {gone}, {len(two - one)} are new{kept}"
