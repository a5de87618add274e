"""What each megabyte of an image is for, and the bound that a profile may not pass."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from peerpods.errors import Refused
from peerpods.image import inputs
from peerpods.image.base import PYTHON_PACKAGES
from peerpods.image.system.tools import Tools
from peerpods.image.variant import Variant

SHARED = "libraries of several of these"
REST = "settings, certificates, tables"
PLACES = (
    (f"{PYTHON_PACKAGES}/peerpods/", "our source"),
    ("usr/lib/peerpods/", "our source"),
    (f"{PYTHON_PACKAGES}/", "Python packages (wheels)"),
    ("usr/lib/modules/", "kernel modules"),
    ("usr/local/bin/", "a release's agent and components"),
)
"""What is for what by its place; everything else by the package that brought it."""
_MERGED = re.compile(r"^(bin|sbin|lib|lib64)/")
_BYTECODE = re.compile(r"__pycache__/([^/]+)\.cpython-\d+\.pyc$")
MB = 1_000_000


def purposes(asked: Mapping[str, str], described: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What each package is for. Pure.

    Args:
        asked: packages asked for, with what for.
        described: of each package, asked for or a dependency, its fields Package, Depends, Pre-Depends and Provides.

    Returns:
        a package asked for has its own purpose; a dependency that of those which lead to it, SHARED when these are
        several.
    """
    needs: dict[str, set[str]] = {}
    provider: dict[str, str] = {}
    for one in described:
        words = ",".join(one.get(field, "") for field in ("Depends", "Pre-Depends"))
        needs.setdefault(one["Package"], set()).update(_names(words))
        provider.update(dict.fromkeys(_names(one.get("Provides", "")), one["Package"]))
    reached: dict[str, set[str]] = {name: set() for name in needs}
    for name, purpose in asked.items():
        todo, seen = [name], {name}
        while todo:
            package = todo.pop()
            reached.setdefault(package, set()).add(purpose)
            for need in needs.get(package, ()):
                known = need if need in needs else provider.get(need, "")
                if known and known not in seen:
                    seen.add(known)
                    todo.append(known)
    found = {name: next(iter(why)) if len(why) == 1 else SHARED for name, why in reached.items()}
    return {**found, **asked}


def _names(field: str) -> list[str]:
    return [found[0] for part in re.split(r"[,|]", field) if (found := re.findall(r"[a-z0-9][a-z0-9+.-]*", part))]


def owners(files: Mapping[str, Collection[str]], purpose: Mapping[str, str]) -> dict[str, str]:
    """What each file is for, by its path in a merged /usr. Pure.

    Args:
        files: paths by package, as the package has them.
        purpose: by package.
    """
    return {_MERGED.sub(r"usr/\1/", path): purpose.get(name, SHARED) for name, paths in files.items() for path in paths}


def by_purpose(root: Path, owner: Mapping[str, str]) -> dict[str, int]:
    """Bytes of the regular files below `root` by what they are for; `owner` as `owners` gives it."""
    sizes: dict[str, int] = {}
    for top, _, names in os.walk(root):
        for name in names:
            path = Path(top) / name
            if path.is_symlink():
                continue
            why = _why(path.relative_to(root).as_posix(), owner)
            sizes[why] = sizes.get(why, 0) + path.stat().st_size
    return sizes


def _why(path: str, owner: Mapping[str, str]) -> str:
    place = next((why for start, why in PLACES if path.startswith(start)), None)
    return place or owner.get(path) or owner.get(_BYTECODE.sub(r"\1.py", path), REST)


def compressed(tools: Tools, work: Path) -> int:
    """Bytes of work/podvm.raw through zstd -9: about what is uploaded and kept."""
    return int(tools.run(work, "bash", "-o", "pipefail", "-c", "zstd -q -9 -T2 -c /work/podvm.raw | wc -c"))


def table(parts: Mapping[str, int]) -> list[str]:
    """Lines for people, the largest first."""
    rows = sorted(parts.items(), key=lambda row: (-row[1], row[0]))
    return [f"{size / MB:7.1f} MB  {why}" for why, size in rows]


def bound(variant: Variant, size: int, parts: Mapping[str, int]) -> str:
    """What to say of the compressed size, in bytes.

    Raises:
        Refused: it is more than the profile may have.
    """
    limit = inputs.DATA["size_limit"].get(variant.profile)
    if limit is not None and size > limit:
        largest = sorted(parts, key=lambda why: -parts[why])[:3]
        shown = ", ".join(f"{why} {parts[why] / MB:.1f} MB" for why in largest)
        raise Refused(
            f"PROFILE={variant.profile}: the image is {size / MB:.1f} MB compressed, more than the {limit / MB:.0f} MB"
            f" that it may be; the largest parts of its root: {shown}",
            remedy="leave something out, or change size_limit in inputs.json",
        )
    return f"{size / MB:.1f} MB compressed (zstd -9)" + (f", at most {limit / MB:.0f} MB allowed" if limit else "")
