"""Compiles the image's Python with the image's own Python, under the paths of the VM."""

from __future__ import annotations

import shutil
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image.base import PYTHON_PACKAGES
from peerpods.image.system.tools import Tools

_PYTHON = ("chroot", "/work", "/usr/bin/python3.13", "-s", "-S", "-B")
_PLUGINS = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from twisted.application.service import IServiceMaker\n"
    "from twisted.plugin import getPlugins\n"
    "names = {p.tapname for p in getPlugins(IServiceMaker)}\n"
    "assert 'forwarder' in names, names\n"
    "import peerpods.vmstart.prepare, peerpods.vmstart.scratch, peerpods.podnet.building\n"
)


def compile_all(tools: Tools, root: Path, places: list[str]) -> None:
    """Bytecode that is never checked against its source (the root is read-only), and twisted's plugin cache.

    Raises:
        LocalFailure: when something in the image does not import.
    """
    for folder in root.rglob("__pycache__"):
        shutil.rmtree(folder)
    for path in root.rglob("*.py"):
        if path.is_symlink() and path.readlink().is_absolute():
            path.unlink()  # it leads into the VM's /etc: here, to a file that the builder's own machine may have
    hashed = {"PYTHONHASHSEED": "0"}
    words = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    tools.run(root, *_PYTHON, *words, *places, environment=hashed)
    tools.run(root, *_PYTHON, "-c", _PLUGINS, f"/{PYTHON_PACKAGES}", environment=hashed)
    if not (root / PYTHON_PACKAGES / "twisted/plugins/dropin.cache").exists():
        raise LocalFailure("twisted wrote no plugin cache")
