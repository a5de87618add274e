"""`python -m peerpods.image se`: pack given files for Secure Execution."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from peerpods.image import build
from peerpods.image.progress import Progress
from peerpods.image.publish import signing
from peerpods.image.se import container
from peerpods.image.variant import choose

_FILES = {
    "kernel": "raw s390x kernel (bzImage)",
    "initrd": "its initrd",
    "cmdline": "its command line",
    "stage3a": "first loader of s390-tools",
    "stage3b": "second loader of s390-tools",
    "root": "the root certificate to trust",
}


def add_command(commands: Any) -> None:
    """The command, below those of `python -m peerpods.image`."""
    one = commands.add_parser("se", help="pack kernel, initrd and command line for Secure Execution")
    for name, text in _FILES.items():
        one.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=text)
    one.add_argument("--host-key", type=Path, action="append", required=True, metavar="FILE", help="host key document")
    one.add_argument("--certificate", type=Path, action="append", required=True, metavar="FILE", help="of the chain")
    one.add_argument("--crl", type=Path, action="append", required=True, metavar="FILE", help="revocation list")
    one.add_argument("--lock", type=Path, metavar="FILE", help="packages.lock of what is inside")
    one.add_argument("--profile", default="prod", help="[%(default)s]")
    one.add_argument("--keys", type=Path, metavar="DIR", help="keep header key and CCK here; else thrown away")
    one.add_argument("--out", type=Path, metavar="DIR", help="[build/images/se-s390x-PROFILE]")
    one.add_argument("--signing-key", type=Path, metavar="FILE", help="ed25519, PEM; else one of this cache")
    one.add_argument("--cache", type=Path, default=build.default_cache(), metavar="DIR", help="[%(default)s]")
    one.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace, progress: Progress) -> Path:
    """Do it; the finished folder. Raises as `container.build` does."""
    from peerpods.image.system.engine import default_out

    variant = choose("se", "s390x", options.profile)
    key = signing.load_private(options.signing_key) if options.signing_key else None
    order = container.Order(
        files=container.Files(**{name: getattr(options, name) for name in _FILES if name != "root"}, lock=options.lock),
        hosts=container.Hosts(
            documents=options.host_key, root=options.root, certificates=options.certificate, lists=options.crl
        ),
        out=options.out or default_out(variant),
        profile=options.profile,
        keys=options.keys,
        signing_key=key or signing.own_key(options.cache / "signing-key.pem"),
    )
    return container.build(order, datetime.datetime.now(datetime.UTC), progress.say)
