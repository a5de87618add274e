"""One image of the matrix TEE x architecture x profile, from what the command line says to the finished folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import attrs

from peerpods.errors import ConfigError
from peerpods.image import inputs, variant
from peerpods.image.agentkind import Agent
from peerpods.image.progress import Progress
from peerpods.image.variant import Variant


def add_options(one: argparse.ArgumentParser) -> None:
    """The options that choose an image and say how it is made."""
    one.add_argument("--tee", metavar="TEE", help="snp, tdx, se or none")
    one.add_argument("--arch", metavar="ARCH", help="amd64 or s390x; the TEE's if not given")
    one.add_argument("--profile", metavar="PROFILE", help="prod, prod-test, debug or local")
    one.add_argument("--lock", metavar="LOCK", default="anew", help="strict: only locked packages; anew: the newest")
    one.add_argument("--signing-key", type=Path, metavar="FILE", help="PEM, ed25519; one of this cache if not given")
    one.add_argument("--no-formats", action="store_true", help="only the raw disk: no qcow2, no VHD")
    one.add_argument("--json", action="store_true", help="print the folder and the manifest")


def wanted(options: argparse.Namespace) -> Variant:
    """The variant, with what is not given filled in.

    No TEE means none; the architecture is the TEE's first one; the profile is local without a TEE, else prod with a
    kata-agent release and prod-test without one.

    Raises:
        ConfigError: TEE, architecture and profile fit no image, or it cannot be built as asked.
    """
    tee = options.tee or "none"
    facts = inputs.DATA["tees"].get(tee, {})
    default = "local" if tee == "none" else "prod" if options.kata_agent else "prod-test"
    found = variant.choose(tee, options.arch or facts.get("architectures", ["amd64"])[0], options.profile or default)
    if options.twice and found.layout != "minimal":
        raise ConfigError(
            f"--twice is for PROFILE=local, not for {found.name}",
            setting="twice",
            remedy="build with --out, again with another --out and --cache, and compare: peerpods image diff A B",
        )
    return found


def build(
    wanted: Variant,
    agent: Agent,
    cache: Path,
    progress: Progress,
    *,
    out: Path | None = None,
    strict: bool = False,
    signing_key: Path | None = None,
    formats: bool = True,
) -> Path:
    """Build and publish an image of the system layout; the finished folder.

    Args:
        wanted: which image.
        agent: what runs pods in it.
        cache: where layers, firmware and the cache's own signing key are.
        progress: told each step with its time.
        out: the folder; build/images/<name> if not given.
        strict: only the packages of the lock.
        signing_key: PEM file of the key that signs; the cache's own if not given.
        formats: whether qcow2 and VHD are made too.

    Raises:
        ConfigError, LocalFailure, Refused: in words; nothing is left under the final name.
    """
    from peerpods.image.firmware import build as firmware
    from peerpods.image.publish import signing
    from peerpods.image.se import root
    from peerpods.image.system import engine

    key = signing.load_private(signing_key) if signing_key else signing.own_key(cache / "signing-key.pem")
    order = engine.Order(
        variant=wanted,
        agent=agent,
        out=(out or engine.default_out(wanted)).absolute(),
        cache=cache,
        strict=strict,
        signing_key=key,
        formats=formats,
    )
    if wanted.arch == root.ARCH:
        return root.build(order, progress)
    engine.check(order)
    return engine.build(attrs.evolve(order, firmware=firmware.get(wanted.tee, cache, progress)), progress)
