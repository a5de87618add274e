"""Nix for hosts that have none: Debian 13's nix-bin, unpacked below the cache and run in a mount namespace of its own.

    nix.py ARGUMENTS...    runs `nix ARGUMENTS...` with flakes switched on
    nix.py --path          prints the folder of the unpacked packages

Nothing is installed, no daemon runs, the host gets no /nix; root is not needed. What nix runs sees Debian 13's /usr and
/etc, the store, and the host's other folders. Nix before 2.18 (Debian 12 has 2.8) cannot read a current nixpkgs: Debian
13's is used on both.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from peerpods.errors import PeerPodError
from peerpods.image import debian

PACKAGES = ("nix-bin", "bash-static", "bash", "busybox-static", "coreutils", "ca-certificates")
# Package management and accounts, which dependencies bring; nothing of it runs.
DROPPED = frozenset({"adduser", "base-passwd", "debconf", "passwd", "perl", "perl-base", "openssl"})
# A root of our own: a tmpfs with the packages' /usr, the store as /nix, and what else the host's root has. It becomes
# the root by pivot_root, since nobody may make the user namespace of a build's sandbox from within a chroot.
ENTER = """set -eu
tree=$1 store=$2 own=$3 here=$4; shift 4
mount -t tmpfs -o mode=755 peerpods-nix "$own"
cd "$own"
mkdir old usr etc nix
mount --rbind "$tree/usr" usr
mount --rbind "$store" nix
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
for path in /*; do
    name=${path#/}
    if [ -e "$name" ] || [ ! -e "$path" ] || [ -L "$path" ]; then continue; fi
    if [ -d "$path" ]; then mkdir "$name"; else : > "$name"; fi
    mount --rbind "$path" "$name"
done
for name in resolv.conf hosts passwd group ssl; do
    if [ -d "/etc/$name" ]; then mkdir "etc/$name"; elif [ -e "/etc/$name" ]; then : > "etc/$name"; else continue; fi
    mount --bind "/etc/$name" "etc/$name"
done
pivot_root . old
exec /usr/bin/busybox sh -c 'cd /; umount -l /old; rmdir /old; cd "$0"; exec "$@"' "$here" "$@"
"""
SETTINGS = """experimental-features = nix-command flakes
build-users-group =
sandbox = true
sandbox-fallback = false
require-drop-supplementary-groups = false
sandbox-paths = /bin/sh=/usr/bin/bash-static
substituters =
builders =
build-hook =
flake-registry =
warn-dirty = false
"""


def cache() -> Path:
    """The folder below which all is kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CACHE") or home / "peerpods")


def unpacked() -> Path:
    """The folder with nix-bin and what it needs; made the first time.

    Raises:
        ConfigError, LocalFailure: in words, when the archive cannot be read.
    """
    key = hashlib.sha256(repr((PACKAGES, sorted(DROPPED))).encode()).hexdigest()[:12]
    folder = cache() / f"nix-bin-{key}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "nix.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        print("unpacking Debian 13's nix-bin below the cache (once)", file=sys.stderr)
        archive = debian.Archive(cache() / "nix-apt")
        archive.update()
        scratch = folder.with_name(folder.name + ".new")
        shutil.rmtree(scratch, ignore_errors=True)
        debian.unpack(archive.fetch(archive.closure(PACKAGES, DROPPED)), scratch)
        (scratch / "usr/bin/sh").symlink_to("bash")
        scratch.rename(folder)
    return folder


def command(folder: Path, own: Path, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words and the environment of `nix ARGUMENTS...`; `own` is an empty folder to mount on."""
    store = cache() / "nix-store"
    (store / "store").mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "NIX_CONFIG": SETTINGS + os.environ.get("NIX_CONFIG", ""),
        "NIX_REMOTE": "local",
        "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}",
    }
    spaces = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        spaces += ["--user", "--map-root-user"]
    words = ["sh", "-c", ENTER, "nix", str(folder), str(store), str(own), str(Path.cwd()), "/usr/bin/nix", *arguments]
    return [*spaces, *words], environment


def main(arguments: list[str]) -> int:
    """Runs nix and gives its status."""
    try:
        folder = unpacked()
    except PeerPodError as error:
        print(f"nix: {error}", file=sys.stderr)
        return 2
    if arguments == ["--path"]:
        print(folder)
        return 0
    own = cache() / "nix-mount"
    own.mkdir(exist_ok=True)
    words, environment = command(folder, own, arguments)
    return subprocess.run(words, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
