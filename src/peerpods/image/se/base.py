"""The layer below our own source, of s390x: unpacked and stripped on any machine, since nothing of it runs there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs

from peerpods.errors import LocalFailure
from peerpods.image import base as minimal
from peerpods.image import debian, elf, inputs, wheels
from peerpods.image.base import PYTHON_PACKAGES
from peerpods.image.place import fresh
from peerpods.image.progress import Progress
from peerpods.image.se.initrd import LIBRARIES
from peerpods.image.se.sources import FACTS, Chosen
from peerpods.image.system import base as system
from peerpods.image.system import sizes
from peerpods.image.system.base import SystemBase
from peerpods.image.system.tools import Tools
from peerpods.image.system.tree import COMPILED

_AMD64 = "x86_64-linux-gnu"
_PLUGINS = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from twisted.application.service import IServiceMaker\n"
    "from twisted.plugin import getPlugins\n"
    "names = {p.tapname for p in getPlugins(IServiceMaker)}\n"
    "assert 'forwarder' in names, names\n"
    "import peerpods.vmstart.prepare, peerpods.vmstart.scratch, peerpods.podnet.building\n"
)


@attrs.frozen
class ForeignBase(SystemBase):
    """A finished base layer of s390x."""

    @property
    def programs(self) -> Path:
        """Tree of the packages that are in the initrd only."""
        return self.folder / "initrd"


def stripped() -> list[str]:
    """What is removed from the unpacked tree: the list for amd64, said for s390x, and its own. Pure."""
    return [name.replace(_AMD64, FACTS["triplet"]) for name in inputs.DATA["stripped_system"]] + FACTS["stripped"]


def make(
    folder: Path, chosen: Chosen, found: dict[str, debian.Package], asked: dict[str, str], archive: debian.Archive,
    tools: Tools, progress: Progress,
) -> ForeignBase:  # fmt: skip
    """The layer in `folder`; made when it is not there yet. Arguments as in the amd64 layer; `found` has the .debs.

    Raises:
        LocalFailure: a library is missing, or a file of another architecture got in.
    """
    if (folder / "packages.lock").exists():
        return ForeignBase(folder)
    with progress.step("unpacking"), fresh(folder) as scratch:
        root = scratch / "root"
        files = debian.unpack([found[one.name] for one in chosen.root], root)
        debian.unpack([found[one.name] for one in chosen.initrd], scratch / "initrd")
        system.unpack_kernel(found[chosen.kernel.name], scratch, tools)
        minimal.certificates(root)
        minimal.strip(root, stripped())
        system.drop_dangling(root / "usr/lib/systemd/system")
        wheels.unpack(chosen.wheels, root / PYTHON_PACKAGES)
        check(root)
        owner = sizes.owners(files, sizes.purposes(asked, archive.stanzas([one.name for one in chosen.root])))
        kept = {path: why for path, why in sorted(owner.items()) if (root / path).is_file()}
        (scratch / "owners.json").write_text(json.dumps(kept, indent=0))
        (scratch / "packages.lock").write_text(chosen.lock())
    return ForeignBase(folder)


def check(root: Path) -> None:
    """Every program and library is of s390x and finds the libraries it asks for.

    Raises:
        LocalFailure: naming those that do not.
    """
    have = {file.name for file in (root / LIBRARIES).rglob("*.so*")}
    lost, foreign = set(), set()
    for top, _, names in os.walk(root / "usr"):
        for name in names:
            path = Path(top) / name
            if path.is_symlink() or path.suffix in (".py", ".pyc"):
                continue
            data = path.read_bytes()
            if not elf.is_elf(data):
                continue
            if not data.startswith(elf.MAGIC_BIG):
                foreign.add(path.relative_to(root).as_posix())
            lost |= {f"{library} (for {name})" for library in elf.needed(data) if library not in have}
    if foreign:
        raise LocalFailure(f"not of s390x, but in its image: {', '.join(sorted(foreign)[:3])}")
    if lost:
        raise LocalFailure(f"libraries are missing in the image: {', '.join(sorted(lost)[:6])}")


def compile_all(tools: Tools, root: Path) -> None:
    """Bytecode as `system.python` makes it, by the tools' Python of the same release: it knows no machine.

    Raises:
        LocalFailure: the two are not the same release, or something in the image does not import.
    """
    for folder in root.rglob("__pycache__"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    for path in root.rglob("*.py"):
        if path.is_symlink() and path.readlink().is_absolute():
            path.unlink()  # it leads into the VM's /etc: here, to a file that the builder's own machine may have
    python = ("/usr/bin/python3", "-s", "-S", "-B")
    hashed = {"PYTHONHASHSEED": "0"}
    release = tools.run(root, *python, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()
    if not (root / "usr/bin" / release).exists():
        raise LocalFailure(f"the tools have {release}, the image has another: its bytecode cannot be made here")
    words = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", "/work", "-p", "/")
    tools.run(root, *python, *words, *(f"/work/{name}" for name in COMPILED), environment=hashed)
    tools.run(root, *python, "-c", _PLUGINS, f"/work/{PYTHON_PACKAGES}", environment=hashed)
    if not (root / PYTHON_PACKAGES / "twisted/plugins/dropin.cache").exists():
        raise LocalFailure("twisted wrote no plugin cache")
