"""The root tree of the system layout: base layer, our source, units, settings; nothing of the builder in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image import inputs, pause, tree, units
from peerpods.image.agentkind import Agent
from peerpods.image.base import PYTHON_PACKAGES
from peerpods.image.system.base import SystemBase
from peerpods.image.system.python import compile_all
from peerpods.image.system.tools import Tools
from peerpods.image.tree import GUEST
from peerpods.image.variant import Variant

VERSION = "0.1.0"
UNITS = "usr/lib/systemd/system"
COMPILED = (PYTHON_PACKAGES, "usr/lib/python3.13", "usr/lib/peerpods")
FOLDERS = (
    *("dev", "proc", "sys", "run", "tmp", "root", "mnt", "home", "opt", "srv", "media/cidata", "boot", "efi"),
    *("var/lib", "var/log", "var/tmp", "var/cache", "etc/systemd/network", "etc/sysctl.d", "etc/modules-load.d"),
)
LINKS = {
    "etc/resolv.conf": "/run/systemd/resolve/resolv.conf",
    "etc/mtab": "/proc/self/mounts",
    "etc/ssl/certs": "/usr/lib/ssl/certs",
    "var/run": "/run",
    "usr/bin/python3": "python3.13",
    "usr/lib/ssl/cert.pem": "certs/ca-certificates.crt",
    "usr/sbin/init": "../lib/systemd/systemd",
    f"{UNITS}/default.target": "peerpods.target",
    **{f"{UNITS}/sysinit.target.wants/{name}": f"../{name}" for name in ("systemd-networkd.service",)},
    f"{UNITS}/peerpods.target.wants/systemd-resolved.service": "../systemd-resolved.service",
}
FILES = {
    **inputs.DATA["files"],
    **inputs.DATA["system_files"],
    "etc/modprobe.d/peerpods.conf": "".join(f"blacklist {name}\n" for name in inputs.DATA["modules"]["denied"]),
}


def make(base: SystemBase, tools: Tools, variant: Variant, agent: Agent, root: Path) -> None:
    """Lay everything down below `root`, which must not exist, and compile it."""
    lay_down(base, tools, variant, agent, root)
    compile_all(tools, root, [f"/{name}" for name in COMPILED])
    tools.run(root, "ldconfig", "-r", "/work", "-X")
    finish(root)


def lay_down(base: SystemBase, tools: Tools, variant: Variant, agent: Agent, root: Path) -> None:
    """Everything that needs no program of the image to run, below `root`, which must not exist."""
    shutil.copytree(base.root, root, symlinks=True)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in {
        **FILES,
        **_accounts(),
        **_settings(variant),
        "etc/os-release": os_release(variant, agent),
    }.items():
        tree.write(root / name, text.encode())
    tree.source(root)
    tree.programs(root, agent)
    if agent.kind == "development":  # its helpers; no link is a shell
        for name in tree.APPLETS:
            tree.link(root / "usr/bin" / name, "busybox")
    for file in (*(GUEST / "system").iterdir(), GUEST / "lean.py"):
        tree.write(root / "usr/lib/peerpods" / file.name, file.read_bytes())
    _names_later(root / UNITS / "systemd-resolved.service")
    for unit in units.for_image(variant, agent.kind):
        tree.write(root / UNITS / unit.name, units.render(unit).encode())
    enabled = {f"{UNITS}/{path}": target for path, target in units.links(units.for_image(variant, agent.kind)).items()}
    (root / UNITS / "default.target").unlink(missing_ok=True)  # Debian's leads to graphical.target
    for name, target in {**LINKS, **enabled}.items():
        tree.link(root / name, target)
    for name, (content, mode) in pause.bundle(inputs.DATA["architectures"][variant.arch]["machine"]).items():
        tree.write(root / "pause_bundle" / name, content, mode)
    _modules(base, variant, root, tools)


def finish(root: Path) -> None:
    """Remove what was left over by the building, and fix all modes."""
    for name in ("var/cache/ldconfig", "etc/ld.so.conf.d"):
        shutil.rmtree(root / name, ignore_errors=True)
    tree.modes(root)
    (root / "etc/shadow").chmod(0o600)


def _names_later(unit: Path) -> None:
    """Let nothing wait for the resolver of names: the forwarder needs none, and on one CPU it would take its turn."""
    before = "\nBefore=sysinit.target network.target "
    text = unit.read_text()
    if before not in text:
        raise LocalFailure(f"{unit.name} of Debian is not ordered as it was", remedy="look at system/tree.py")
    unit.write_text(text.replace(before, "\nBefore="))


def os_release(variant: Variant, agent: Agent) -> str:
    """/etc/os-release: says what the image is for and which agent is inside."""
    rows = {
        "NAME": "peerpods pod VM",
        "ID": "peerpods",
        "ID_LIKE": "debian",
        "VERSION_ID": VERSION,
        "IMAGE_ID": variant.image_id,
        "IMAGE_VERSION": f"{VERSION}-{variant.tee}-{variant.arch}",
        "PRETTY_NAME": f"peerpods pod VM ({variant.name}, {agent.kind} agent)",
        "VARIANT_ID": "release" if variant.release and agent.kind == "kata" else variant.profile,
        "PEERPODS_AGENT": agent.kind,
    }
    return "".join(f'{name}="{value}"\n' for name, value in rows.items())


def _accounts() -> dict[str, str]:
    users, groups = inputs.DATA["users"], inputs.DATA["groups"]
    return {
        "etc/passwd": "".join(
            f"{user['name']}:x:{user['uid']}:{user['gid']}:{user['name']}:{user['home']}:/usr/sbin/nologin\n"
            for user in users
        ),
        "etc/group": "".join(f"{name}:x:{number}:\n" for name, number in groups.items()),
        "etc/shadow": "".join(f"{user['name']}:!*:::::::\n" for user in users),
    }


def _settings(variant: Variant) -> dict[str, str]:
    rows = inputs.DATA["sysctls"].items()
    return {
        "etc/sysctl.d/50-peerpods.conf": "".join(f"{name} = {value}\n" for name, value in rows),
        "etc/modules-load.d/peerpods.conf": "".join(
            f"{name}\n" for name in (*inputs.DATA["modules"]["loaded"], *variant.tee_facts["guest_modules"])
        ),
    }


def _modules(base: SystemBase, variant: Variant, root: Path, tools: Tools) -> None:
    """The wanted modules with what they depend on, in the tree's own folders, and depmod's tables."""
    release = base.release
    source = base.kernel / "usr/lib/modules" / release
    target = root / "usr/lib/modules" / release
    for name in with_dependencies(base, tools, variant.modules()):
        tree.write(target / name, (source / name).read_bytes())
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    tools.run(root, "depmod", "-b", "/work", release)


def with_dependencies(base: SystemBase, tools: Tools, names: list[str]) -> list[str]:
    """Files of these modules and of all that they depend on, relative to the folder of the kernel's modules, sorted."""
    lines = tools.run(
        base.kernel, "modprobe", "-d", "/work", "-S", base.release, "-a", "--show-depends", "--ignore-install", *names
    ).splitlines()
    wanted = {line.split()[1] for line in lines if line.startswith("insmod ")}
    return sorted(path.partition(f"/{base.release}/")[2] for path in wanted)
