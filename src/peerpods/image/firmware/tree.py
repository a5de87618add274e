"""The tree that firmware is compiled in: Debian 13's compiler and edk2's other needs, unpacked, never installed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from peerpods.image import debian, inputs
from peerpods.image.progress import Progress
from peerpods.image.system.tools import WORK, Tools

_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "var/tmp", "etc", WORK)
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\n",
}
_LINKS = {"usr/bin/sh": "bash", "usr/bin/awk": "gawk", "usr/bin/cc": "gcc", "usr/bin/c++": "g++"}
"""What alternatives and maintainer scripts would have made."""


def key() -> str:
    """Of the tree: which programs, and how they are laid down."""
    facts = [inputs.DATA["pins"]["firmware"]["tools"], sorted(_FOLDERS), _FILES, _LINKS]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def make(folder: Path, archive: debian.Archive, progress: Progress) -> Tools:
    """The tree in `folder`; made when it is not there yet. Its packages are in `folder/packages.lock`."""
    if (folder / "packages.lock").exists():
        return Tools(folder)
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    names = archive.closure(inputs.DATA["pins"]["firmware"]["tools"])
    with progress.step(f"fetching and unpacking {len(names)} packages to compile firmware with"):
        packages = archive.fetch(names)
        debian.unpack(packages, scratch)
    for name in _FOLDERS:
        (scratch / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (scratch / name).write_text(text)
    for name, target in _LINKS.items():
        if not (scratch / name).is_symlink() and not (scratch / name).exists():
            (scratch / name).symlink_to(target)
    Tools(scratch).run(scratch / WORK, "ldconfig")
    (scratch / "packages.lock").write_text("".join(package.lock_line() + "\n" for package in packages))
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    return Tools(folder)
