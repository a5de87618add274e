"""Firmware by TEE, from the cache or built: in the tree at fixed paths, without a network, kept by source digest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs

from peerpods.errors import LocalFailure
from peerpods.image import inputs
from peerpods.image.build import digest
from peerpods.image.firmware import recipe as recipes
from peerpods.image.firmware import source as sources
from peerpods.image.firmware import tree
from peerpods.image.firmware.recipe import Recipe
from peerpods.image.firmware.source import Source, SourceArchive
from peerpods.image.place import alone, fresh, room
from peerpods.image.progress import Progress
from peerpods.image.run import run
from peerpods.image.system.tools import Tools

DISK_NEEDED = 2500 << 20  # bytes free for a build: source, objects and the compiler's tree
SLOW = 3600.0  # seconds that one step may take; it takes minutes, on two idle cores
FACTS = "firmware.json"
_OFFLINE = ("unshare", "--net")


def get(tee: str, cache: Path, progress: Progress, *, jobs: int | None = None) -> dict[str, Path]:
    """The firmware files for a TEE by name, as they lie below `firmware/` of an image.

    "snp": OVMF.amdsev.fd; "tdx": OVMF.inteltdx.fd and Debian's OVMF.fd; "none": Debian's OVMF.fd. What is in the cache
    is not made again; two at once wait for each other.

    Args:
        tee: snp, tdx or none.
        cache: the cache folder.
        progress: told each step with its time.
        jobs: compilers at once; by default one a core. No byte depends on it.

    Raises:
        ConfigError: another TEE.
        LocalFailure: the archive, the disk or a tool fails; nothing half-made is left under the final name.
    """
    made = recipes.recipe(tee)
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "firmware.lock", progress):
        archive = SourceArchive(cache / "firmware-apt")
        archive.refresh(progress)
        found = {}
        if made is not None:
            found[made.file] = _built(made, archive, cache, progress, jobs) / made.file
        stock = inputs.DATA["pins"]["firmware"]["stock"]
        if tee in stock["tees"]:
            found[stock["file"]] = _stock(archive, cache, progress) / stock["file"]
    return found


def facts(file: Path) -> dict[str, Any]:
    """Where a firmware file of `get` comes from: source and digests, tools, and its own SHA-256."""
    found: dict[str, Any] = json.loads((file.parent / FACTS).read_text())
    return found


@attrs.frozen(kw_only=True)
class Site:
    """A folder to build in, with the tree to build by."""

    tools: Tools
    work: Path
    source: Source
    archives: list[Path]

    def _do(self, script: str) -> None:
        self.tools.run(self.work, *_OFFLINE, "bash", "-c", script, timeout=SLOW)

    def build(self, made: Recipe, jobs: int, progress: Progress) -> Path:
        """The firmware, compiled from nothing; `work` must be an empty folder."""
        for file in self.archives:
            shutil.copyfile(file, self.work / file.name)
        names = [file.name for file in self.archives]
        with progress.step("unpacking and patching the edk2 source"):
            self._do(recipes.prepare_script(*names))
            series = (self.work / "edk2/debian/patches/series").read_text()
            self._do(recipes.patch_script(sources.patches(series)))
        with progress.step(f"compiling edk2's tools ({jobs} at once)"):
            self._do(recipes.tools_script(jobs))
        with progress.step(f"compiling {made.file} ({jobs} at once; some minutes)"):
            self._do(recipes.build_script(made, self.source.version, jobs))
        result = self.work / "edk2" / made.result
        if not result.is_file():
            raise LocalFailure(f"edk2's build ended well but left no {made.result}")
        return result


def site(made: Recipe, archive: SourceArchive, cache: Path, work: Path, progress: Progress) -> Site:
    """Source and tree, fetched when they are not in the cache."""
    source = archive.source(inputs.DATA["pins"]["firmware"]["source"])
    tools = tree.make(cache / f"firmware-tools-{tree.key()}", archive, progress)
    with progress.step(f"fetching the source of {source.name} {source.version}"):
        archives = archive.fetch_source(source)
    return Site(tools=tools, work=work, source=source, archives=archives)


def _built(made: Recipe, archive: SourceArchive, cache: Path, progress: Progress, jobs: int | None) -> Path:
    source = archive.source(inputs.DATA["pins"]["firmware"]["source"])
    key = recipes.key(source.digests(), tree.key(), made, source.version)
    final = cache / f"firmware-{made.tee}-{key}"
    if (final / FACTS).exists():
        return final
    room([cache], DISK_NEEDED)
    with fresh(final) as scratch:
        work = scratch / "work"
        work.mkdir()
        place = site(made, archive, cache, work, progress)
        result = place.build(made, jobs or os.cpu_count() or 1, progress)
        shutil.copyfile(result, scratch / made.file)
        shutil.rmtree(work)
        lock = (place.tools.folder / "packages.lock").read_text()
        _finish(
            scratch,
            made.file,
            name=source.name,
            version=source.version,
            source=source.digests(),
            tools=lock.split("\n"),
        )
    progress.say(f"{made.file}: sha256 {facts(final / made.file)['sha256']}")
    return final


def _stock(archive: SourceArchive, cache: Path, progress: Progress) -> Path:
    """Debian's own build, out of its binary package."""
    stock = inputs.DATA["pins"]["firmware"]["stock"]
    listed = archive.listed([stock["package"]])
    final = cache / f"firmware-stock-{listed[stock['package']]['hash'].rpartition(':')[2][:16]}"
    if (final / FACTS).exists():
        return final
    with progress.step(f"fetching Debian's {stock['package']}"):
        (package,) = archive.fetch([stock["package"]])
    with fresh(final) as scratch:
        run(["dpkg-deb", "-x", package.file, scratch / "work"])
        shutil.copyfile(scratch / "work" / stock["member"], scratch / stock["file"])
        shutil.rmtree(scratch / "work")
        _finish(
            scratch,
            stock["file"],
            name=package.name,
            version=package.version,
            source={package.file.name: package.sha256},
            tools=[],
        )
    return final


def _finish(scratch: Path, file: str, *, name: str, version: str, source: dict[str, str], tools: list[str]) -> None:
    (scratch / file).chmod(0o644)
    said = {
        "file": file,
        "sha256": digest(scratch / file),
        "package": name,
        "version": version,
        "source": source,
        "tools": [line for line in tools if line],
    }
    (scratch / FACTS).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
