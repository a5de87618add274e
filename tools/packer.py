"""Prints the path of packer 1.6.6, Debian 12's last free one, whatever Debian the host is.

It is fetched with an apt of our own and only unpacked below the cache: nothing of the host changes, and Debian 13,
where there is none, gets the same one. Run by the project's interpreter, as `make packer`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from peerpods.errors import PeerPodError
from peerpods.image import build, debian

SUITES = (("debian", "bookworm"),)
VERSION = "1.6.6"


def packer(cache: Path) -> Path:
    """The program; fetched when it is not there yet.

    Raises:
        ConfigError, LocalFailure: no archive, no network, or a damaged package.
    """
    folder = cache / f"packer-{VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        host = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
        archive = debian.Archive(cache / "packer-apt", architecture=host.stdout.strip(), suites=SUITES)
        print("packer: fetching Debian 12's package", file=sys.stderr)
        archive.update()
        scratch = cache / f"packer-{os.getpid()}.new"
        try:
            debian.unpack(archive.fetch(["packer"]), scratch)
            shutil.rmtree(scratch / "usr/share")
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(cache / "packer-apt", ignore_errors=True)
    return folder / "usr/bin/packer"


if __name__ == "__main__":
    try:
        print(packer(build.default_cache()))
    except PeerPodError as error:
        print(f"packer: {error}", file=sys.stderr)
        sys.exit(1)
