"""The whole build of a system image: from packages to a published folder. Nothing half-made gets the final name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image import build as minimal
from peerpods.image import debian, inputs, key
from peerpods.image.agentkind import Agent
from peerpods.image.build import digest
from peerpods.image.progress import Progress
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.publish import publish
from peerpods.image.system import base as layers
from peerpods.image.system import disk, lock, tools, tree
from peerpods.image.system.base import SystemBase
from peerpods.image.system.tools import Tools
from peerpods.image.variant import Variant

DISK_NEEDED = 3 << 30  # bytes free for a build
OWN = ("podvm.raw", "podvm.qcow2", "podvm.vhd", "podvm.efi", "vmlinuz", "initrd.img")


@attrs.frozen(kw_only=True)
class Order:
    """What is to be built, and how."""

    variant: Variant
    agent: Agent
    out: Path
    cache: Path
    strict: bool = False
    """Only the packages of the lock in the source tree; without it the archive's newest, and the drift is said."""
    signing_key: Ed25519PrivateKey
    firmware: Mapping[str, Path] = attrs.field(factory=dict)
    """Files below firmware/ by name."""
    formats: bool = True
    """Whether qcow2 and VHD are made beside the raw disk."""


def check(order: Order) -> None:
    """Refuse, before anything is made, what cannot become an image.

    Raises:
        ConfigError: agent and profile do not fit.
        LocalFailure: no room on the disk.
    """
    wanted, kind = order.variant.profile_facts["agent"], order.agent.kind
    if wanted == "release" and kind != "kata":
        raise ConfigError(
            f"PROFILE={order.variant.profile} needs a kata-agent release",
            setting="KATA_AGENT",
            remedy="give KATA_AGENT=FILE KATA_AGENT_SHA256=HEX GUEST_COMPONENTS=DIR, or build PROFILE=prod-test",
        )
    if wanted == "development" and kind != "development":
        raise ConfigError(f"PROFILE={order.variant.profile} is built with the development agent", setting="KATA_AGENT")
    order.out.parent.mkdir(parents=True, exist_ok=True)
    for place in (order.cache, order.out.parent):
        if shutil.disk_usage(place).free < DISK_NEEDED:
            raise LocalFailure(
                f"less than {DISK_NEEDED >> 30} GiB are free in {place}", remedy="make room, or set CACHE"
            )


def build(order: Order, progress: Progress) -> Path:
    """Build and publish; the finished folder.

    Raises:
        ConfigError, LocalFailure, Refused: in words; nothing is left under the final name.
    """
    order.cache.mkdir(parents=True, exist_ok=True)
    check(order)
    archive = debian.Archive(order.cache / "image-apt")
    with _alone(order.cache / "image.lock", progress):
        with progress.step("reading the Debian 13 package lists"):
            archive.update()
        toolbox = tools.make(order.cache / f"image-tools-{tools_key()}", archive, progress)
        base = layers.make(
            order.cache / f"image-system-{base_key(order.variant)}",
            order.variant, archive, order.cache, toolbox, progress,
        )  # fmt: skip
        drift = lock.check(base.lock, order.variant.arch, strict=order.strict)
        if drift:
            progress.say(drift)
    scratch = order.out.with_name(order.out.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "work").mkdir(parents=True)
    try:
        _assemble(order, base, toolbox, scratch, progress, drift)
        shutil.rmtree(order.out, ignore_errors=True)
        scratch.rename(order.out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return order.out


def _assemble(order: Order, base: SystemBase, toolbox: Tools, scratch: Path, progress: Progress, drift: str) -> None:
    work = scratch / "work"
    with progress.step("laying down the root, compiling"):
        tree.make(base, toolbox, order.variant, order.agent, work / "root")
        sizes = minimal.parts(work / "root")
    with progress.step("initrd"):
        disk.initrd(base, toolbox, work)
    with progress.step("erofs and verity"):
        roothash, parts = disk.root_partitions(toolbox, work)
    with progress.step("UKI and disk"):
        line = disk.unified_kernel(base, order.variant, toolbox, work, roothash)
        disk.disk(toolbox, work, parts)
    if order.formats:
        with progress.step("qcow2 and VHD"):
            disk.formats(toolbox, work)
    for name in OWN:
        if (work / name).exists():
            (work / name).rename(scratch / name)
    shutil.rmtree(work)
    (scratch / "cmdline").write_text(line + "\n")
    (scratch / "roothash").write_text(roothash + "\n")
    (scratch / "packages.lock").write_text(base.lock)
    for name, file in order.firmware.items():
        target = scratch / "firmware" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    facts = manifest(order, base, sizes, drift, scratch)
    (scratch / "manifest.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    with progress.step("measurements, bills of materials, signature"):
        publish(ImageFolder(scratch), order.signing_key, progress.say)


def manifest(order: Order, base: SystemBase, sizes: Mapping[str, int], drift: str, folder: Path) -> dict[str, Any]:
    """What manifest.json says. Digests are SHA-256 in hex, sizes in bytes."""
    variant = order.variant
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {
        "schema": 2,
        "variant": {"tee": variant.tee, "arch": variant.arch, "profile": variant.profile},
        "image_id": variant.image_id,
        "version": tree.VERSION,
        "epoch": inputs.EPOCH,
        "kernel": base.release,
        "agent": order.agent.facts(),
        "purpose": variant.packages(),
        "parts": dict(sizes),
        "drift": drift,
        "files": {name: {"sha256": digest(folder / name), "size": (folder / name).stat().st_size} for name in files},
    }


def tools_key() -> str:
    """Of the tools tree: which programs, and how they are laid down."""
    return _key(inputs.DATA["tools"]["system"], "debian.py", "system/tools.py")


def base_key(variant: Variant) -> str:
    """Of the base layer of a variant: its packages, what is stripped, wheels, and how they are laid down."""
    data = inputs.DATA
    parts = [variant.packages(), data["dropped"], data["kept_system"], data["stripped_system"], data["wheel_stripped"]]
    return _key([parts, key.requirements_key()], "debian.py", "base.py", "wheels.py", "system/base.py")


def _key(facts: object, *modules: str) -> str:
    texts = [hashlib.sha256((key.ENGINE / name).read_bytes()).hexdigest() for name in modules]
    return hashlib.sha256(json.dumps([facts, texts], sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another build is under way: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def default_out(variant: Variant) -> Path:
    """build/images/<tee>-<arch>-<profile> below the folder of the source."""
    return Path(os.environ.get("PEERPODS_IMAGES") or key.SOURCE.parents[1] / "build" / "images") / variant.name
