"""TEE=se from packages: root, kernel, initrd and command line of s390x, made on any machine; then the container, when
its loaders and the hosts it is for are given.

| setting | what |
|---|---|
| SE_STAGE3A, SE_STAGE3B | the loaders of IBM's s390-tools (Debian has them in no package) |
| SE_HOST_KEYS, SE_CERTIFICATES, SE_CRLS | files, with `:` between |
| SE_ROOT | the root certificate to trust |
| SE_KEYS | a folder that keeps header key and CCK; without it both are thrown away |

SE_SUITES and SE_DEBS: sources.py.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from peerpods.errors import ConfigError
from peerpods.image import debian, inputs, key
from peerpods.image.build import digest
from peerpods.image.place import alone, fresh
from peerpods.image.progress import Progress
from peerpods.image.publish import folder as names
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.publish import publish
from peerpods.image.se import base as layers
from peerpods.image.se import container, initrd, sources
from peerpods.image.se.base import ForeignBase
from peerpods.image.system import disk, engine, sizes, tree
from peerpods.image.system.tools import Tools

ARCH = sources.ARCH
NOT_SHOWN = "made from packages on another machine; booted in emulation at best, never on an IBM Z machine"
_LOADERS = ("SE_STAGE3A", "SE_STAGE3B")
_HOSTS = ("SE_HOST_KEYS", "SE_CERTIFICATES", "SE_CRLS", "SE_ROOT")
DISK = ("podvm.raw", "podvm.qcow2")
"""The root disk: beside the container, not in it."""


@attrs.frozen(kw_only=True)
class Settings:
    """What the environment says."""

    suites: sources.Suites
    debs: Path | None
    container: dict[str, str]
    """Settings of the container, by name; {} for none."""
    keys: Path | None


def settings(environment: Mapping[str, str], *, tee: str, release: bool) -> Settings:
    """Read and checked. Pure.

    Raises:
        ConfigError: a container is half described, or a release is to hold packages that no signed list has.
    """
    found = {name: environment.get(name, "") for name in (*_LOADERS, *_HOSTS)}
    missing = [name for name, value in found.items() if not value]
    if missing and len(missing) < len(found):
        raise ConfigError(
            f"the Secure Execution container lacks {', '.join(missing)}",
            setting=missing[0],
            remedy="give all of them, or none for the files alone",
        )
    if not missing and tee != "se":
        raise ConfigError(f"TEE={tee} has no Secure Execution container", setting="SE_STAGE3A", remedy="give TEE=se")
    debs = environment.get("SE_DEBS", "")
    if debs and release:
        raise ConfigError(
            "SE_DEBS is not for PROFILE=prod: a release holds only what the signed lists have", setting="SE_DEBS"
        )
    keys = environment.get("SE_KEYS", "")
    return Settings(
        suites=sources.suites(environment.get("SE_SUITES", "")),
        debs=Path(debs) if debs else None,
        container={} if missing else found,
        keys=Path(keys) if keys else None,
    )


def build(order: engine.Order, progress: Progress, environment: Mapping[str, str] = os.environ) -> Path:
    """Build and publish; the finished folder.

    Args:
        order: what; an image of s390x.
        progress: told each step, and what is missing.
        environment: where the settings above are.

    Raises:
        ConfigError, LocalFailure, Refused: in words; nothing is left under the final name.
    """
    chosen = settings(environment, tee=order.variant.tee, release=order.variant.release)
    engine.check(order)
    _check_files(chosen)
    if order.strict:
        raise ConfigError("LOCK=strict: there is no lock for s390x", setting="LOCK", remedy="build with LOCK=anew")
    order.cache.mkdir(parents=True, exist_ok=True)
    with alone(order.cache / "image.lock", progress):
        base, toolbox, facts = _layers(order, chosen, progress)
    with fresh(order.out) as scratch:
        work = scratch / "work"
        work.mkdir()
        facts |= _assemble(order, base, toolbox, work, progress)
        for name in (*DISK, "vmlinuz", "initrd.img", "cmdline", "roothash"):
            if (work / name).exists():
                (work / name).rename(scratch / name)
        shutil.rmtree(work)
        (scratch / names.LOCK).write_text(base.lock)
        (scratch / "tools.lock").write_text(toolbox.lock)
        finish(order, chosen, facts, scratch, progress, datetime.datetime.now(datetime.UTC))
    return order.out


def _check_files(chosen: Settings) -> None:
    for name, value in chosen.container.items():
        for part in value.split(":"):
            if not Path(part).is_file():
                raise ConfigError(f"{name}: there is no file {part}", setting=name)


def _layers(order: engine.Order, chosen: Settings, progress: Progress) -> tuple[ForeignBase, Tools, dict[str, Any]]:
    """Base layer, tools, and what the manifest says of where they came from."""
    notice = sources.left_out(chosen.suites)
    if notice:
        progress.say(notice)
    own = sources.given(chosen.debs) if chosen.debs else {}
    archive = debian.Archive(order.cache / f"image-apt-{ARCH}", architecture=ARCH, suites=chosen.suites)
    native = debian.Archive(order.cache / "image-apt")
    with progress.step("reading the Debian 13 package lists of s390x and of the tools"):
        sources.update(archive)
        native.update()
    with progress.step("choosing packages"):
        picked = sources.choose(order.variant, archive, order.cache, own)
        wanted = native.resolve(native.closure(inputs.DATA["tools"]["system"]))
    for package in picked.unsigned:
        progress.say(f"SE_DEBS: {package.name} {package.version} is in no signed list; taken as it is given")
    with progress.step(f"fetching {len(picked.all())} packages"):
        found = sources.fetch(archive, picked, own)
    toolbox = engine.tools_tree(order.cache, wanted, native, progress)
    base = layers.make(
        order.cache / f"image-system-{_key(picked, toolbox)}", picked, found, order.variant.packages(), archive,
        toolbox, progress,
    )  # fmt: skip
    return base, toolbox, {
        "suites": [suite for _, suite in chosen.suites],
        "unsigned_packages": [package.lock_line() for package in picked.unsigned],
        "drift": "; ".join(filter(None, [notice, *(f"{one.name} is in no signed list" for one in picked.unsigned)])),
    }  # fmt: skip


def _key(picked: sources.Chosen, toolbox: Tools) -> str:
    """Of the base layer: packages, wheels, what is stripped, tools, and how it is laid down."""
    modules = [key.ENGINE / name for name in ("debian.py", "base.py", "wheels.py", "system/base.py", "system/sizes.py")]
    texts = [digest(file) for file in (*modules, *sorted(Path(__file__).parent.glob("*.py")))]
    facts = [picked.lock(), toolbox.lock, layers.stripped(), inputs.DATA["wheel_stripped"], texts]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _assemble(order: engine.Order, base: ForeignBase, toolbox: Tools, work: Path, progress: Progress) -> dict[str, Any]:
    """The image's own files in `work`; what the manifest says of them."""
    root = work / "root"
    with progress.step("laying down the root, compiling"):
        tree.lay_down(base, toolbox, order.variant, order.agent, root)
        layers.compile_all(toolbox, root)
        tree.finish(root)
        parts = sizes.by_purpose(root, base.owners)
    with progress.step("initrd"):
        (work / "initrd").write_bytes(initrd.make(base.root, base.programs, base.kernel, base.release))
        toolbox.run(work, "zstd", "-q", "-19", "/work/initrd", "-o", "/work/initrd.img")
        (work / "initrd.img").chmod(0o644)
    with progress.step("erofs and verity"):
        roothash, _ = disk.root_partitions(toolbox, work, ARCH)
        (work / "stage1.raw").rename(work / "podvm.raw")
    if order.formats:
        with progress.step("qcow2"):
            toolbox.run(work, "qemu-img", "convert", "-O", "qcow2", "-c", "/work/podvm.raw", "/work/podvm.qcow2")
    shutil.copyfile(base.vmlinuz, work / "vmlinuz")
    (work / "cmdline").write_text(order.variant.command_line(f"roothash={roothash}") + "\n")
    (work / "roothash").write_text(roothash + "\n")
    return {"kernel": base.release, "purpose": order.variant.packages(), "parts": parts, "not_shown": NOT_SHOWN}


def finish(
    order: engine.Order, chosen: Settings, facts: dict[str, Any], scratch: Path, progress: Progress,
    now: datetime.datetime,
) -> None:  # fmt: skip
    """Seal the container when it was ordered, write the manifest, publish.

    Args:
        order: what.
        chosen: with the container's settings.
        facts: what the manifest says already.
        scratch: the image's folder, with kernel, initrd, command line and lock.
        progress: told each step, and what is missing.
        now: aware of its zone; host key documents must be valid then.

    Raises:
        ConfigError, Refused: as `container.seal`.
    """
    variant = order.variant
    sealed = None
    if chosen.container:
        packed = packing(order, chosen, scratch)
        sealed = container.seal(packed, now, progress.say)
        container.write(scratch, sealed)
        facts["host_keys"] = sealed.host_keys
    there = sorted(path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file())
    facts |= {
        "schema": 2,
        "variant": {"tee": variant.tee, "arch": variant.arch, "profile": variant.profile},
        "image_id": variant.image_id,
        "version": tree.VERSION,
        "epoch": inputs.EPOCH,
        "agent": order.agent.facts(),
        "files": {name: {"sha256": digest(scratch / name), "size": (scratch / name).stat().st_size} for name in there},
    }
    (scratch / names.MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    with progress.step("measurements, bills of materials, signature"):
        publish(ImageFolder(scratch), order.signing_key, progress.say)
    if sealed is not None:
        container.keep(packed, sealed, progress.say)
    elif variant.tee == "se":
        progress.say(
            f"no Secure Execution container: {', '.join((*_LOADERS, *_HOSTS))} are not given. The loaders come with"
            " IBM's s390-tools, host keys and certificates from IBM and your machines. As it is, nothing is protected"
        )
    progress.say(NOT_SHOWN)


def packing(order: engine.Order, chosen: Settings, scratch: Path) -> container.Order:
    """The container as it is ordered, of the files in `scratch`."""
    given = chosen.container

    def several(name: str) -> list[Path]:
        return [Path(part) for part in given[name].split(":") if part]

    files = container.Files(
        kernel=scratch / names.KERNEL,
        initrd=scratch / names.INITRD,
        cmdline=scratch / names.CMDLINE,
        stage3a=Path(given["SE_STAGE3A"]),
        stage3b=Path(given["SE_STAGE3B"]),
    )
    hosts = container.Hosts(
        documents=several("SE_HOST_KEYS"),
        root=Path(given["SE_ROOT"]),
        certificates=several("SE_CERTIFICATES"),
        lists=several("SE_CRLS"),
    )
    return container.Order(
        files=files, hosts=hosts, out=order.out, profile=order.variant.profile, agent=order.agent.facts(),
        keys=chosen.keys, signing_key=order.signing_key,
    )  # fmt: skip
