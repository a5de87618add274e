"""`peerpods image verify`: what of an image's folder holds, one finding a check."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from peerpods.errors import PeerPodError, Refused
from peerpods.image import inputs
from peerpods.image.publish import folder as names
from peerpods.image.publish import measurements, rvps, sbom, signing
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.measurements import Say, Shapes

SCHEMA_FILE = Path(__file__).resolve().parents[1] / "schema" / "measurements.schema.json"


@attrs.frozen(kw_only=True)
class Finding:
    """One check's outcome."""

    check: str
    holds: bool
    text: str


@functools.cache
def _schema() -> Any:
    return json.loads(SCHEMA_FILE.read_text())


def check_schema(measured: Any) -> None:
    """Refused, naming the first place, when measurements.json is not of its schema."""
    import jsonschema

    errors = sorted(jsonschema.Draft202012Validator(_schema()).iter_errors(measured), key=lambda error: error.json_path)
    if errors:
        raise Refused(f"measurements.json: {errors[0].json_path}: {errors[0].message[:200]}")


def verify(
    image: ImageFolder, key: Ed25519PublicKey | None, *, release: bool = False, say: Say = lambda _text: None
) -> list[Finding]:
    """All checks, in order; a check that fails does not stop the others.

    Args:
        key: the key to trust; None: the one beside the image, which proves only that nothing was damaged.
        release: also refuse what no release may be (another profile than prod, the development agent, a dirty source,
            packages that the lock or no signed list has).
        say: told what is being checked.

    Raises:
        ConfigError: the folder is no image's.
    """
    _ = image.variant  # a folder that is no image's ends here
    trusted = key or signing.load_public(image.path / names.PUBLIC_KEY)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("digests", lambda: _digests(image)),
        ("signature", lambda: _signature(image, trusted, own=key is None)),
        ("provenance", lambda: _provenance(image, trusted)),
        ("bills of materials", lambda: _sboms(image)),
        ("measurements", lambda: _measurements(image, say)),
        ("reference values", lambda: _rvps(image)),
    ]
    if release:
        checks.append(("release", lambda: _release(image, key)))
    return [_run(name, check) for name, check in checks]


def _run(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(check=name, holds=True, text=check())
    except PeerPodError as error:
        return Finding(check=name, holds=False, text=str(error))


def read_sums(image: ImageFolder) -> dict[str, str]:
    """File name to digest of SHA256SUMS; Refused when a line is none."""
    found = {}
    for number, line in enumerate(image.text(names.SUMS).splitlines(), 1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or name.startswith("/") or ".." in name.split("/"):
            raise Refused(f"{names.SUMS}, line {number}: {line[:80]!r} is no digest and name")
        found[name] = digest
    return found


def _digests(image: ImageFolder) -> str:
    listed = read_sums(image)
    there = set(image.files())
    lacking, extra = sorted(set(listed) - there), sorted(there - set(listed))
    if lacking or extra:
        raise Refused(f"files missing: {', '.join(lacking) or 'none'}; files not listed: {', '.join(extra) or 'none'}")
    wrong = [name for name, digest in listed.items() if image.sha256(name) != digest]
    if wrong:
        raise Refused(f"changed since they were signed: {', '.join(wrong)}", remedy="fetch or build the image again")
    return f"{len(listed)} files are as listed"


def _signature(image: ImageFolder, key: Ed25519PublicKey, *, own: bool) -> str:
    signing.check(image.read(names.SIGNATURE), image.read(names.SUMS), key)
    note = "; that key lies beside the image: give --key to know who signed" if own else ""
    return f"signed by key {signing.key_id(key)[:16]}…{note}"


def _statement(image: ImageFolder, key: Ed25519PublicKey) -> dict[str, Any]:
    statement: dict[str, Any] = json.loads(signing.open_envelope(image.json(names.PROVENANCE), key).payload)
    return statement


def _provenance(image: ImageFolder, key: Ed25519PublicKey) -> str:
    statement = _statement(image, key)
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    listed = {name: digest for name, digest in read_sums(image).items() if name != names.PROVENANCE}
    if subjects != listed:
        different = sorted(name for name in subjects.keys() | listed.keys() if subjects.get(name) != listed.get(name))
        raise Refused(f"the provenance speaks of other files: {', '.join(different)}")
    return f"a signed SLSA v1 statement over {len(subjects)} files"


def _sboms(image: ImageFolder) -> str:
    lock = image.text(names.LOCK) + "\n"
    for name, made in ((names.CYCLONEDX, sbom.cyclonedx), (names.SPDX, sbom.spdx)):
        if image.json(name) != made(lock, image.manifest):
            raise Refused(f"{name} is not what packages.lock and the manifest say")
    return f"both list the {len(sbom.parse_lock(lock))} packages of the lock"


def _measurements(image: ImageFolder, say: Say) -> str:
    found = image.json(names.MEASUREMENTS)
    check_schema(found)
    made = measurements.measure(image, Shapes(), say)
    if found != made:
        raise Refused(
            f"the files measure otherwise than {names.MEASUREMENTS} says: {', '.join(_differing(found, made))}"
        )
    return "equal to what the files measure"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _rvps(image: ImageFolder) -> str:
    measured = image.json(names.MEASUREMENTS)
    check_schema(measured)
    if image.json(names.RVPS) != rvps.message(measured):
        raise Refused(f"{names.RVPS} is not what {names.MEASUREMENTS} says")
    return f"{sum(map(len, image.json(names.RVPS)['values'].values()))} values, as measured"


def _release(image: ImageFolder, key: Ed25519PublicKey | None) -> str:
    variant, agent = image.variant, image.manifest["agent"]["kind"]
    if not variant.release:
        raise Refused(f"profile {variant.profile} is no release ({variant.image_id})", remedy="build PROFILE=prod")
    if agent != "kata":
        raise Refused(f"the {agent} agent is in it", remedy="build with KATA_AGENT=FILE KATA_AGENT_SHA256=HEX")
    _packages_of_a_release(image.manifest)
    if key is None:
        raise Refused("nobody's signature was checked", remedy="give --key FILE with the publisher's public key")
    dependencies = _statement(image, key)["predicate"]["buildDefinition"]["resolvedDependencies"]
    if not any("gitCommit" in one["digest"] for one in dependencies):
        raise Refused("its provenance names no commit: it was built from changed source")
    return "may be published"


def _packages_of_a_release(manifest: Mapping[str, Any]) -> None:
    """Refuse packages of unknown origin, without the security fixes, or other than locked."""
    unsigned = [str(line).split(" ")[0] for line in manifest.get("unsigned_packages") or ()]
    if unsigned:
        raise Refused(f"no signed list has its packages {', '.join(unsigned)}", remedy="build without SE_DEBS")
    read = manifest.get("suites")
    missing = [suite for _, suite in inputs.SUITES if read is not None and suite not in read]
    if missing:
        raise Refused(f"it lacks the fixes that are only in {', '.join(missing)}", remedy="build without SE_SUITES")
    if manifest.get("drift"):
        raise Refused(f"it was not built as locked: {manifest['drift']}", remedy="build with LOCK=strict")
