"""`python -m peerpods.image lock`: writes the locks anew, from the archive's newest packages."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from peerpods.errors import Refused
from peerpods.image import build as minimal
from peerpods.image import debian, inputs
from peerpods.image.firmware.source import SourceArchive
from peerpods.image.place import alone
from peerpods.image.progress import Progress
from peerpods.image.system import lock
from peerpods.image.system.packages import Chosen, choose, firmware_of_today
from peerpods.image.variant import Variant
from peerpods.image.variant import choose as variant_of

ARCH = "amd64"
"""The only architecture that is built from packages."""


def add_command(commands: Any) -> None:
    """The command, below those of `python -m peerpods.image`."""
    one = commands.add_parser(
        "lock", help="write the package locks anew from the archive's lists, and print their paths"
    )
    one.add_argument("--cache", type=Path, default=minimal.default_cache(), metavar="DIR", help="[%(default)s]")
    one.add_argument("--quiet", action="store_true", help="no progress")


def variants() -> Iterator[Variant]:
    """One image of each set of packages and tools that there is."""
    seen = set()
    for tee, facts in inputs.DATA["tees"].items():
        for profile, row in inputs.DATA["profiles"].items():
            if ARCH not in facts["architectures"] or (row["layout"] == "minimal" and tee != "none"):
                continue
            one = variant_of(tee, ARCH, profile)
            if (which := (one.layout, *one.packages())) not in seen:
                seen.add(which)
                yield one


def run(options: argparse.Namespace, progress: Progress) -> str:
    """Do it; the paths, one a line.

    Raises:
        ConfigError, LocalFailure: the archive cannot be read or lacks a package; the locks stay as they were.
    """
    archive = debian.Archive(options.cache / "image-apt")
    options.cache.mkdir(parents=True, exist_ok=True)
    chosen: list[Chosen] = []
    with alone(options.cache / "image.lock", progress):
        with progress.step("reading the Debian 13 package lists"):
            archive.update()
        for one in variants():
            with progress.step(f"choosing the packages of {one.name} and of all like it"):
                chosen.append(choose(one, archive, options.cache))
        with progress.step("choosing the source and the compiler of the firmware"):
            sources = SourceArchive(options.cache / "firmware-apt")
            sources.update()
            firmware = firmware_of_today(sources)
        meta = "".join(one.lock_line() + "\n" for one in archive.resolve([inputs.KERNEL]))
    new = lock.Locks(image=lock.merge([meta, *(one.lock() for one in chosen)]),
                     tools=lock.merge([firmware, *(one.tools_lock() for one in chosen)]))  # fmt: skip
    with suppress(Refused):  # a corrupt one is replaced
        if (old := lock.load(ARCH, strict=False)) is not None:
            progress.say(lock.check(old, new.image, new.tools, strict=False) or "no package differs from its lock")
    paths = lock.files(ARCH)
    for path, text in zip(paths, (new.image, new.tools), strict=True):
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_text(text)
        scratch.rename(path)
        progress.say(f"{path.name}: {text.count(chr(10))} packages")
    return "\n".join(map(str, paths))
