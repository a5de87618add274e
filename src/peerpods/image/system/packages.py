"""Which packages an image is made of and by: chosen from the archive's signed lists before anything is downloaded.

What its firmware is made of and by stands beside them in tools.lock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from peerpods.image import debian, inputs, key, wheels
from peerpods.image.debian import Listed
from peerpods.image.firmware import build as firmware
from peerpods.image.firmware.source import SourceArchive
from peerpods.image.system.lock import FIRMWARE
from peerpods.image.variant import Variant


@attrs.frozen(kw_only=True)
class Chosen:
    """Everything that comes from elsewhere and decides an image's bytes, but for firmware and a release's agent."""

    asked: dict[str, str]
    """Packages asked for by name, with what for."""
    packages: list[Listed]
    """These and what they depend on."""
    kernel: Listed
    wheels: list[Path]
    tools: list[Listed]
    """Whose programs make the image."""

    def lock(self) -> str:
        """packages.lock: `NAME VERSION SHA256` of every .deb, `FILE SHA256` of every wheel."""
        debs = [one.lock_line() for one in sorted({*self.packages, self.kernel})]
        return "".join(f"{line}\n" for line in (*debs, *wheels.lock_lines(self.wheels)))

    def tools_lock(self) -> str:
        """tools.lock: `NAME VERSION SHA256`."""
        return "".join(f"{one.lock_line()}\n" for one in self.tools)


def dropped(layout: str) -> Collection[str]:
    """Packages that dependencies bring and an image of this layout does not need."""
    return inputs.DROPPED - set(inputs.DATA["kept_system"] if layout == "system" else ())


def choose(variant: Variant, archive: debian.Archive, cache: Path) -> Chosen:
    """What this image is made of. Wheels are fetched when the cache has not all of them; packages are not.

    Raises:
        LocalFailure: the archive does not have a package, or the wheels are not to be had.
    """
    layout = variant.layout
    names = archive.closure(list(variant.packages()), dropped(layout))
    kernel = archive.kernel_package()
    tools = archive.closure(inputs.DATA["tools"][layout], dropped(layout) if layout == "minimal" else ())
    found = {one.name: one for one in archive.resolve({*names, kernel, *tools})}
    return Chosen(
        asked=variant.packages(),
        packages=[found[name] for name in names],
        kernel=found[kernel],
        wheels=wheels.fetch(key.REQUIREMENTS, cache / f"image-wheels-{key.requirements_key()}"),
        tools=[found[name] for name in tools],
    )


def firmware_lock(files: Mapping[str, Path]) -> str:
    """Lines of tools.lock about firmware files of the cache: packages of the compiler's tree, archives of the source.

    A file that the cache did not make has none.
    """
    lines: set[str] = set()
    for file in files.values():
        if (file.parent / firmware.FACTS).exists():
            said = firmware.facts(file)
            lines |= {f"{FIRMWARE}{line}" for line in said["tools"]}
            lines |= {f"{FIRMWARE}{name} {digest}" for name, digest in said["source"].items()}
    return "".join(f"{line}\n" for line in sorted(lines))


def firmware_of_today(archive: SourceArchive) -> str:
    """The same lines for the firmware of every TEE, from the archive's lists."""
    pins = inputs.DATA["pins"]["firmware"]
    stock = archive.listed([pins["stock"]["package"]])[pins["stock"]["package"]]
    files = {**archive.source(pins["source"]).digests(), stock["file"]: stock["hash"].partition(":")[2]}
    lines = [one.lock_line() for one in archive.resolve(archive.closure(pins["tools"]))]
    lines += [f"{name} {digest}" for name, digest in files.items()]
    return "".join(f"{FIRMWARE}{line}\n" for line in sorted(lines))
