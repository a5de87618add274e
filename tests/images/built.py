"""The images that the tests boot, each built once for what it depends on, and what makes a machine to boot them in.

Below $CACHE: image-boot-KEY (an image's folder), image-machine-KEY (swtpm and OVMF of Debian 13, unpacked).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import attrs

from peerpods.image import agentkind, build, debian, inputs, key, prune, variant
from peerpods.image.firmware import build as firmware
from peerpods.image.progress import Progress
from peerpods.image.publish import signing
from peerpods.image.system import engine

CACHE = build.default_cache()
MACHINE = ("swtpm", "swtpm-tools", "ovmf")
STAND_IN = b"""#!/usr/bin/python3.13 -ISB
import sys
with open("/etc/kata-opa/default-policy.rego") as file:
    print(f"{sys.argv[0]} has the policy: {file.read().splitlines()[-1]}", file=sys.stderr)
# ends"""
"""Stands in for each program of a release: it says what policy an agent would have, and ends."""


def release_agent(folder: Path, content: bytes = STAND_IN) -> agentkind.Agent:
    """A kata-agent release as `make image` is given one, of files that are none."""
    components = folder / "components"
    components.mkdir(parents=True, exist_ok=True)
    (folder / "kata-agent").write_bytes(content)
    (components / agentkind.REQUIRED).write_bytes(STAND_IN)
    return agentkind.choose(folder / "kata-agent", hashlib.sha256(content).hexdigest(), components)


def content_key(which: variant.Variant, agent: agentkind.Agent) -> str:
    """Of all that decides the bytes of a system image."""
    files = [
        file.relative_to(key.ENGINE)
        for file in key.ENGINE.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and file.parent.name not in ("se", "locks")
    ]
    facts = {
        "tools": engine.tools_key(),
        "base": engine.base_key(which),
        "engine": key.digest_files(sorted(files), key.ENGINE),
        "guest": key.digest_files(key.guest_files(), key.SOURCE),
        "agent": agent.facts(),
        "name": which.name,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def image(profile: str, agent: agentkind.Agent | None = None, tee: str = "none") -> Path:
    """The folder of an image; built when it is not there yet, which takes a minute.

    Whatever the TEE, its firmware is the one that Debian has built: nothing is compiled for it. All disk
    formats are made of prod-test only, which is built twice.
    """
    which = variant.choose(tee, "amd64", profile)
    agent = agent or agentkind.Agent()
    out = CACHE / f"image-boot-{content_key(which, agent)}"
    if not (out / "SHA256SUMS").exists():
        progress = Progress()
        order = engine.Order(
            variant=which, agent=agent, out=out, cache=CACHE, formats=profile == "prod-test",
            signing_key=signing.own_key(CACHE / "signing-key.pem"), firmware=firmware.get("none", CACHE, progress),
        )  # fmt: skip
        engine.build(order, progress)
        prune.prune(CACHE, time.time())
    prune.used(out)
    return out


@attrs.frozen
class Machine:
    """Where the programs of a machine lie."""

    tree: Path

    def swtpm(self, name: str = "swtpm") -> list[str]:
        """The command that runs a program of the tree with the tree's libraries, whatever the host is."""
        libraries = self.tree / "usr/lib/x86_64-linux-gnu"
        loader = self.tree / "usr/lib64/ld-linux-x86-64.so.2"
        return [str(loader), "--library-path", f"{libraries}:{libraries}/swtpm", str(self.tree / "usr/bin" / name)]

    @property
    def code(self) -> Path:
        """UEFI that knows Secure Boot and has it off; its variables are in `variables`."""
        return self.tree / "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"

    @property
    def plain(self) -> Path:
        """UEFI that knows no Secure Boot; its variables are in `variables`."""
        return self.tree / "usr/share/OVMF/OVMF_CODE_4M.fd"

    @property
    def variables(self) -> Path:
        """The variables of a machine that was never started."""
        return self.tree / "usr/share/OVMF/OVMF_VARS_4M.fd"


def machine() -> Machine:
    """The programs, unpacked once a day of the archive's."""
    archive = debian.Archive(CACHE / "image-apt")
    facts = json.dumps([MACHINE, inputs.DATA["archive"]])
    folder = CACHE / f"image-machine-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    if not folder.exists():
        archive.update()
        scratch = folder.with_name(folder.name + ".new")
        shutil.rmtree(scratch, ignore_errors=True)
        debian.unpack(archive.fetch(archive.closure(MACHINE)), scratch)
        scratch.rename(folder)
    return Machine(folder)
