"""The whole build: base layer, tree, sealing, manifest; kept by content key, so that it is done once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peerpods.errors import LocalFailure
from peerpods.image import base as base_layer
from peerpods.image import inputs, key, seal, tree
from peerpods.image.agentkind import Agent
from peerpods.image.place import alone, fresh, replaceable, room
from peerpods.image.progress import Progress

FILES = ("vmlinuz", "initrd.img", "root.img", "cmdline", "manifest.json", "packages.lock")
"""Beside SHA256SUMS, which is over these."""
DISK_NEEDED = 1500 << 20  # bytes free for a build


def default_cache() -> Path:
    """Where everything is kept: CACHE, or peerpods below the user's cache folder."""
    own = os.environ.get("CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerpods"


def folder_for(cache: Path, agent: Agent) -> Path:
    """Where the image with these inputs is, made or not."""
    return cache / f"image-{key.content_key(agent.facts())}"


def image(cache: Path, agent: Agent, progress: Progress) -> Path:
    """The finished image's folder; built when it is not there. Two builds at once wait for each other.

    Raises:
        LocalFailure: when a step fails; nothing half-made is left under the final name.
    """
    final = folder_for(cache, agent)
    if (final / "SHA256SUMS").exists():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "image.lock", progress):
        if not (final / "SHA256SUMS").exists():
            build(cache, cache / f"image-base-{key.base_key()}", final, agent, progress)
    return final


def build(
    cache: Path, base_folder: Path, final: Path, agent: Agent, progress: Progress, *, listing: Path | None = None
) -> Path:
    """Build into `final`, with the base layer in `base_folder` (made when it is not there).

    `listing` gets a line for each file of the root, to find what differs between two builds.
    """
    replaceable(final)
    room([cache, final.parent], DISK_NEEDED)
    base = base_layer.Base(base_folder)
    if not (base_folder / "packages.lock").exists():
        base = base_layer.make(base_folder, cache, key.REQUIREMENTS, progress)
    with fresh(final) as scratch:
        root = scratch / "root"
        with progress.step("laying down the root, compiling"):
            tree.make(base, root, agent)
        with progress.step("erofs and verity"):
            verity = seal.root_image(base, root, scratch / "root.img")
        with progress.step("initrd, kernel, manifest"):
            seal.initrd(base, scratch, scratch / "initrd.img")
            shutil.copyfile(base.vmlinuz, scratch / "vmlinuz")
            (scratch / "cmdline").write_text(seal.cmdline(verity) + "\n")
            (scratch / "packages.lock").write_text(base.lock)
            facts = manifest(scratch, base, agent, verity, root)
            (scratch / "manifest.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
            sums = "".join(f"{digest(scratch / name)}  {name}\n" for name in FILES)
            (scratch / "SHA256SUMS").write_text(sums)
        if listing:
            listing.write_text(tree.listing(root))
        shutil.rmtree(root)
    return final


def manifest(folder: Path, base: base_layer.Base, agent: Agent, verity: str, root: Path) -> dict[str, Any]:
    """What manifest.json says. Digests are SHA-256 in hex, sizes in bytes."""
    names = ("vmlinuz", "initrd.img", "root.img", "cmdline", "packages.lock")
    return {
        "schema": 1,
        "epoch": inputs.EPOCH,
        "architecture": "x86_64",
        "kernel": base.release,
        "agent": agent.facts(),
        "roothash": verity.split(",")[0],
        "files": {name: {"sha256": digest(folder / name), "size": (folder / name).stat().st_size} for name in names},
        "packages": [line.split()[:2] for line in base.lock.splitlines() if line.count(" ") == 2],
        "wheels": [line.split()[0] for line in base.lock.splitlines() if line.count(" ") == 1],
        "purpose": inputs.PACKAGES,
        "parts": parts(root),
    }


def parts(root: Path) -> dict[str, int]:
    """Bytes of the root by what they are for."""
    sizes = {"python": 0, "python packages": 0, "our source": 0, "kernel modules": 0, "container tools": 0, "rest": 0}
    tools = ("usr/bin/crun", "usr/bin/skopeo", "usr/bin/umoci", "usr/sbin/crun", "usr/local/bin/")
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        if "dist-packages/peerpods" in name or name.startswith("usr/lib/peerpods"):
            part = "our source"
        elif "dist-packages" in name:
            part = "python packages"
        elif "python3.13" in name:
            part = "python"
        elif name.startswith("usr/lib/modules"):
            part = "kernel modules"
        else:
            part = "container tools" if name.startswith(tools) else "rest"
        sizes[part] += path.stat().st_size
    return sizes


def digest(file: Path) -> str:
    """SHA-256 of a file in hex."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def compressed_size(base: base_layer.Base, folder: Path) -> int:
    """Bytes of kernel, initrd and root, each through zstd."""
    total = 0
    for name in ("vmlinuz", "initrd.img", "root.img"):
        target = folder.parent / f".{folder.name}-{name}.zst"
        base.tool("zstd", "-q", "-f", "-T2", "-9", folder / name, "-o", target)
        total += target.stat().st_size
        target.unlink()
    return total


def twice(cache: Path, options: Sequence[str], progress: Progress) -> dict[str, str]:
    """Build all of it two times from scratch, under differing paths, umask, time zone, locale and host name, sharing
    only the fetched packages. Gives the digests; both builds are removed.

    Args:
        cache: the cache folder.
        options: what the build is told beside its folders (which agent).
        progress: where to say what happens.

    Raises:
        LocalFailure: naming the files that differ; both builds are kept then.
    """
    settings = (("one", "UTC", "C", "022"), ("another-longer-name", "Asia/Kathmandu", "tr_TR.UTF-8", "077"))
    results = []
    for name, zone, locale, umask in settings:
        place = cache / f"image-proof-{name}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        folders = ["--cache", cache, "--base", place / "base", "--out", place / "image", "--listing", place / "listing"]
        command = [sys.executable, "-m", "peerpods.image", "build", *map(str, folders), *options]
        words = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command]
        if os.geteuid() == 0:
            words = ["unshare", "--uts", "sh", "-c", f'hostname {name}; umask {umask}; exec "$@"', "sh", *command]
        environment = {**os.environ, "TZ": zone, "LC_ALL": locale, "LANG": locale, "PYTHONHASHSEED": str(len(name))}
        with progress.step(f"build as {name}"):
            try:
                done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900, check=False)
            except subprocess.TimeoutExpired as error:
                raise LocalFailure(f"the build as {name} did not end within {error.timeout:.0f} s") from error
            if done.returncode:
                raise LocalFailure(f"the build as {name} failed:\n{done.stderr[-2000:]}")
        results.append({file: digest(place / "image" / file) for file in FILES})
    first, second = results
    differing = sorted(file for file in FILES if first[file] != second[file])
    if differing:
        inside = _differing(*(cache / f"image-proof-{name}" / "listing" for name, *_ in settings))
        raise LocalFailure(
            f"two builds differ in {', '.join(differing)}; of the root's files in {', '.join(inside[:20]) or 'none'}",
            remedy=f"both are kept below {cache}",
        )
    for name, *_ in settings:
        shutil.rmtree(cache / f"image-proof-{name}")
    return first


def _differing(one: Path, other: Path) -> list[str]:
    """Names of the root's files whose lines differ between two listings, sorted."""
    lines = [set(file.read_text().splitlines()) for file in (one, other)]
    return sorted({line.split("  ", 1)[1] for line in lines[0] ^ lines[1]})
