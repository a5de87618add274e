"""The prod-test image a second time: by packer, and in surroundings that share nothing with the first build's.

| | the first (built.image) | the second |
|---|---|---|
| made by | the engine | packer, which calls the engine |
| source, cache, result | this tree, $CACHE | a copy and a cache of its own below another folder |
| tools tree, base layer | of $CACHE | made anew: only .deb and wheel files are shared |
| user | who runs the tests, as a rule root | an unprivileged one, by user namespaces |
| cores | all | one |
| umask, locale, time zone, host name, hash seed, SOURCE_DATE_EPOCH | the caller's | others |
| clock | then | now |
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from peerpods.image import key
from peerpods.image.publish import folder as names
from tests.images import built

TOP = key.SOURCE.parents[1]
SOURCE = ("src", "requirements", "packer", "tools", "Makefile", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
USER = 61234
"""Of no account: number of the user and of its group."""
HOST = "another-builder"
LINKED = ("tools-*", "setup-*", "packer-*", "image-apt/debs", "firmware-apt/debs", "image-wheels-*")
"""In $CACHE: the host's own programs, of which nothing gets into an image, and what came through the network."""
COPIED = ("image-apt/state/lists", "firmware-apt/state/lists")
"""In $CACHE: what came through the network, too, and apt opens for writing."""
ENVIRONMENT = {
    "LC_ALL": "tr_TR.UTF-8",
    "LANG": "tr_TR.UTF-8",
    "TZ": "Pacific/Kiritimati",
    "PYTHONHASHSEED": "1234",
    "SOURCE_DATE_EPOCH": "86400",
    "USER": "stranger",
    "LOGNAME": "stranger",
    "CHECKPOINT_DISABLE": "1",
    "PACKER_PLUGIN_PATH": "/nonexistent",
}
FACTS = """
import json, os, socket, time
umask = os.umask(0)
print(json.dumps({"user": os.getuid(), "group": os.getgid(), "umask": umask, "zone": time.tzname[0],
    "locale": os.environ["LC_ALL"], "host": socket.gethostname(), "cores": len(os.sched_getaffinity(0)),
    "home": os.path.expanduser("~"), "source": os.getcwd(), "cache": os.environ["CACHE"]}))
"""
WORDS = ("-var", "tee=none", "-var", "arch=amd64", "-var", "profile=prod-test")


def packer() -> str:
    """The path of packer 1.6.6."""
    done = subprocess.run([sys.executable, TOP / "tools/packer.py"], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


@attrs.frozen
class Elsewhere:
    """A place for the other user: `source`, `cache`, `home`, `tmp`, and whatever is built."""

    folder: Path

    def run(self, command: Sequence[str | Path], *, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run as the other user in the other surroundings, from the copy of the source."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LC_", "PEERPODS_"))}
        own = {"HOME": self.folder / "home", "CACHE": self.folder / "cache", "TMPDIR": self.folder / "tmp"}
        environment = kept | ENVIRONMENT | {name: str(path) for name, path in own.items()}
        core = max(os.sched_getaffinity(0))
        words = [
            *("unshare", "--uts", "sh", "-c", 'hostname "$1"; umask 077; shift; exec "$@"', "sh", HOST),
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
            *("taskset", "--cpu-list", str(core), *map(str, command)),
        ]
        return subprocess.run(
            words, cwd=self.folder / "source", env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """A place that is gone afterwards. Needs root, to become another user."""
    with tempfile.TemporaryDirectory(prefix="peerpods-elsewhere-", dir="/var/tmp") as name:
        folder = Path(name)
        for own in ("source", "cache", "home", "tmp"):
            (folder / own).mkdir()
        for part in SOURCE:
            _copy(TOP / part, folder / "source" / part)
        for pattern in LINKED:
            _share(pattern, folder / "cache", _link)
        for pattern in COPIED:
            _share(pattern, folder / "cache", shutil.copy2)
        _python(folder)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() or path.lstat().st_nlink == 1:  # the others are links to files of $CACHE
                os.chown(path, USER, USER, follow_symlinks=False)
        yield Elsewhere(folder)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _share(pattern: str, cache: Path, how: Callable[[str, str], object]) -> None:
    for source in built.CACHE.glob(pattern):
        target = cache / source.relative_to(built.CACHE)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, copy_function=how)
        else:
            how(str(source), str(target))


def _link(source: str, target: str) -> None:
    """A link, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _python(folder: Path) -> None:
    """The virtual environment, where `make venv` in the copy of the source looks for it; it imports that copy."""
    source = folder / "source"
    place = subprocess.run(
        [source / "tools/venv.sh", "--path"], env={**os.environ, "CACHE": str(folder / "cache")}, text=True,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    own = Path(place.stdout.strip())
    shutil.copytree(sys.prefix, own, symlinks=True, copy_function=_link)
    (path,) = own.glob("lib/python3.*/site-packages/peerpods-dev.pth")
    path.unlink()
    path.write_text(f"{source / 'src'}\n")


@attrs.frozen
class Pair:
    """Two folders of one image; beside the second are packer's files, `surroundings.json` and `log`."""

    first: Path
    second: Path


def pair() -> Pair:
    """Both images, each built when it is not there yet; of the same packages, even if the archive has moved on between.

    Raises:
        AssertionError: a build failed, with what it said.
    """
    with (built.CACHE / "image-twice.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(3):
            first = built.image("prod-test")
            folder = built.CACHE / f"image-twice-{_key(first)}"
            if not folder.exists():
                for old in built.CACHE.glob("image-twice-*/"):
                    shutil.rmtree(old)
                _make(folder)
            both = Pair(first, folder / "image")
            if _locks(both.first) == _locks(both.second):
                break
            older = min(both.first, both.second, key=lambda one: (one / "packages.lock").stat().st_mtime)
            shutil.rmtree(first if older == first else folder)
        return both


def _locks(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in (names.LOCK, names.TOOLS_LOCK)]


def _key(first: Path) -> str:
    """Of all that decides what packer builds."""
    files = [file for name in ("packer", "tools", "Makefile") for file in sorted(TOP.glob(f"{name}/**/*"))]
    digests = key.digest_files([file.relative_to(TOP) for file in files if file.is_file()], TOP)
    return hashlib.sha256(json.dumps([first.name, digests], sort_keys=True).encode()).hexdigest()[:16]


def _make(final: Path) -> None:
    program = Path(packer()).relative_to(built.CACHE)
    scratch = final.with_name(final.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    with elsewhere() as place:
        seen = place.run(["python3", "-c", FACTS])
        out = place.folder / "built" / "image"
        done = place.run(
            [place.folder / "cache" / program, "build", "-color=false", *WORDS, "-var", f"out_dir={out}", "packer/"]
        )
        assert done.returncode == 0, done.stdout
        (out.parent / "surroundings.json").write_text(seen.stdout)
        (out.parent / "log").write_text(done.stdout)
        shutil.copytree(out.parent, scratch)  # root's own, unlike what is left there
    scratch.rename(final)
