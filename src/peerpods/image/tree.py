"""The root tree: a copy of the base layer with our own source, start-up and settings, compiled."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image import elf, inputs, key, modules, pause
from peerpods.image.agentkind import Agent
from peerpods.image.base import LIBRARIES, PYTHON_PACKAGES, Base

GUEST = Path(__file__).resolve().parent / "guest"
EMPTY = ("dev", "proc", "sys", "run", "tmp", "var", "root", "media/cidata", "mnt", "etc", "home", "opt", "srv")
LINKS = {
    "usr/bin/sh": "busybox",
    "usr/sbin/modprobe": "../bin/busybox",
    "usr/bin/python3": "python3.13",
    "etc/resolv.conf": "/run/resolv.conf",
    "etc/mtab": "/proc/self/mounts",
    "etc/ssl/certs": "/usr/lib/ssl/certs",
    "var/run": "/run",
    "usr/lib/ssl/cert.pem": "certs/ca-certificates.crt",
}
APPLETS = ("mount", "umount", "cat", "ls", "cp", "mv", "rm", "mkdir", "ps", "tar", "gzip", "dmesg", "insmod", "ping")
"""A few of busybox's commands, for a look with a debugger and for tools that call them."""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/shadow": "root:!*:::::::\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "podvm\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}\n',
    "etc/containers/registries.conf": "",
    "etc/machine-id": "",
}


def make(base: Base, root: Path, agent: Agent) -> None:
    """Lay everything down below `root`, which must not exist."""
    shutil.copytree(base.root, root, symlinks=True)
    for name in EMPTY:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in {**FILES, "etc/os-release": os_release(agent)}.items():
        write(root / name, text.encode())
    for name, target in {**LINKS, **{f"usr/bin/{name}": "busybox" for name in APPLETS}}.items():
        link(root / name, target)
    source(root)
    scripts(root)
    programs(root, agent)
    _modules(base, root)
    for name, (content, mode) in pause.bundle().items():
        write(root / "pause_bundle" / name, content, mode)
    _compile(base, root)
    _check(base, root)
    modes(root)


def modes(root: Path) -> None:
    """Nothing of the builder's umask, no set-user-id: folders and programs 0755, other files 0644."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644)


def os_release(agent: Agent) -> str:
    """/etc/os-release: says which agent is inside."""
    lines = {
        "NAME": "peerpods pod VM",
        "ID": "peerpods",
        "ID_LIKE": "debian",
        "VERSION_ID": "0.1.0",
        "PRETTY_NAME": f"peerpods pod VM ({agent.kind} agent)",
        "VARIANT": f"{agent.kind} agent",
        "VARIANT_ID": agent.kind,
        "PEERPODS_AGENT": agent.kind,
    }
    return "".join(f'{name}="{value}"\n' for name, value in lines.items())


def listing(root: Path) -> str:
    """A line `MODE DIGEST-OR-TARGET  PATH` for each file, link and folder below the root, sorted by path."""
    lines = []
    for path in sorted(root.rglob("*")):
        kind = path.readlink().as_posix() if path.is_symlink() else "-"
        if kind == "-" and path.is_file():
            kind = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{path.lstat().st_mode:o} {kind}  {path.relative_to(root)}\n")
    return "".join(lines)


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    """A link where nothing is yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink() and not path.exists():
        path.symlink_to(target)


def source(root: Path) -> None:
    """Our own source and its plugin."""
    packages = root / PYTHON_PACKAGES
    for file in key.guest_files():
        write(packages / "peerpods" / file, (key.SOURCE / file).read_bytes())
    plugin = key.SOURCE.parent / "twisted/plugins/peerpods_plugin.py"
    write(packages / "twisted/plugins/peerpods_plugin.py", plugin.read_bytes())


def scripts(root: Path) -> None:
    """The minimal init."""
    for name in ("boot.py", "lean.py", "podnetwork.py", "udhcpc.sh"):
        write(root / "usr/lib/peerpods" / name, (GUEST / name).read_bytes(), 0o755)


def programs(root: Path, agent: Agent) -> None:
    """Our commands, and those that the agent brings."""
    commands = {"twistd": "twisted.scripts.twistd:run", "peerpods-userdata": "peerpods.userdata.reader:main"}
    for name, place in commands.items():
        module, _, function = place.partition(":")
        text = f"#!/usr/bin/python3 -Es\nfrom {module} import {function}\n{function}()\n"
        write(root / "usr/bin" / name, text.encode(), 0o755)
    for name, (file, _) in agent.files.items():
        write(root / "usr/local/bin" / name, file.read_bytes(), 0o755)


def _modules(base: Base, root: Path) -> None:
    infos = module_infos(base, inputs.MODULES)
    folder = root / "usr/lib/modules" / base.release
    for name in infos:
        write(folder / f"{name}.ko", (base.modules / f"{name}.ko").read_bytes())
    write(folder / "modules.dep", modules.dependency_table(infos).encode())
    write(folder / "modules.alias", modules.alias_table(infos).encode())


def module_infos(base: Base, names: list[str] | tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """What the modules and all that they depend on say of themselves, in load order."""
    seen: dict[str, dict[str, list[str]] | None] = {}

    def info(name: str) -> dict[str, list[str]] | None:
        if name not in seen:
            file = base.modules / f"{name}.ko"
            seen[name] = elf.module_info(file.read_bytes()) if file.exists() else None
        return seen[name]

    order = modules.load_order(names, info)
    return {name: seen[name] or {} for name in order}


def _compile(base: Base, root: Path) -> None:
    """Bytecode that is never checked against its source (the root is read-only), under the paths of the VM."""
    for folder in root.rglob("__pycache__"):
        shutil.rmtree(folder)
    for path in root.rglob("*.py"):
        if path.is_symlink() and path.readlink().is_absolute():
            path.unlink()  # it leads into the VM's /etc: here, to a file that the builder's own machine may have
    places = [str(root / name) for name in ("usr/lib/python3.13", PYTHON_PACKAGES, "usr/lib/peerpods")]
    base.python(root, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
                "-s", str(root), "-p", "/", *places)  # fmt: skip
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from twisted.application.service import IServiceMaker\n"
        "from twisted.plugin import getPlugins\n"
        "names = {p.tapname for p in getPlugins(IServiceMaker)}\n"
        "assert {'forwarder', 'agent'} <= names, names\n"
    )
    base.python(root, "-c", script, str(root / PYTHON_PACKAGES))
    if not (root / PYTHON_PACKAGES / "twisted/plugins/dropin.cache").exists():
        raise LocalFailure("twisted wrote no plugin cache")


def _check(base: Base, root: Path) -> None:
    """What runs in the VM imports there, makes no reactor before the fork, and drags in nothing forbidden."""
    script = (
        "import importlib.util, sys; sys.path.insert(0, sys.argv[1])\n"
        f"for name in {inputs.FORBIDDEN_IN_GUEST!r}:\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "sys.path.insert(1, sys.argv[2]); import boot, lean; lean.install(); import podnetwork; boot.share_imports()\n"
        "assert 'asyncio.base_events' not in sys.modules and 'http.client' not in sys.modules\n"
        "import peerpods.userdata.reader, peerpods.agent.service\n"
        "assert 'twisted.internet.reactor' not in sys.modules, 'a module made a reactor'\n"
        "import peerpods.podnet.guest, yaml, twisted.internet.reactor\n"
    )
    base.python(root, "-c", script, str(root / PYTHON_PACKAGES), str(root / "usr/lib/peerpods"))


def library(base: Base, name: str) -> Path:
    """A shared library of the base layer."""
    return (base.root / LIBRARIES / name).resolve()
