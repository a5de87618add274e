"""The initrd: what dracut collects, less what this VM's start never asks for, and our files. No shell is in it.

Its size counts several times: firmware and stub hash it for the TPM, each with every algorithm of the TPM.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image import cpio, inputs
from peerpods.image.system.base import SystemBase
from peerpods.image.system.tools import Tools
from peerpods.image.system.tree import with_dependencies

_UNPACK = "mkdir /work/initrd && cd /work/initrd && exec cpio --quiet -id < /work/dracut.cpio"
_PROGRAMS = ("usr/bin", "usr/sbin")
_LISTED = {"usr/lib/udev/rules.d": "rules", "usr/lib/systemd/system-generators": "generators"}


def make(base: SystemBase, tools: Tools, work: Path) -> None:
    """work/initrd.img: finds the disk, opens the verity root, hands over. The same bytes each time.

    The kernel's modules lie in the tools tree already, where dracut looks for them.
    """
    data = inputs.DATA["dracut"]
    tools.run(
        work, "dracut", "--quiet", "--reproducible", "--no-hostonly", "--no-hostonly-cmdline", "--kver", base.release,
        "--force", "--no-compress", "--no-early-microcode", "--modules", " ".join(data["modules"]), "--drivers",
        " ".join(inputs.DATA["modules"]["system_initrd"]), "/work/dracut.cpio",
        environment={"DRACUT_NO_MKNOD": "1"},  # only a root outside of containers could; the kernel has its own nodes
    )  # fmt: skip
    tools.run(work, "sh", "-c", _UNPACK)
    tree = work / "initrd"
    lean(tree)
    _modules(base, tools, tree)
    tools.run(tree, "ldconfig", "-r", "/work", "-X")
    shutil.rmtree(tree / "var", ignore_errors=True)  # ldconfig's own cache
    (work / "initrd.cpio").write_bytes(cpio.write(entries(tree), inputs.EPOCH))
    tools.run(work, "zstd", "--quiet", "-19", "--single-thread", "/work/initrd.cpio", "-o", "/work/initrd.img")
    for name in ("dracut.cpio", "initrd.cpio"):
        (work / name).unlink()
    shutil.rmtree(tree)
    (work / "initrd.img").chmod(0o644)


def _modules(base: SystemBase, tools: Tools, tree: Path) -> None:
    """Take away the modules that dracut adds of itself, and index the rest."""
    folder = tree / "usr/lib/modules" / base.release
    wanted = with_dependencies(base, tools, inputs.DATA["modules"]["system_initrd"])
    for path in folder.rglob("*.ko"):
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    tools.run(tree, "depmod", "-b", "/work", base.release)


def lean(tree: Path) -> None:
    """Take away what the inputs do not keep, add their files.

    Raises:
        LocalFailure: something to keep or to take away is not there: dracut or Debian changed.
    """
    data = inputs.DATA["dracut"]
    missing = set(data["programs"])
    for folder in _PROGRAMS:
        for path in (tree / folder).iterdir():
            if path.name in data["programs"]:
                missing.discard(path.name)
            else:
                path.unlink()
    for folder, key in _LISTED.items():
        missing |= set(data[key]) - {path.name for path in (tree / folder).iterdir()}
        for path in (tree / folder).iterdir():
            if path.name not in data[key]:
                path.unlink()
    for pattern in data["stripped"]:
        found = list(tree.glob(pattern))
        missing |= set() if found else {pattern}
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    if missing:
        raise LocalFailure(
            f"dracut's initrd has no {', '.join(sorted(missing))}", remedy="mend `dracut` of inputs.json"
        )
    for name, text in data["files"].items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in tree.rglob("*"):
        if path.is_symlink() and not str(path.readlink()).startswith(("/", "../run")) and not path.exists():
            path.unlink()


def entries(tree: Path) -> Iterator[cpio.Entry]:
    """Everything below a folder, for an archive: folders 0755, programs 0755, other files 0644."""
    for path in tree.rglob("*"):
        name = path.relative_to(tree).as_posix()
        if path.is_symlink():
            yield cpio.symlink(name, path.readlink().as_posix())
        elif path.is_dir():
            yield cpio.folder(name)
        else:
            mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
            yield cpio.file(name, path.read_bytes(), mode)
