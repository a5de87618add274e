"""`python -m peerpods.image firmware`: the firmware files of a TEE, one path a line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from peerpods.image import build as minimal
from peerpods.image.firmware.build import facts, get
from peerpods.image.progress import Progress


def add_command(commands: Any) -> None:
    """The command, below those of `python -m peerpods.image`."""
    one = commands.add_parser("firmware", help="build the firmware of a TEE, when it is not there, and print its paths")
    one.add_argument("--tee", default="snp", help="snp, tdx or none [%(default)s]")
    one.add_argument("--jobs", type=int, metavar="N", help="compilers at once [one a core]")
    one.add_argument("--json", action="store_true", help="print where it comes from instead")
    one.add_argument("--cache", type=Path, default=minimal.default_cache(), metavar="DIR", help="[%(default)s]")
    one.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace, progress: Progress) -> str:
    """Do it; what to print. Raises as `get` does."""
    found = get(options.tee, options.cache, progress, jobs=options.jobs)
    if options.json:
        return json.dumps({name: facts(path) for name, path in found.items()}, indent=1, sort_keys=True)
    return "\n".join(str(path) for path in found.values())
