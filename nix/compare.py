"""Compares what Nix evaluated (contract.json) with what Python says; every difference is one line, and status 1.

compare.py units-match|cmdline-match|agent-match|files-match|node-match|all CONTRACT
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peerpods.image import inputs, units
from peerpods.image.units import Unit
from peerpods.image.variant import Variant, choose

NAMES = {"after": "After", "before": "Before", "requires": "Requires", "wants": "Wants", "bindsTo": "BindsTo",
         "conflicts": "Conflicts", "wantedBy": "WantedBy"}  # fmt: skip
Found = Iterator[str]


def images(contract: Any) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Every image that both make: the profiles of the system layout on amd64."""
    for tee, facts in inputs.DATA["tees"].items():
        for profile, row in inputs.DATA["profiles"].items():
            if "amd64" in facts["architectures"] and row["layout"] == "system":
                yield choose(tee, "amd64", profile), contract["images"][tee][profile]


def differ(where: str, what: str, nix: object, python: object) -> Found:
    """One line when the two are not the same."""
    if nix != python:
        yield f"{where}: {what}: Nix has {nix!r}, Python has {python!r}"


def as_directives(nix: dict[str, Any]) -> dict[str, list[str]]:
    """A unit of Nix as systemd directives: each with its values."""
    rows = {"Description": [nix["description"]]}
    rows |= {name: [" ".join(nix[key])] for key, name in NAMES.items() if nix[key]}
    for key in ("unitConfig", "serviceConfig"):
        rows |= {name: [str(one) for one in (value if isinstance(value, list) else [value])]
                 for name, value in nix[key].items()}  # fmt: skip
    return rows


def of_python(unit: Unit) -> dict[str, list[str]]:
    """The same of the unit file that the Debian image has."""
    rows: dict[str, list[str]] = {}
    for section in units.directives(unit).values():
        for name, value in section:
            rows.setdefault(name, []).append(value)
    return rows


def same_units(where: str, nix: dict[str, Any], python: tuple[Unit, ...]) -> Found:
    """Names, and every directive of every unit."""
    yield from differ(where, "units", sorted(nix), sorted(unit.name for unit in python))
    for unit in python:
        if unit.name in nix:
            left, right = as_directives(nix[unit.name]), of_python(unit)
            for name in sorted({*left, *right}):
                yield from differ(f"{where} {unit.name}", name, left.get(name), right.get(name))


def units_match(contract: Any) -> Found:
    """The units of every image."""
    for variant, nix in images(contract):
        yield from same_units(variant.name, nix["units"], units.for_image(variant, nix["agent"]))
        for unit in units.for_image(variant, nix["agent"]):
            program = unit.exec[0].removeprefix("/usr") if unit.exec else ""
            if program and program not in nix["programs"] and not unit.unit.get("ConditionFileIsExecutable"):
                yield f"{variant.name} {unit.name}: the image has no {unit.exec[0]}"


def cmdline_match(contract: Any) -> Found:
    """The command line of every image, but for the word that names the verity partition."""
    for variant, nix in images(contract):
        yield from differ(variant.name, "command line", nix["commandLine"], variant.command_line("").split())
        yield from differ(variant.name, "IMAGE_ID", nix["imageId"], variant.image_id)
        ending = nix["imageVersion"].partition("-")[2]
        yield from differ(variant.name, "end of IMAGE_VERSION", ending, f"{variant.tee}-{variant.arch}")


def agent_match(contract: Any) -> Found:
    """The digest of the pinned kata-agent, and which kind of agent an image has."""
    releases = inputs.DATA["pins"]["kata_agent"]["releases"]
    yield from differ(
        "kata-agent", "sha256", contract["kataAgent"], {arch: row["sha256"] for arch, row in releases.items()}
    )
    for variant, nix in images(contract):
        wanted = variant.profile_facts["agent"]
        yield from differ(variant.name, "agent", nix["agent"], "development" if wanted == "development" else "kata")
        told = {"VARIANT_ID": "release" if variant.release else variant.profile, "PEERPODS_AGENT": nix["agent"]}
        yield from differ(variant.name, "os-release", nix["osRelease"], told)


def files_match(contract: Any) -> Found:
    """Modules, users, kernel settings and files of every image."""
    data = inputs.DATA
    for variant, nix in images(contract):
        where = variant.name
        yield from differ(
            where, "modules", nix["modules"], [*data["modules"]["loaded"], *variant.tee_facts["guest_modules"]]
        )
        yield from differ(where, "initrd modules", nix["initrdModules"], data["modules"]["system_initrd"])
        yield from differ(where, "denied modules", nix["denied"], data["modules"]["denied"])
        yield from differ(where, "sysctls", nix["sysctls"], data["sysctls"])
        yield from differ(where, "seed", nix["seed"], data["identifiers"]["disk_seed"])
        yield from differ(where, "users", nix["users"], {user["name"]: user["uid"] for user in data["users"]})
        yield from differ(where, "groups", nix["groups"], data["groups"])
        for name, text in nix["files"].items():
            yield from differ(where, f"/etc/{name}", text, data["files"][f"etc/{name}"])


def node_match(contract: Any) -> Found:
    """The node's services; their program lies in the store, by the same name."""
    nix = json.loads(json.dumps(contract["node"]))
    for unit in units.for_node():
        service = nix.get(unit.name, {}).get("serviceConfig", {})
        words = shlex.split(service.get("ExecStart", ""))
        if words and words[0].startswith("/nix/store/") and Path(words[0]).name == Path(unit.exec[0]).name:
            service["ExecStart"] = shlex.join([unit.exec[0], *words[1:]])
    yield from same_units("node", nix, units.for_node())


CHECKS: dict[str, Callable[[Any], Found]] = {
    "units-match": units_match,
    "cmdline-match": cmdline_match,
    "agent-match": agent_match,
    "files-match": files_match,
    "node-match": node_match,
}


def main(what: str, file: str) -> int:
    """Prints the differences; 1 when there are any."""
    contract = json.loads(Path(file).read_text())
    found = [line for name, check in CHECKS.items() if what in (name, "all") for line in check(contract)]
    print("\n".join(found) if found else f"{what}: Nix and Python agree")
    return 1 if found or what not in (*CHECKS, "all") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
