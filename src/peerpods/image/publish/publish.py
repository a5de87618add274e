"""Writes everything that is published beside an image's own files; the last file written is the signature."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.image.publish import folder as names
from peerpods.image.publish import measurements, provenance, rvps, sbom, signing
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.measurements import Say, Shapes
from peerpods.image.publish.verify import check_schema

SOURCE = Path(__file__).resolve().parents[4]


def publish(image: ImageFolder, key: Ed25519PrivateKey, say: Say = lambda _text: None) -> None:
    """Bills of materials, measurements, reference values, provenance, sums and signature.

    Idempotent: equal files and key give equal results.

    Raises:
        Refused: a file of the image is missing or broken.
    """
    lock = image.text(names.LOCK) + "\n"
    say("bills of materials")
    image.write_json(names.CYCLONEDX, sbom.cyclonedx(lock, image.manifest))
    image.write_json(names.SPDX, sbom.spdx(lock, image.manifest))
    measured = measurements.measure(image, Shapes(), say)
    check_schema(measured)
    image.write_json(names.MEASUREMENTS, measured)
    image.write_json(names.RVPS, rvps.message(measured))
    say("provenance and signature")
    attested = [name for name in image.files() if name != names.PROVENANCE]
    digests = {name: image.sha256(name) for name in attested}
    statement = provenance.statement(digests, image.manifest, digests[names.LOCK], commit())
    image.write_json(names.PROVENANCE, signing.envelope(statement, key))
    digests[names.PROVENANCE] = image.sha256(names.PROVENANCE)
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    image.write(names.SUMS, sums)
    image.write(names.PUBLIC_KEY, signing.public_pem(key.public_key()))
    image.write(names.SIGNATURE, key.sign(sums.encode()))


def commit(source: Path = SOURCE) -> str:
    """The commit of our own source where it is a clean checkout, else ""."""
    try:
        dirty = _git(source, "status", "--porcelain", "--untracked-files=no")
        return "" if dirty else _git(source, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(source: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", source, *words], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()
