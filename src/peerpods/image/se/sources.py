"""What an s390x image is made of: Debian's packages of that architecture, and wheels where there are any.

Two things may be wrong with a mirror's s390x half, and both end the build unless the builder chooses otherwise, in so
many words, in the environment:

| setting | what |
|---|---|
| SE_SUITES | the suites that are read, when not all can be: the others' security fixes are then not in the image |
| SE_DEBS | a folder of .deb files that come before the archive's; no release takes a file that no signed list has |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image import debian, inputs, key, wheels
from peerpods.image.debian import Listed, Package
from peerpods.image.run import run
from peerpods.image.variant import Variant

ARCH = "s390x"
FACTS = inputs.DATA["architectures"][ARCH]
KERNEL = re.compile(r"linux-image-\d\S*-s390x")
Suites = tuple[tuple[str, str], ...]


def suites(named: str) -> Suites:
    """The suites to read, of those in inputs.json. Pure.

    Args:
        named: SE_SUITES: names with spaces between, or "" for all.

    Raises:
        ConfigError: one is not known, or Debian 13 itself is not among them.
    """
    known = {suite: (kind, suite) for kind, suite in inputs.SUITES}
    wanted = named.split() or list(known)
    first = next(iter(known))
    if first not in wanted or not set(wanted) <= set(known):
        raise ConfigError(
            f"SE_SUITES={named}: choose of {', '.join(known)}, with {first} among them", setting="SE_SUITES"
        )
    return tuple(row for suite, row in known.items() if suite in wanted)


def left_out(chosen: Suites) -> str:
    """What to say of the suites that are not read; "" when all are. Pure."""
    missing = [suite for _, suite in inputs.SUITES if suite not in {name for _, name in chosen}]
    if not missing:
        return ""
    return f"SE_SUITES: {' and '.join(missing)} not read: the fixes that are only there are NOT in this image"


def given(folder: Path) -> dict[str, Package]:
    """The .deb files of a folder, by package.

    Raises:
        ConfigError: there is none, one is of another architecture, or two are of the same package.
        LocalFailure: one is no .deb.
    """
    files = sorted(folder.glob("*.deb")) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"SE_DEBS={folder}: there is no .deb in it", setting="SE_DEBS")
    found: dict[str, Package] = {}
    for file in files:
        fields = ("Package", "Version", "Architecture")
        out = run(["dpkg-deb", "-f", file, *fields])
        control = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
        name, version, arch = (control.get(field, "") for field in fields)
        if arch not in (ARCH, "all"):
            raise ConfigError(f"SE_DEBS: {file.name} is of {arch}, not of {ARCH}", setting="SE_DEBS")
        if name in found:
            raise ConfigError(f"SE_DEBS: {file.name} and {found[name].file.name} are both {name}", setting="SE_DEBS")
        found[name] = Package(name=name, version=version, sha256=debian.checked(file, ""), file=file)
    return found


def merge(listed: Iterable[Listed], own: Mapping[str, Package]) -> tuple[list[Listed], list[Package]]:
    """Put given packages in the place of the archive's. Pure.

    Args:
        listed: what the signed lists have, with one kernel in it.
        own: given packages; a kernel takes the place of the kernel, whatever its version is called.

    Returns:
        what is used, sorted, and those of it that no signed list has with this digest.

    Raises:
        ConfigError: a package is given that the image has no use for.
    """
    used = {one.name: one for one in listed}
    kernel = next(name for name in used if KERNEL.fullmatch(name))
    unsigned = []
    for name, package in own.items():
        place = kernel if KERNEL.fullmatch(name) else name
        if place not in used:
            raise ConfigError(f"SE_DEBS: nothing of this image needs {name}", setting="SE_DEBS")
        if used.pop(place).sha256 != package.sha256:
            unsigned.append(package)
        used[name] = package
    return sorted(used.values(), key=lambda one: one.name), unsigned


def requirements(text: str, without: Iterable[str]) -> str:
    """A requirements file without some of its packages. Pure."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)
    return "".join(block for block in blocks if block.partition("==")[0] not in set(without))


@attrs.frozen(kw_only=True)
class Chosen:
    """Everything that comes from elsewhere and decides the image's bytes, but for a release's agent."""

    root: list[Listed]
    initrd: list[Listed]
    kernel: Listed
    unsigned: list[Package]
    """Of these the ones that were given and that no signed list has."""
    wheels: list[Path]

    def all(self) -> list[Listed]:
        """All packages, sorted, each once."""
        found = {one.name: one for one in (*self.root, *self.initrd, self.kernel)}
        return [found[name] for name in sorted(found)]

    def lock(self) -> str:
        """packages.lock: `NAME VERSION SHA256` of every .deb, `FILE SHA256` of every wheel."""
        lines = [one.lock_line() for one in self.all()]
        return "".join(f"{line}\n" for line in (*lines, *wheels.lock_lines(self.wheels)))


def update(archive: debian.Archive) -> None:
    """Read the package lists.

    Raises:
        LocalFailure: one cannot be read; says how to go on without.
    """
    try:
        archive.update()
    except LocalFailure as error:
        raise LocalFailure(
            f"the s390x lists of {', '.join(suite for _, suite in archive.suites)} cannot all be read: {error.message}",
            remedy=f"wait for the mirror, or leave suites out with their fixes: SE_SUITES={inputs.SUITES[0][1]}",
        ) from error


def choose(variant: Variant, archive: debian.Archive, cache: Path, own: Mapping[str, Package]) -> Chosen:
    """What this image is made of.

    Raises:
        ConfigError: a given package has no place in it.
        LocalFailure: the archive or the index of wheels does not have something.
    """
    away = inputs.DROPPED - set(inputs.DATA["kept_system"]) | set(FACTS["dropped"])
    root = archive.closure(list(variant.packages()), away)
    initrd = list(FACTS["initrd_packages"])
    kernel = next(name for name in archive.closure([FACTS["kernel"]]) if KERNEL.fullmatch(name))
    used, unsigned = merge(archive.resolve({*root, *initrd, kernel}), own)
    return Chosen(
        root=[one for one in used if one.name in root],
        initrd=[one for one in used if one.name in initrd],
        kernel=next(one for one in used if KERNEL.fullmatch(one.name)),
        unsigned=unsigned,
        wheels=_wheels(cache),
    )


def _wheels(cache: Path) -> list[Path]:
    text = requirements(key.REQUIREMENTS.read_text(), FACTS["instead_of_wheels"])
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"image-requirements-{ARCH}.txt"
    file.write_text(text)
    return wheels.fetch(file, cache / f"image-wheels-{key.requirements_key(file)}", FACTS["platforms"])


def fetch(archive: debian.Archive, chosen: Chosen, own: Mapping[str, Package]) -> dict[str, Package]:
    """The .deb files, by package.

    Raises:
        LocalFailure: the archive lists a package that it does not have.
    """
    wanted = [one.name for one in chosen.all() if one.name not in own]
    try:
        found = {package.name: package for package in archive.fetch(wanted)}
    except LocalFailure as error:
        raise LocalFailure(
            f"the archive lists s390x packages that it does not have: {error.message}",
            remedy="wait for the mirror, name another archive in /etc/apt, or give the files with SE_DEBS=DIR",
        ) from error
    return {**found, **own}
