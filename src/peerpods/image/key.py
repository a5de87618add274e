"""What an image depends on, as one digest: two images with the same key need not be built twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from peerpods.image import inputs

SOURCE = Path(__file__).resolve().parents[1]
"""src/peerpods."""
REQUIREMENTS = SOURCE.parents[1] / "requirements" / "guest.txt"
ENGINE = Path(__file__).resolve().parent
_SKIPPED = {".proto", ".pyi"}
_NOT_CONTENT = {
    "__main__.py",
    "progress.py",
    "place.py",
    "prune.py",
    "key.py",
    "trial.py",
    "trial_boot.py",
    "phases.py",
    "agentfetch.py",
}
"""Modules beside the build's own that write no byte of the image."""


def guest_files(source: Path = SOURCE) -> list[Path]:
    """Our own files in the image, sorted, relative to src/peerpods. Paths of inputs that do not exist are left out."""
    found: set[Path] = set()
    for name in inputs.GUEST_SOURCE:
        path = source / name
        if path.is_file():
            found.add(Path(name))
        for file in path.rglob("*") if path.is_dir() else ():
            wanted = file.is_file() and file.suffix not in _SKIPPED and "__pycache__" not in file.parts
            if wanted:
                found.add(file.relative_to(source))
    return sorted(found)


def digest_files(files: Iterable[Path], base: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path relative to `base`."""
    return {file.as_posix(): hashlib.sha256((base / file).read_bytes()).hexdigest() for file in files}


def _key(facts: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def base_key() -> str:
    """Of the layer that our own source is not in: packages, wheels, and how they are laid down."""
    engine = [ENGINE / name for name in ("inputs.json", "inputs.py", "debian.py", "base.py", "wheels.py", "run.py")]
    facts = {"engine": digest_files([f.relative_to(ENGINE) for f in engine], ENGINE), "wheels": _text(REQUIREMENTS)}
    return _key(facts)


def content_key(agent: Mapping[str, object]) -> str:
    """Of the whole image."""
    files = (
        file.relative_to(ENGINE)
        for folder in (ENGINE, ENGINE / "guest")
        for file in folder.glob("*")
        if file.suffix in (".py", ".sh", ".json") or file.name == "fstab"
    )
    engine = sorted(file for file in files if file.name not in _NOT_CONTENT)
    facts = {
        "base": base_key(),
        "engine": digest_files(engine, ENGINE),
        "guest": digest_files(guest_files(), SOURCE),
        "agent": agent,
    }
    return _key(facts)


def requirements_key(requirements: Path = REQUIREMENTS) -> str:
    """Of the wheels that a requirements file pins."""
    return _text(requirements)[:12]


def _text(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
