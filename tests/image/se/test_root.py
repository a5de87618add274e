"""The end of a build of TEE=se: a sealed container when loaders and hosts are given, else words of what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.errors import ConfigError, Refused
from peerpods.image.agentkind import Agent
from peerpods.image.measure import se_image
from peerpods.image.progress import Progress
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.verify import verify
from peerpods.image.se import container, root
from peerpods.image.system import engine
from peerpods.image.variant import choose
from tests.image.se import authority
from tests.image.se.authority import DAY, NOW
from tests.image.se.test_container import CONTENT, ROOT_HASH

KEY = Ed25519PrivateKey.generate()


@attrs.define
class Build:
    """A folder as it is before its container and what is published."""

    order: engine.Order
    folder: Path
    environment: dict[str, str]

    def finish(self, now: Any = NOW) -> ImageFolder:
        chosen = root.settings(self.environment, tee="se", release=False)
        facts: dict[str, Any] = {"drift": "", "suites": ["trixie"], "unsigned_packages": []}
        root.finish(self.order, chosen, facts, self.folder, Progress(), now)
        return ImageFolder(self.folder)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    files = authority.write(authority.world(), tmp_path / "inputs")
    folder = tmp_path / "image"
    folder.mkdir()
    names = {"kernel": "vmlinuz", "initrd": "initrd.img", "cmdline": "cmdline", "lock": "packages.lock"}
    for name, file in names.items():
        (folder / file).write_bytes(CONTENT[name])
    (folder / "podvm.raw").write_bytes(b"root disk")
    (folder / "roothash").write_text(ROOT_HASH + "\n")
    environment = {
        "SE_HOST_KEYS": str(files["host"]),
        "SE_CERTIFICATES": str(files["chain"]),
        "SE_CRLS": f"{files['one']}:{files['two']}",
        "SE_ROOT": str(files["root"]),
        "SE_KEYS": str(tmp_path / "keys"),
    }
    for name in ("stage3a", "stage3b"):
        file = tmp_path / "inputs" / name
        file.write_bytes(CONTENT[name])
        environment[f"SE_{name.upper()}"] = str(file)
    variant = choose("se", "s390x", "prod-test")
    order = engine.Order(variant=variant, agent=Agent(), out=tmp_path / "out", cache=tmp_path, signing_key=KEY)
    return Build(order, folder, environment)


def test_the_container_holds_what_lies_beside_it(build, capsys):
    image = build.finish()
    keys = Path(build.environment["SE_KEYS"])
    opened = se_image.open_image(image.read("podvm.se"), (keys / "se-s390x-prod-test.header-key").read_bytes())
    assert opened.initrd == image.read("initrd.img")
    assert opened.command_line == image.text("cmdline")
    assert [one for one in verify(image, KEY.public_key()) if not one.holds] == []
    assert "podvm.raw" in image.manifest["files"]
    assert image.manifest["host_keys"] == image.json("measurements.json")["se"]["image_phkh"]
    assert "no Secure Execution container" not in capsys.readouterr().err


def test_without_loaders_it_says_what_is_missing_and_has_no_value_of_it(build, capsys):
    build.environment = {}
    image = build.finish()
    assert [one for one in verify(image, KEY.public_key()) if not one.holds] == []
    assert not image.has("podvm.se")
    assert "se" not in image.json("measurements.json")
    said = capsys.readouterr().err
    assert "no Secure Execution container: SE_STAGE3A, SE_STAGE3B, SE_HOST_KEYS" in said
    assert "As it is, nothing is protected" in said
    assert root.NOT_SHOWN in said


def test_suites_and_the_machine_stand_in_what_is_published(build):
    import base64
    import json

    image = build.finish()
    statement = json.loads(base64.b64decode(image.json("provenance.intoto.json")["payload"]))
    parameters = statement["predicate"]["buildDefinition"]["internalParameters"]
    assert (parameters["suites"], parameters["unsigned_packages"]) == (["trixie"], [])
    purls = [one["purl"] for one in image.json("sbom.cdx.json")["components"] if one["purl"].startswith("pkg:deb")]
    assert purls
    assert all("arch=s390x" in purl for purl in purls)


def test_a_document_that_does_not_hold_makes_no_container_and_no_signature(build):
    with pytest.raises(Refused, match="expired"):
        build.finish(NOW + 400 * DAY)
    assert not (build.folder / "podvm.se").exists()
    assert not (build.folder / "SHA256SUMS.sig").exists()
    assert not Path(build.environment["SE_KEYS"]).exists()


def test_a_setting_that_names_no_file_ends_before_anything_is_made(build):
    build.environment["SE_STAGE3B"] = "/nonexistent"
    with pytest.raises(ConfigError, match="SE_STAGE3B: there is no file /nonexistent"):
        root.build(build.order, Progress(), build.environment)
    assert not build.order.out.exists()


def test_packing_given_files_removes_no_root_disk(build, tmp_path):
    packing = root.packing(build.order, root.settings(build.environment, tee="se", release=False), build.folder)
    build.order.out.mkdir()
    (build.order.out / "podvm.raw").write_bytes(b"a root disk")
    with pytest.raises(ConfigError, match="has a root disk, which would be removed"):
        container.build(packing, NOW)
    assert (build.order.out / "podvm.raw").read_bytes() == b"a root disk"
