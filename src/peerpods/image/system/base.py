"""The layer below our own source: Debian packages and wheels, stripped; the kernel; its modules. Cached."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import attrs

from peerpods.image import base as minimal
from peerpods.image import debian, inputs, wheels
from peerpods.image.base import PYTHON_PACKAGES
from peerpods.image.place import fresh
from peerpods.image.progress import Progress
from peerpods.image.run import run
from peerpods.image.system import sizes
from peerpods.image.system.packages import Chosen
from peerpods.image.system.tools import Tools


@attrs.frozen
class SystemBase:
    """A finished base layer."""

    folder: Path

    @property
    def root(self) -> Path:
        """Tree of the root, without our source and without /etc."""
        return self.folder / "root"

    @property
    def kernel(self) -> Path:
        """The kernel package as it was unpacked: boot/vmlinuz-*, usr/lib/modules/RELEASE."""
        return self.folder / "kernel"

    @property
    def vmlinuz(self) -> Path:
        """The kernel."""
        return self.folder / "vmlinuz"

    @property
    def release(self) -> str:
        """As `uname -r` gives it."""
        return (self.folder / "release").read_text()

    @property
    def lock(self) -> str:
        """`NAME VERSION SHA256` of every .deb, `FILE SHA256` of every wheel; of the image, not of the tools."""
        return (self.folder / "packages.lock").read_text()

    @property
    def owners(self) -> dict[str, str]:
        """What each file of a package is for, by its path in `root`."""
        found: dict[str, str] = json.loads((self.folder / "owners.json").read_text())
        return found


def make(folder: Path, chosen: Chosen, archive: debian.Archive, tools: Tools, progress: Progress) -> SystemBase:
    """The layer in `folder`; made when it is not there yet."""
    if (folder / "packages.lock").exists():
        return SystemBase(folder)
    names = [one.name for one in chosen.packages]
    with progress.step(f"fetching {len(names)} packages and the kernel"):
        found = {package.name: package for package in archive.fetch({*names, chosen.kernel.name})}
    with progress.step("unpacking"), fresh(folder) as scratch:
        root = scratch / "root"
        files = debian.unpack([found[name] for name in names], root)
        unpack_kernel(found[chosen.kernel.name], scratch, tools)
        minimal.certificates(root)
        minimal.strip(root, inputs.DATA["stripped_system"])
        drop_dangling(root / "usr/lib/systemd/system")
        wheels.unpack(chosen.wheels, root / PYTHON_PACKAGES)
        minimal.check_libraries(root)
        owner = sizes.owners(files, sizes.purposes(chosen.asked, archive.stanzas(names)))
        kept = {path: why for path, why in sorted(owner.items()) if (root / path).is_file()}
        (scratch / "owners.json").write_text(json.dumps(kept, indent=0))
        (scratch / "packages.lock").write_text(chosen.lock())
    return SystemBase(folder)


def drop_dangling(folder: Path) -> None:
    """Links to units that were stripped."""
    for link in folder.rglob("*"):
        if link.is_symlink() and not link.exists() and not str(link.readlink()).startswith("/dev"):
            link.unlink()


def unpack_kernel(package: debian.Package, scratch: Path, tools: Tools) -> None:
    """vmlinuz, release, and all modules decompressed in a tree that depmod has indexed."""
    tree = scratch / "kernel"
    run(["dpkg-deb", "-x", package.file, tree])
    image = next((tree / "boot").glob("vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    shutil.copyfile(image, scratch / "vmlinuz")
    (scratch / "release").write_text(release)
    for file in (tree / "usr/lib/modules" / release).rglob("*.ko.xz"):
        file.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
        file.unlink()
    for name in ("lib",):
        if not (tree / name).exists():
            (tree / name).symlink_to(f"usr/{name}")
    tools.run(tree, "depmod", "--basedir", "/work", release)
