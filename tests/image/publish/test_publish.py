"""What is published: complete, equal twice, valid by independent validators, and noticed when changed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from peerpods.errors import ConfigError, Refused
from peerpods.image import inputs
from peerpods.image.publish import sbom, signing
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.publish import publish
from peerpods.image.publish.verify import check_schema, verify
from tests.image.publish.conftest import LOCK, Maker


def failed(image: ImageFolder, key: Ed25519PrivateKey, *, release: bool = False) -> set[str]:
    return {one.check for one in verify(image, key.public_key(), release=release) if not one.holds}


@pytest.mark.parametrize("tee", ["snp", "tdx", "none"])
def test_a_published_image_verifies(make_image: Maker, signing_key: Ed25519PrivateKey, tee: str) -> None:
    image = make_image(tee=tee)
    assert failed(image, signing_key) == set()
    measured = image.json("measurements.json")
    assert (tee in measured) == (tee != "none")
    assert measured["image"]["release"] is True


def test_publishing_twice_gives_equal_files(make_image: Maker, signing_key: Ed25519PrivateKey) -> None:
    image = make_image()
    before = {name: image.sha256(name) for name in [*image.files(), "SHA256SUMS.sig"]}
    publish(image, signing_key)
    assert {name: image.sha256(name) for name in before} == before


@pytest.mark.parametrize(
    ("file", "noticed"),
    [
        ("podvm.efi", {"digests", "measurements"}),
        ("podvm.raw", {"digests", "measurements"}),
        ("vmlinuz", {"digests", "measurements"}),
        ("initrd.img", {"digests", "measurements"}),
        ("cmdline", {"digests", "measurements"}),
        ("firmware/OVMF.amdsev.fd", {"digests", "measurements"}),
        ("SHA256SUMS", {"signature", "digests", "provenance"}),
        ("SHA256SUMS.sig", {"signature"}),
    ],
)
def test_one_flipped_bit_is_noticed(
    make_image: Maker, signing_key: Ed25519PrivateKey, file: str, noticed: set[str]
) -> None:
    image = make_image()
    data = bytearray(image.read(file))
    data[5 if file != "podvm.raw" else -1] ^= 1
    (image.path / file).write_bytes(data)
    found = failed(image, signing_key)
    assert found and found <= noticed | {"provenance"}
    assert found & noticed


def test_a_forged_measurement_is_noticed_even_when_the_sums_are_signed_anew(
    make_image: Maker, signing_key: Ed25519PrivateKey
) -> None:
    image = make_image()
    measured = image.json("measurements.json")
    measured["snp"]["values"][0]["digest"] = "0" * 96
    image.write_json("measurements.json", measured)
    assert {"measurements", "reference values"} & failed(image, signing_key)


def test_extra_and_missing_files_are_named(make_image: Maker, signing_key: Ed25519PrivateKey) -> None:
    image = make_image()
    (image.path / "stray").write_text("x")
    (image.path / "roothash").unlink()
    (digests,) = [one for one in verify(image, signing_key.public_key()) if one.check == "digests"]
    assert "missing: roothash" in digests.text and "not listed: stray" in digests.text


def test_another_key_is_noticed_and_the_key_beside_the_image_is_called_that(
    make_image: Maker, signing_key: Ed25519PrivateKey
) -> None:
    image = make_image()
    assert {"signature", "provenance"} <= failed(image, Ed25519PrivateKey.generate())
    findings = {one.check: one for one in verify(image, None)}
    assert findings["signature"].holds and "lies beside the image" in findings["signature"].text


@pytest.mark.parametrize(
    ("profile", "agent", "words"),
    [
        ("prod-test", "development", "profile prod-test is no release"),
        ("debug", "kata", "profile debug is no release"),
        ("prod", "development", "the development agent is in it"),
    ],
)
def test_what_is_no_release_is_refused_as_one(
    make_image: Maker, signing_key: Ed25519PrivateKey, profile: str, agent: str, words: str
) -> None:
    image = make_image(tee="none", profile=profile, agent=agent)
    findings = {one.check: one for one in verify(image, signing_key.public_key(), release=True)}
    assert not findings["release"].holds and words in findings["release"].text
    assert image.json("measurements.json")["image"]["release"] is False


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"unsigned_packages": ["libc6 2 aa", "crun 1 bb"]}, "no signed list has its packages libc6, crun"),
        ({"suites": ["trixie"]}, "it lacks the fixes that are only in trixie-updates, trixie-security"),
        ({"drift": "libc6 2.41 -> 2.42"}, "it was not built as locked: libc6 2.41 -> 2.42 (build with LOCK=strict)"),
    ],
    ids=["unsigned", "suites", "drift"],
)  # fmt: skip
def test_packages_that_no_release_may_have(
    make_image: Maker, signing_key: Ed25519PrivateKey, facts: dict[str, object], words: str
) -> None:
    image = make_image(facts=facts)
    findings = {one.check: one for one in verify(image, signing_key.public_key(), release=True)}
    assert not findings["release"].holds and words in findings["release"].text
    assert failed(image, signing_key) == set()


def test_all_suites_no_unsigned_package_and_no_drift_are_no_reason_to_refuse(
    make_image: Maker, signing_key: Ed25519PrivateKey
) -> None:
    every = {"suites": [suite for _, suite in inputs.SUITES], "unsigned_packages": [], "drift": ""}
    findings = {one.check: one.text for one in verify(make_image(facts=every), signing_key.public_key(), release=True)}
    assert findings["release"] in (
        "may be published",
        "its provenance names no commit: it was built from changed source",
    )


def test_a_file_that_is_no_text_is_a_finding_in_words(make_image: Maker, signing_key: Ed25519PrivateKey) -> None:
    image = make_image()
    (image.path / "SHA256SUMS").write_bytes(b"\xff\xfe")
    (digests,) = [one for one in verify(image, signing_key.public_key()) if one.check == "digests"]
    assert not digests.holds and digests.text.startswith(f"{image.path}/SHA256SUMS is no text")


def test_bills_of_materials_are_valid_by_independent_validators(make_image: Maker) -> None:
    image = make_image()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(image.text("sbom.cdx.json")) is None
    assert validate_full_spdx_document(parse_file(str(image.path / "sbom.spdx.json"))) == []


def test_every_locked_package_is_in_both_bills(make_image: Maker) -> None:
    image = make_image()
    names = {part.name for part in sbom.parse_lock(LOCK)}
    assert names == {"libc6", "systemd", "attrs"}
    assert names <= {one["name"] for one in image.json("sbom.cdx.json")["components"]}
    assert names <= {one["name"] for one in image.json("sbom.spdx.json")["packages"]}


@pytest.mark.parametrize("lock", ["libc6 1\n", "a b c d\n", f"libc6 1 {'g' * 64}\n"])
def test_a_broken_lock_is_refused_with_its_line(lock: str) -> None:
    with pytest.raises(Refused, match=r"packages.lock, line 2"):
        sbom.parse_lock(f"ok 1 {'a' * 64}\n" + lock)


def test_the_reference_values_are_what_the_service_takes(make_image: Maker) -> None:
    found = make_image().json("rvps.json")
    message = found["message"]
    assert (message["version"], message["type"]) == ("0.1.0", "sample")
    values = json.loads(base64.b64decode(message["payload"]))
    assert values == found["values"]
    assert len(values["snp_launch_measurement"]) > 1000
    assert all(isinstance(value, str) for allowed in values.values() for value in allowed)


def test_the_reference_values_of_tdx_name_what_its_event_log_shows(make_image: Maker) -> None:
    image = make_image(tee="tdx")
    values, boots = image.json("rvps.json")["values"], image.json("measurements.json")["tdx"]["boots"]
    digests = {boot: {one["name"]: one["digest"] for one in found["events"]} for boot, found in boots.items()}
    assert set(values["tdvfkernel"]) == {digests["uki"]["uki"], digests["kernel"]["kernel"]}
    assert set(values["tdvfkernelparams"]) == {one["command line"] for one in digests.values()}
    assert set(values["rtmr_1"]) == {boots[boot]["rtmr"]["1"] for boot in ("uki", "kernel", "disk")}
    assert len(values["rtmr_1"]) == 3


def test_a_debug_image_shares_no_reference_value_with_a_release(make_image: Maker) -> None:
    debug_line = b"console=ttyS0 ro systemd.log_level=info\n"
    prod, debug = make_image("prod"), make_image("debug", profile="debug", cmdline=debug_line)
    one, two = (set(image.json("rvps.json")["values"]["snp_launch_measurement"]) for image in (prod, debug))
    kernels = {v["digest"] for v in debug.json("measurements.json")["snp"]["values"] if v["boot"] == "kernel"}
    assert kernels and not kernels & one
    assert two - one == kernels  # the synthetic UKI is the same file; a real one holds the command line


def test_provenance_is_an_in_toto_statement(make_image: Maker, signing_key: Ed25519PrivateKey) -> None:
    image = make_image()
    signed = signing.open_envelope(image.json("provenance.intoto.json"), signing_key.public_key())
    statement = json.loads(signed.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {one["name"] for one in statement["subject"]} >= {"podvm.raw", "podvm.efi", "roothash", "packages.lock"}


def test_measurements_of_another_shape_are_refused_by_the_schema(make_image: Maker) -> None:
    measured = make_image().json("measurements.json")
    measured["snp"]["values"][0]["digest"] = "short"
    with pytest.raises(Refused, match=r"\$\.snp\.values\[0\]\.digest"):
        check_schema(measured)


def test_sev_values_are_of_the_boots_that_its_firmware_knows(make_image: Maker) -> None:
    measured = make_image().json("measurements.json")
    assert {value["boot"] for value in measured["snp"]["values"]} == {"uki", "kernel"} == set(measured["snp"]["boots"])
    measured["snp"]["values"][0]["boot"] = "disk"  # the AmdSev firmware has no way to one
    with pytest.raises(Refused, match=r"\$\.snp\.values\[0\]\.boot"):
        check_schema(measured)


def test_a_folder_that_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no image folder"):
        _ = ImageFolder(tmp_path).variant
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="names no variant"):
        _ = ImageFolder(tmp_path).variant


def test_signing_keys(tmp_path: Path) -> None:
    key = signing.own_key(tmp_path / "keys/own.pem")
    assert (tmp_path / "keys/own.pem").stat().st_mode & 0o777 == 0o600
    assert signing.key_id(signing.own_key(tmp_path / "keys/own.pem").public_key()) == signing.key_id(key.public_key())
    (tmp_path / "keys/own.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        signing.load_private(tmp_path / "keys/own.pem")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "junk").chmod(0o600)
    with pytest.raises(ConfigError, match="no plain PEM"):
        signing.load_private(tmp_path / "junk")
    with pytest.raises(ConfigError, match="no PEM public key"):
        signing.load_public(tmp_path / "junk")
    with pytest.raises(ConfigError, match="cannot be read"):
        signing.load_public(tmp_path / "none")
