"""Bills of materials of an image, from its lock and manifest: CycloneDX 1.6 and SPDX 2.3. Pure.

packages.lock has a line `NAME VERSION SHA256` for each .deb and `FILE SHA256` for each wheel.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from peerpods.errors import Refused

_NAMESPACE = uuid.UUID("2d5e9f5c-3f0b-4a0c-9b0e-6a9f3d7c1e42")
_HEX = re.compile(r"[0-9a-f]{64}")


@attrs.frozen(order=True)
class Part:
    """One thing in the image."""

    name: str
    version: str
    sha256: str
    purl: str


def parse_lock(text: str, arch: str = "amd64") -> list[Part]:
    """The lock's parts, sorted; `arch` is Debian's name of the architecture of its packages.

    Raises:
        Refused: naming the first line that is none.
    """
    parts = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue  # an image from given files has no packages that anybody knows
        if len(words) not in (2, 3) or not _HEX.fullmatch(words[-1]):
            raise Refused(f"packages.lock, line {number}: {line[:80]!r} is no NAME VERSION SHA256 and no WHEEL SHA256")
        if len(words) == 3:
            name, version, digest = words
            escaped = version.replace("+", "%2B").replace(":", "%3A")
            purl = f"pkg:deb/debian/{name}@{escaped}?arch={arch}&distro=trixie"
        else:
            name, version = [*words[0].split("-"), ""][:2]
            name, digest = name.replace("_", "-").lower(), words[1]
            purl = f"pkg:pypi/{name}@{version}"
        parts.append(Part(name, version, digest, purl))
    return sorted(parts)


def _others(manifest: Mapping[str, Any]) -> list[Part]:
    agent = manifest["agent"]
    found = [
        Part(name, str(agent.get("version") or agent["kind"]), digest, f"pkg:generic/{name}")
        for name, digest in sorted(agent.get("files", {}).items())
    ]
    return [*found, Part("peerpods", str(manifest.get("version", "")), "", "pkg:generic/peerpods")]


def _stamp(manifest: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(int(manifest["epoch"]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(manifest: Mapping[str, Any]) -> str:
    variant = manifest["variant"]
    return f"{manifest.get('image_id', 'podvm')}-{variant['tee']}-{variant['arch']}-{variant['profile']}"


def cyclonedx(lock: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """sbom.cdx.json. Equal inputs give equal documents: the serial number is made from them."""
    parts = parse_lock(lock, manifest["variant"]["arch"]) + _others(manifest)
    serial = uuid.uuid5(_NAMESPACE, hashlib.sha256(lock.encode()).hexdigest() + _name(manifest))
    components = []
    for part in parts:
        one: dict[str, Any] = {"type": "library", "bom-ref": part.purl, "name": part.name, "version": part.version}
        one["purl"] = part.purl
        if part.sha256:
            one["hashes"] = [{"alg": "SHA-256", "content": part.sha256}]
        components.append(one)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": _stamp(manifest),
            "component": {
                "type": "operating-system",
                "bom-ref": _name(manifest),
                "name": _name(manifest),
                "version": str(manifest.get("version", "")),
            },
        },
        "components": components,
        "dependencies": [{"ref": _name(manifest), "dependsOn": sorted(part.purl for part in parts)}],
    }


def spdx(lock: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """sbom.spdx.json. Equal inputs give equal documents."""
    parts = parse_lock(lock, manifest["variant"]["arch"]) + _others(manifest)
    digest = hashlib.sha256(lock.encode()).hexdigest()
    packages, relations = [], []
    for index, part in enumerate(parts):
        identity = f"SPDXRef-Package-{index}"
        one: dict[str, Any] = {
            "SPDXID": identity,
            "name": part.name,
            "versionInfo": part.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": part.purl}
            ],
        }
        if part.sha256:
            one["checksums"] = [{"algorithm": "SHA256", "checksumValue": part.sha256}]
        packages.append(one)
        relations.append(
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": identity}
        )
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": _name(manifest),
        "documentNamespace": f"https://peerpods.invalid/spdx/{_name(manifest)}/{digest}",
        "creationInfo": {"created": _stamp(manifest), "creators": ["Tool: peerpods"]},
        "packages": packages,
        "relationships": relations,
    }
