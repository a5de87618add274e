"""What nix/ must keep to, as far as it can be seen without Nix."""

from __future__ import annotations

import json
from pathlib import Path

from peerpods.image import inputs, units

TOP = Path(__file__).resolve().parents[2]


def test_pinned_python_files_are_those_of_the_requirements() -> None:
    pins = (TOP / "requirements/run.txt").read_text()
    rows = json.loads((TOP / "nix/packages/wheels.json").read_text())
    assert [row for row in rows if f"sha256:{row['sha256']}" not in pins] == []
    named = {line.partition("==")[0] for line in pins.splitlines() if "==" in line}
    assert {row["pname"].replace("_", "-") for row in rows} == named - {"win-inet-pton"}


def test_the_shared_tables_are_read_and_not_copied() -> None:
    words = [*inputs.DATA["command_line"]["system"][2:], "fs.suid_dumpable", "confidential-data-hub"]
    for file in (TOP / "nix").rglob("*.nix"):
        text = file.read_text()
        assert [word for word in words if word in text] == [], file


def test_nix_knows_each_field_of_a_unit() -> None:
    text = (TOP / "nix/facts.nix").read_text()
    named = text.partition("fields = [")[2].partition("]")[0].replace('"', "").split()
    assert sorted(named) == sorted(field.name for field in units.Unit.__attrs_attrs__)


def test_nixpkgs_is_pinned_by_revision_and_the_only_input() -> None:
    text = (TOP / "nix/flake.nix").read_text()
    revision = text.partition("github:NixOS/nixpkgs/")[2].partition('"')[0]
    assert len(revision) == 40
    assert int(revision, 16)
    assert text.count("inputs.") == 1
    assert "inputs" not in (TOP / "nix/offline/flake.nix").read_text()
