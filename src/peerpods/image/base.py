"""The layer below our own source: Debian packages and wheels, stripped, with kernel and tools beside it. Cached."""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

import attrs

from peerpods.errors import LocalFailure
from peerpods.image import debian, elf, inputs, key, wheels
from peerpods.image.place import fresh
from peerpods.image.progress import Progress
from peerpods.image.run import run

LIBRARIES = "usr/lib/x86_64-linux-gnu"
PYTHON_PACKAGES = "usr/lib/python3/dist-packages"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"


@attrs.frozen
class Base:
    """A finished base layer: `root` without our source, `modules` (unpacked .ko files), `vmlinuz`, `tools`, `lock`."""

    folder: Path

    @property
    def root(self) -> Path:
        """Tree of the root file system."""
        return self.folder / "root"

    @property
    def modules(self) -> Path:
        """All modules of the kernel, decompressed, in one folder by canonical name."""
        return self.folder / "modules"

    @property
    def vmlinuz(self) -> Path:
        """The kernel."""
        return self.folder / "vmlinuz"

    @property
    def release(self) -> str:
        """The kernel's release, as `uname -r` gives it."""
        return (self.folder / "release").read_text()

    @property
    def lock(self) -> str:
        """packages.lock: name, version and SHA-256 of every .deb and wheel."""
        return (self.folder / "packages.lock").read_text()

    @property
    def tools_lock(self) -> str:
        """The same of the packages whose programs make the image."""
        return (self.folder / "tools.lock").read_text()

    def tool(self, *command: str | Path, timeout: float = 600) -> str:
        """Run one of the Debian 13 tools, whatever the host's release."""
        tools = self.folder / "tools"
        name = str(command[0])
        program = next((p for p in (tools / "usr" / f / name for f in ("bin", "sbin")) if p.exists()), None)
        if program is None:
            raise LocalFailure(f"the tools have no {name}")
        return run([tools / LOADER, "--library-path", tools / LIBRARIES, program, *command[1:]], timeout=timeout)

    def python(self, root: Path, *arguments: str, timeout: float = 600) -> str:
        """Run the image's own Python in the tree `root`, on the host."""
        program = root / "usr/bin/python3.13"
        command: list[str | Path] = [root / LOADER, "--library-path", root / LIBRARIES, program, "-s", "-S", "-B"]
        environment = {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(inputs.EPOCH)}
        return run([*command, *arguments], environment=environment, timeout=timeout)


def make(folder: Path, cache: Path, requirements: Path, progress: Progress) -> Base:
    """Make the layer in `folder`, which must not exist. `cache` keeps the fetched packages and wheels."""
    archive = debian.Archive(cache / "image-apt")
    with progress.step("reading the Debian 13 package lists"):
        archive.update()
        names = archive.closure(list(inputs.PACKAGES), inputs.DROPPED)
        kernel = archive.kernel_package()
        tools = archive.closure(list(inputs.TOOLS), inputs.DROPPED)
    with progress.step(f"fetching {len(names)} packages, the kernel and {len(tools)} packages of tools"):
        found = {package.name: package for package in archive.fetch({*names, *tools, kernel})}
        wheel_files = wheels.fetch(requirements, cache / f"image-wheels-{key.requirements_key(requirements)}")
    with progress.step("unpacking"), fresh(folder) as scratch:
        debian.unpack([found[name] for name in names], scratch / "root")
        debian.unpack([found[name] for name in tools], scratch / "tools")
        _unpack_kernel(found[kernel], scratch)
        certificates(scratch / "root")
        strip(scratch / "root", inputs.STRIPPED)
        wheels.unpack(wheel_files, scratch / "root" / PYTHON_PACKAGES)
        check_libraries(scratch / "root")
        lines = [found[name].lock_line() for name in sorted({*names, kernel})]
        (scratch / "packages.lock").write_text("\n".join([*lines, *wheels.lock_lines(wheel_files)]) + "\n")
        (scratch / "tools.lock").write_text("".join(found[name].lock_line() + "\n" for name in tools))
    return Base(folder)


def _unpack_kernel(package: debian.Package, scratch: Path) -> None:
    tree = scratch / "kernel"
    run(["dpkg-deb", "-x", package.file, tree])
    image = next((tree / "boot").glob("vmlinuz-*"))
    shutil.copyfile(image, scratch / "vmlinuz")
    release = image.name.removeprefix("vmlinuz-")
    (scratch / "release").write_text(release)
    modules = scratch / "modules"
    modules.mkdir()
    for file in (tree / "usr/lib/modules" / release).rglob("*.ko.xz"):
        name = file.name.removesuffix(".ko.xz").replace("-", "_")
        (modules / f"{name}.ko").write_bytes(lzma.decompress(file.read_bytes()))
    shutil.rmtree(tree)


def certificates(root: Path) -> None:
    """The bundle that the package's maintainer script would have made."""
    parts = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle = root / "usr/lib/ssl/certs/ca-certificates.crt"
    shutil.rmtree(root / "usr/lib/ssl", ignore_errors=True)
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"".join(part.read_bytes() for part in parts))


def strip(root: Path, names: list[str]) -> None:
    """Remove files and folders from an unpacked tree; make what is left readable, with no set-user-id."""
    for name in names:
        path = root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    for folder in root.glob("usr/lib/python3.13/config-*"):
        shutil.rmtree(folder)
    for file in root.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode & 0o755 | 0o444)


def check_libraries(root: Path) -> None:
    """Every program and library finds the libraries it asks for.

    Raises:
        LocalFailure: naming those that do not.
    """
    have = {file.name for file in (root / LIBRARIES).rglob("*.so*")}
    lost: dict[str, list[str]] = {}
    for top, _, files in os.walk(root / "usr"):
        for name in files:
            path = Path(top) / name
            if path.is_symlink() or path.suffix in (".py", ".pyc"):
                continue
            data = path.read_bytes()
            if elf.is_elf(data):
                for library in elf.needed(data):
                    if library not in have:
                        lost.setdefault(library, []).append(path.relative_to(root).as_posix())
    if lost:
        text = "; ".join(f"{library} (for {', '.join(users[:3])})" for library, users in sorted(lost.items()))
        raise LocalFailure(f"libraries are missing in the image: {text}")
