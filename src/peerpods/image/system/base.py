"""The layer below our own source: Debian packages and wheels, stripped; the kernel; its modules. Cached."""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Collection
from pathlib import Path

import attrs

from peerpods.image import base as minimal
from peerpods.image import debian, inputs, key, wheels
from peerpods.image.base import PYTHON_PACKAGES
from peerpods.image.progress import Progress
from peerpods.image.run import run
from peerpods.image.system.tools import Tools
from peerpods.image.variant import Variant


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


def dropped() -> Collection[str]:
    """Packages that dependencies bring and a system image does not need."""
    return inputs.DROPPED - set(inputs.DATA["kept_system"])


def make(
    folder: Path, variant: Variant, archive: debian.Archive, cache: Path, tools: Tools, progress: Progress
) -> SystemBase:
    """The layer in `folder`; made when it is not there yet."""
    if (folder / "packages.lock").exists():
        return SystemBase(folder)
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    names = archive.closure(list(variant.packages()), dropped())
    kernel = archive.kernel_package()
    with progress.step(f"fetching {len(names)} packages and the kernel"):
        found = {package.name: package for package in archive.fetch({*names, kernel})}
        wheel_files = wheels.fetch(key.REQUIREMENTS, cache / f"image-wheels-{key.requirements_key()}")
    with progress.step("unpacking"):
        debian.unpack([found[name] for name in names], scratch / "root")
        _kernel(found[kernel], scratch, tools)
        minimal.certificates(scratch / "root")
        minimal.strip(scratch / "root", inputs.DATA["stripped_system"])
        _drop_dangling(scratch / "root/usr/lib/systemd/system")
        wheels.unpack(wheel_files, scratch / "root" / PYTHON_PACKAGES)
        minimal.check_libraries(scratch / "root")
    lines = [found[name].lock_line() for name in sorted({*names, kernel})]
    lines += [f"{wheel.name} {debian.checked(wheel, '')}" for wheel in wheel_files]
    (scratch / "packages.lock").write_text("\n".join(lines) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    return SystemBase(folder)


def _drop_dangling(folder: Path) -> None:
    """Links to units that were stripped."""
    for link in folder.rglob("*"):
        if link.is_symlink() and not link.exists() and not str(link.readlink()).startswith("/dev"):
            link.unlink()


def _kernel(package: debian.Package, scratch: Path, tools: Tools) -> None:
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
