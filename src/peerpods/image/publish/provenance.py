"""provenance.intoto.json: an in-toto statement with SLSA v1 provenance over the image's files. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://peerpods.invalid/build/podvm/v1"
BUILDER = "https://peerpods.invalid/builder/engine"
_INTERNAL = ("epoch", "suites", "unsigned_packages")
"""Of the manifest: what the builder chose; the last two where not all of it is from the signed lists of all suites."""


def statement(digests: Mapping[str, str], manifest: Mapping[str, Any], lock_sha256: str, source: str) -> bytes:
    """The statement as bytes to sign; equal inputs give equal bytes.

    Args:
        digests: file name to SHA-256 of everything that is attested.
        manifest: manifest.json.
        lock_sha256: digest of packages.lock.
        source: commit of our own source, or "" where it is not known.
    """
    variant = manifest["variant"]
    materials: list[dict[str, Any]] = [{"name": "packages.lock", "digest": {"sha256": lock_sha256}}]
    if "tools.lock" in digests:  # the packages whose programs made the image
        materials.append({"name": "tools.lock", "digest": {"sha256": digests["tools.lock"]}})
    for name, digest in sorted(manifest["agent"].get("files", {}).items()):
        materials.append({"name": name, "digest": {"sha256": digest}})
    if source:
        materials.append({"name": "peerpods", "digest": {"gitCommit": source}})
    document = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {key: variant[key] for key in ("tee", "arch", "profile")},
                "internalParameters": {key: manifest[key] for key in _INTERNAL if key in manifest},
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"peerpods": str(manifest.get("version", ""))}}},
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
