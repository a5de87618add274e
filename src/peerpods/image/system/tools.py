"""The Debian 13 tools that write an image, in a tree of their own: the host's release does not show in the result.

Programs run with the tree as their root, in a mount namespace; without being root also in a user namespace.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from peerpods.image import debian, inputs
from peerpods.image.place import fresh
from peerpods.image.progress import Progress
from peerpods.image.run import run

WORK = "work"
PROGRAMS = ("unshare", "mount", "chroot", "sh")
"""What must be on the host."""
_ENTER = """set -e
tree=$1; work=$2; shift 2
mount -t tmpfs -o mode=755 tools "$tree/run"
mount -t tmpfs tools "$tree/tmp"
if [ "$PEERPODS_OWN_PROC" = 1 ]; then mount -t proc proc "$tree/proc"; else mount --rbind /proc "$tree/proc"; fi
mount --rbind /sys "$tree/sys"
mount --rbind /dev "$tree/dev"
mount --bind "$work" "$tree/work"
exec chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LC_ALL=C.UTF-8 TZ=UTC "$@"
"""
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "var/tmp", "etc", WORK)
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\nnogroup:x:65534:\n",
    "etc/machine-id": "",
}


@attrs.frozen
class Tools:
    """The tools tree."""

    folder: Path

    def run(
        self,
        work: Path,
        *command: str,
        environment: Mapping[str, str] | None = None,
        timeout: float = 900,
    ) -> str:
        """Run a program of the tree with `work` as its folder /work; its standard output.

        Raises:
            LocalFailure: when it fails, with its own last lines.
        """
        own = [f"{name}={value}" for name, value in (environment or {}).items()]
        epoch = f"SOURCE_DATE_EPOCH={inputs.EPOCH}"
        words = ["sh", "-c", _ENTER, "tools", str(self.folder), str(work), epoch, *own, *command]
        spaces = ["unshare", "--mount", "--propagation", "private"]
        if os.geteuid() != 0:
            spaces += ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
        own_proc = {"PEERPODS_OWN_PROC": "1" if os.geteuid() else "0"}
        return run([*spaces, *words], name=_name(command), environment=own_proc, timeout=timeout)

    @property
    def lock(self) -> str:
        """tools.lock: `NAME VERSION SHA256` of every package of the tree."""
        return (self.folder / "packages.lock").read_text()


def _name(command: Sequence[str]) -> str:
    """What a failure calls a command: its program, not what leads to it."""
    words = list(command)
    if words[0] == "chroot":
        words = words[2:]
    return Path(words[0]).name


def make(folder: Path, packages: Sequence[debian.Listed], archive: debian.Archive, progress: Progress) -> Tools:
    """The tree of these packages in `folder`; made when it is not there yet. They stand in `folder/packages.lock`."""
    if (folder / "packages.lock").exists():
        return Tools(folder)
    with fresh(folder) as scratch:
        with progress.step(f"fetching and unpacking {len(packages)} packages of tools"):
            debian.unpack(archive.fetch(one.name for one in packages), scratch)
        for name in _FOLDERS:
            (scratch / name).mkdir(parents=True, exist_ok=True)
        for name, text in _ACCOUNTS.items():
            (scratch / name).write_text(text)
        _link(scratch / "usr/bin/sh", "bash")
        _link(scratch / "usr/bin/awk", "gawk")
        for name in ("poweroff", "reboot", "halt"):
            _link(scratch / "usr/sbin" / name, "../bin/systemctl")
        Tools(scratch).run(scratch / WORK, "ldconfig")
        (scratch / "packages.lock").write_text("".join(f"{one.lock_line()}\n" for one in packages))
    return Tools(folder)


def _link(path: Path, target: str) -> None:
    if not path.is_symlink() and not path.exists():
        path.symlink_to(target)
