"""The packer templates, read as text: they repeat nothing that the inputs list, and switch no check off."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from peerpods.image import __main__ as command
from peerpods.image import inputs, units
from peerpods.image.key import SOURCE

PACKER = SOURCE.parents[1] / "packer"
TEMPLATES = sorted(PACKER.rglob("*.pkr.hcl"))
SCRIPTS = sorted(PACKER.rglob("*.sh"))
IMPORTS = sorted((PACKER / "import").glob("*/*.pkr.hcl"))


def listed() -> set[str]:
    """Words that only the inputs and the unit table may hold."""
    data = inputs.DATA
    words = {word for table in data["packages"].values() for word in table}
    words |= {word for names in data["modules"].values() for word in names if len(word) > 4}
    words |= {word for word in data["command_line"]["system"] if "=" in word}
    words |= {word for unit in units.load() for word in (unit.name, *unit.exec[:1])}
    return words | set(data["sysctls"]) | {str(data["epoch"]), *map(str, data["identifiers"].values())}


def test_the_templates_are_there() -> None:
    assert {path.relative_to(PACKER).as_posix() for path in TEMPLATES} == {
        "podvm.pkr.hcl",
        "variables.pkr.hcl",
        "plugins/versions.pkr.hcl",
        *(f"import/{cloud}/{cloud}.pkr.hcl" for cloud in ("aws", "azure", "gcp", "libvirt")),
    }


@pytest.mark.parametrize("path", [*TEMPLATES, *SCRIPTS], ids=lambda path: path.name)
def test_no_list_of_the_inputs_stands_twice(path: Path) -> None:
    text = path.read_text()
    found = {word for word in listed() if re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", text)}
    assert found == set()


@pytest.mark.parametrize("path", [*TEMPLATES, *SCRIPTS], ids=lambda path: path.name)
def test_no_check_is_switched_off(path: Path) -> None:
    text = path.read_text()
    for word in ("iso_checksum", "--no-verify", "insecure", "StrictHostKeyChecking", "ssh_password"):
        assert word not in text


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_local_that_may_not_be_known_yet_is_tried(path: Path) -> None:
    """Packer 1.6.6 would take the fallback, depending on the order in which it comes to the locals."""
    code = "".join(line for line in path.read_text().splitlines(True) if not line.startswith("#"))
    assert not re.search(r"(try|can)\([^)]*local\.", code)


def test_plugins_are_named_only_where_old_packers_do_not_look() -> None:
    assert [path.parent.name for path in TEMPLATES if "required_plugins" in path.read_text()] == ["plugins"]


def test_every_option_that_the_template_gives_is_one_of_the_command_line() -> None:
    text = (PACKER / "podvm.pkr.hcl").read_text()
    parts = text[text.index("pack = ") : text.index("source ")]
    pack, build = parts.split("build = ")
    known = subparser_options()
    assert set(re.findall(r'"(--[a-z0-9-]+)"', build)) <= known["build"]
    assert set(re.findall(r'"(--[a-z0-9-]+)"', pack)) <= known["se"]
    assert len(re.findall(r'"(--[a-z0-9-]+)"', parts)) >= 12


def subparser_options() -> dict[str, set[str]]:
    """Options by command."""
    actions = [action for action in command.parser()._actions if action.dest == "command"]
    choices = actions[0].choices
    assert isinstance(choices, dict)
    return {name: set(one._option_string_actions) for name, one in choices.items()}


@pytest.mark.parametrize("path", IMPORTS, ids=lambda path: path.parent.name)
def test_every_import_verifies_the_image_before_its_first_call(path: Path) -> None:
    (script,) = path.parent.glob("*.sh")
    lines = script.read_text().splitlines()
    verified = next(index for index, line in enumerate(lines) if line.startswith("verified "))
    assert not [line for line in lines[:verified] if re.match(r"\s*(aws|az|libvirt|tar) ", line)]
    assert "local.public_key" in path.read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_scripts_are_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
