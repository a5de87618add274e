"""Keeps the cache small: images and base layers that nobody has used for a day go, but for the newest few."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

KEEP = 3
UNUSED = 86400.0  # seconds; a running VM's image was used within the day it was started, or its files are open
_ENTRY = re.compile(r"(image|image-base|image-boot|image-system|image-tools)-[0-9a-f]{16}(\.new)?")


def stale(entries: Iterable[tuple[str, float]], now: float) -> list[str]:
    """Names to remove. Pure.

    Args:
        entries: (name, time of last use) of everything in the cache; names that are not ours are left alone.
    """
    by_kind: dict[str, list[tuple[float, str]]] = {}
    for name, used in entries:
        match = _ENTRY.fullmatch(name)
        if match:
            by_kind.setdefault(match[1], []).append((used, name))
    old = []
    for found in by_kind.values():
        found.sort(reverse=True)
        old += [name for used, name in found[KEEP:] if now - used > UNUSED]
    return sorted(old)


def used(folder: Path) -> None:
    """Note that an image or base layer is in use now; one that is not there is fine."""
    if folder.exists():
        os.utime(folder)


def prune(cache: Path, now: float) -> list[str]:
    """Remove what is stale; gives the names. A folder that goes meanwhile is fine."""
    entries = []
    for path in cache.iterdir():
        try:
            entries.append((path.name, path.stat().st_mtime))
        except FileNotFoundError:
            continue
    old = stale(entries, now)
    for name in old:
        shutil.rmtree(cache / name, ignore_errors=True)
    return old
