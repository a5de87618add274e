"""The initrd of an s390x image: busybox, veritysetup and findfs, the modules up to the root disk, one script.

Not dracut's, as on amd64: dracut asks the dynamic loader of the machine it runs on what a program needs, and that
machine is no IBM Z. This one is written from the packages' files alone, whatever the builder is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image import cpio, elf, inputs, modules
from peerpods.image.se.sources import FACTS

SCRIPT = Path(__file__).resolve().parent / "initrd.sh"
LIBRARIES = f"usr/lib/{FACTS['triplet']}"
LOADER = "ld64.so.1"
PROGRAMS = ("usr/sbin/veritysetup", "usr/sbin/findfs")
Loaded = dict[str, tuple[bytes, dict[str, list[str]]]]
"""Kernel modules in the order of loading: content, and what each says of itself."""
FOLDERS = ("proc", "sys", "dev", "run", "root", "lower", "upper", "tmp")


def libraries(programs: Iterable[bytes], read: Callable[[str], bytes]) -> dict[str, bytes]:
    """The shared libraries that programs need, and those that these need, by name. Pure.

    Args:
        programs: their content.
        read: gives a library's content by its name.
    """
    found: dict[str, bytes] = {}
    queue = [name for program in programs for name in elf.needed(program)]
    while queue:
        name = queue.pop()
        if name not in found:
            found[name] = read(name)
            queue += elf.needed(found[name])
    return dict(sorted(found.items()))


def entries(
    *, script: bytes, busybox: bytes, programs: dict[str, bytes], shared: dict[str, bytes], release: str,
    loaded: Loaded, tried: Iterable[str] = (),
) -> list[cpio.Entry]:  # fmt: skip
    """What the archive holds. Pure.

    Args:
        script: process 1.
        busybox: the static program of that name.
        programs: by path.
        shared: their libraries with the dynamic loader, by name.
        release: the kernel's.
        loaded: modules, each after what it depends on.
        tried: those of them that the machine may refuse, with what only they need.
    """
    place = f"usr/lib/modules/{release}"
    infos = {name: info for name, (_, info) in loaded.items()}
    may_fail = set(tried)
    order = {
        "etc/modules": [name for name in loaded if name not in may_fail],
        "etc/modules.tried": [name for name in loaded if name in may_fail],
    }
    return [
        cpio.file("init", script, 0o755),
        cpio.file("usr/bin/busybox", busybox, 0o755),
        cpio.symlink("bin", "usr/bin"),
        cpio.symlink("lib", "usr/lib"),
        cpio.Entry("dev/console", 0o020600, device=(5, 1)),
        *(cpio.folder(name) for name in FOLDERS if name != "dev"),
        *(cpio.file(name, data, 0o755) for name, data in programs.items()),
        *(cpio.file(f"{LIBRARIES}/{name}", data, 0o755) for name, data in shared.items()),
        cpio.symlink(f"usr/lib/{LOADER}", f"{FACTS['triplet']}/{LOADER}"),
        *(cpio.file(file, (" ".join(named) + "\n").encode()) for file, named in order.items()),
        cpio.file(f"{place}/modules.dep", modules.dependency_table(infos).encode()),
        *(cpio.file(f"{place}/{name}.ko", data) for name, (data, _) in loaded.items()),
    ]


def make(root: Path, programs: Path, kernel: Path, release: str) -> bytes:
    """The archive, not compressed.

    Args:
        root: tree with the programs and libraries.
        programs: tree with busybox.
        kernel: the kernel's package, its modules decompressed.
        release: the kernel's.

    Raises:
        LocalFailure: a library or a module is missing.
    """
    tree = kernel / "usr/lib/modules" / release
    files = {modules.canonical(file.name.removesuffix(".ko")): file for file in tree.rglob("*.ko")}
    built_in = {modules.canonical(Path(line).stem) for line in (tree / "modules.builtin").read_text().split()}
    needed = _load(FACTS["initrd_modules"], files, built_in)
    found = _load([*FACTS["initrd_modules"], *FACTS["initrd_tried_modules"]], files, built_in)
    own = {name: _file(root / name) for name in PROGRAMS}
    shared = libraries(own.values(), lambda name: _library(root, name))
    shared.setdefault(LOADER, _library(root, LOADER))
    content = entries(
        script=SCRIPT.read_bytes(), busybox=_file(programs / "usr/bin/busybox"), programs=own, shared=shared,
        release=release, loaded=found, tried=found.keys() - needed.keys(),
    )  # fmt: skip
    return cpio.write(content, inputs.EPOCH)


def _load(wanted: Iterable[str], files: dict[str, Path], built_in: set[str]) -> Loaded:
    seen: Loaded = {}

    def info(name: str) -> dict[str, list[str]] | None:
        if name not in files:
            return None
        if name not in seen:
            data = files[name].read_bytes()
            seen[name] = (data, elf.module_info(data))
        return seen[name][1]

    order = modules.load_order(wanted, info)
    lost = [name for name in map(modules.canonical, wanted) if name not in order and name not in built_in]
    if lost:
        raise LocalFailure(
            f"the s390x kernel has no module {', '.join(lost)}", remedy="see inputs.json, initrd_modules"
        )
    return {name: seen[name] for name in order}


def _library(root: Path, name: str) -> bytes:
    return _file(root / LIBRARIES / name)


def _file(path: Path) -> bytes:
    try:
        return path.resolve().read_bytes()
    except OSError as error:
        raise LocalFailure(f"the s390x packages have no {path.name}: {error.strerror}") from error
