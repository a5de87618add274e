"""The whole build of a system image: from packages to a published folder. Nothing half-made gets the final name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.errors import ConfigError
from peerpods.image import debian, inputs, key, prune
from peerpods.image.agentkind import Agent
from peerpods.image.build import digest
from peerpods.image.place import alone, fresh, replaceable, room
from peerpods.image.progress import Progress
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.publish import publish
from peerpods.image.run import need
from peerpods.image.system import base as layers
from peerpods.image.system import disk, initrd, lock, packages, sizes, tools, tree
from peerpods.image.system.base import SystemBase
from peerpods.image.system.tools import Tools
from peerpods.image.umask import usual_umask
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
    """Only what the locks in the source tree have; without it the archive's newest, and the drift is said."""
    signing_key: Ed25519PrivateKey
    firmware: Mapping[str, Path] = attrs.field(factory=dict)
    """Files below firmware/ by name."""
    formats: bool = True
    """Whether qcow2 and VHD are made beside the raw disk."""


def check(order: Order) -> None:
    """Refuse, before anything is made, what cannot become an image.

    Raises:
        ConfigError: agent and profile do not fit, a lock that is needed is not there, or the result's place is taken.
        Refused: a lock is corrupt.
        LocalFailure: no room on the disk, or a program that the host must have is not on PATH.
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
    replaceable(order.out)
    room((order.cache, order.out.parent), DISK_NEEDED)
    lock.load(order.variant.arch, strict=order.strict)
    need((*debian.PROGRAMS, *tools.PROGRAMS))


@usual_umask()
def build(order: Order, progress: Progress) -> Path:
    """Build and publish; the finished folder.

    Raises:
        ConfigError, LocalFailure, Refused: in words; nothing is left under the final name.
    """
    check(order)
    locks = lock.load(order.variant.arch, strict=order.strict)
    order.cache.mkdir(parents=True, exist_ok=True)
    archive = debian.Archive(order.cache / "image-apt", pins=locks.pins() if locks and order.strict else ())
    with alone(order.cache / "image.lock", progress):
        base, toolbox, drift = _layers(order, archive, locks, progress)
    with fresh(order.out) as scratch:
        (scratch / "work").mkdir()
        _assemble(order, base, toolbox, scratch, progress, drift)
    return order.out


def _layers(
    order: Order, archive: debian.Archive, locks: lock.Locks | None, progress: Progress
) -> tuple[SystemBase, Tools, str]:
    """What the image is made of and by, from the cache or made; and the drift from the locks, said."""
    with progress.step("reading the Debian 13 package lists"):
        archive.update()
    with progress.step("choosing packages"):
        if locks and order.strict:
            lock.present(locks, archive.stanzas(locks.names()))
        chosen = packages.choose(order.variant, archive, order.cache)
        by = chosen.tools_lock() + packages.firmware_lock(order.firmware)
        drift = lock.check(locks, chosen.lock(), by, strict=order.strict)
    if drift:
        progress.say(drift)
    toolbox = tools_tree(order.cache, chosen.tools, archive, progress)
    found = _key([base_key(order.variant), chosen.lock(), chosen.tools_lock()])
    base = layers.make(order.cache / f"image-system-{found}", chosen, archive, toolbox, progress)
    modules = toolbox.folder / "usr/lib/modules" / base.release  # where dracut looks for them
    if not modules.exists():
        with fresh(modules) as scratch:
            shutil.copytree(base.kernel / "usr/lib/modules" / base.release, scratch, symlinks=True, dirs_exist_ok=True)
    for folder in (toolbox.folder, base.folder):
        prune.used(folder)
    return base, toolbox, drift


def tools_tree(cache: Path, listed: list[debian.Listed], archive: debian.Archive, progress: Progress) -> Tools:
    """The tools tree of these packages, from the cache or made."""
    lock_text = "".join(f"{one.lock_line()}\n" for one in listed)
    return tools.make(cache / f"image-tools-{_key([tools_key(), lock_text])}", listed, archive, progress)


def _assemble(order: Order, base: SystemBase, toolbox: Tools, scratch: Path, progress: Progress, drift: str) -> None:
    work = scratch / "work"
    with progress.step("laying down the root, compiling"):
        tree.make(base, toolbox, order.variant, order.agent, work / "root")
        parts = sizes.by_purpose(work / "root", base.owners)
    with progress.step("initrd"):
        initrd.make(base, toolbox, work)
    with progress.step("erofs and verity"):
        roothash, partitions = disk.root_partitions(toolbox, work)
    with progress.step("UKI and disk"):
        line = disk.unified_kernel(base, order.variant, toolbox, work, roothash)
        disk.disk(toolbox, work, partitions)
    facts = manifest(order, base, drift)
    facts |= {"parts": parts, "sizes": _sizes(order.variant, toolbox, work, partitions, parts, progress)}
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
    (scratch / "tools.lock").write_text(toolbox.lock + packages.firmware_lock(order.firmware))
    for name, file in order.firmware.items():
        target = scratch / "firmware" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    names = sorted(file.relative_to(scratch).as_posix() for file in scratch.rglob("*") if file.is_file())
    facts["files"] = {
        name: {"sha256": digest(scratch / name), "size": (scratch / name).stat().st_size} for name in names
    }
    (scratch / "manifest.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    with progress.step("measurements, bills of materials, signature"):
        publish(ImageFolder(scratch), order.signing_key, progress.say)


def _sizes(
    variant: Variant, toolbox: Tools, work: Path, partitions: list[disk.Partition], parts: dict[str, int],
    progress: Progress,
) -> dict[str, int]:  # fmt: skip
    """Bytes of the disk and of what it holds, said with what each megabyte is for.

    Raises:
        Refused: more than the profile may have.
    """
    for line in sizes.table(parts):
        progress.say(line)
    with progress.step("compressing, for its size"):
        small = sizes.compressed(toolbox, work)
    found = {
        "root tree": sum(parts.values()),
        "root": partitions[0].size,
        "verity": partitions[1].size,
        "kernel": (work / "vmlinuz").stat().st_size,
        "initrd": (work / "initrd.img").stat().st_size,
        "UKI": (work / "podvm.efi").stat().st_size,
        "raw": (work / "podvm.raw").stat().st_size,
        "compressed": small,
    }
    progress.say(", ".join(f"{name} {size / sizes.MB:.1f} MB" for name, size in found.items() if name != "compressed"))
    progress.say(sizes.bound(variant, small, parts))
    return found


def manifest(order: Order, base: SystemBase, drift: str) -> dict[str, Any]:
    """What manifest.json says beside parts, sizes and files. Digests are SHA-256 in hex, sizes in bytes."""
    variant = order.variant
    return {
        "schema": 2,
        "variant": {"tee": variant.tee, "arch": variant.arch, "profile": variant.profile},
        "image_id": variant.image_id,
        "version": tree.VERSION,
        "epoch": inputs.EPOCH,
        "kernel": base.release,
        "agent": order.agent.facts(),
        "purpose": variant.packages(),
        "drift": drift,
    }


def tools_key() -> str:
    """Of the tools tree: which programs, and how they are laid down."""
    return _key(inputs.DATA["tools"]["system"], "debian.py", "system/tools.py")


def base_key(variant: Variant) -> str:
    """Of the base layer of a variant: its packages, what is stripped, wheels, and how they are laid down."""
    data = inputs.DATA
    parts = [variant.packages(), data["dropped"], data["kept_system"], data["stripped_system"], data["wheel_stripped"]]
    return _key(
        [parts, key.requirements_key()], "debian.py", "base.py", "wheels.py", "system/base.py", "system/sizes.py"
    )


def _key(facts: object, *modules: str) -> str:
    texts = [hashlib.sha256((key.ENGINE / name).read_bytes()).hexdigest() for name in modules]
    return hashlib.sha256(json.dumps([facts, texts], sort_keys=True).encode()).hexdigest()[:16]


def default_out(variant: Variant) -> Path:
    """build/images/<tee>-<arch>-<profile> below the folder of the source."""
    return Path(os.environ.get("PEERPODS_IMAGES") or key.SOURCE.parents[1] / "build" / "images") / variant.name
