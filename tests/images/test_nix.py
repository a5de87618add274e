"""nix/ over a stand-in for nixpkgs, without network: what it evaluates is what Python says; wrong input is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerpods.image.system.tree import VERSION

TOP = Path(__file__).resolve().parents[2]
NIX = [sys.executable, str(TOP / "tools/nix.py")]
COMPARE = TOP / "nix/compare.py"
PARTS = ("nix", "requirements", "src/peerpods/image", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
pytestmark = [pytest.mark.images, pytest.mark.timeout(600)]
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", autouse=True)
def nix_is_there() -> None:
    """Unpacked once, with network; everything after it is without."""
    subprocess.run([*NIX, "--path"], check=True, capture_output=True)


def offline(*command: str | Path) -> Done:
    """Run in a network namespace that has nothing in it."""
    space = ["unshare", "--net", "--map-root-user", "--"]
    return subprocess.run([*space, *command], capture_output=True, text=True, check=False, timeout=300)


class Tree:
    """A copy of what the flake needs, to be changed at will."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in PARTS:
            source, target = TOP / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)

    def nix(self, *words: str, what: str | None = "") -> Done:
        """`nix WORDS... FLAKE#WHAT` with the stub in place of nixpkgs."""
        stub = f"path:{self.folder}?dir=nix/stub"
        flake = [] if what is None else [f"path:{self.folder}?dir=nix" + (f"#{what}" if what else "")]
        return offline(*NIX, *words, *flake, "--no-write-lock-file", "--override-input", "nixpkgs", stub)

    def change(self, name: str, edit: Callable[[Any], Any]) -> None:
        """Edit one of the two tables."""
        file = self.folder / "src/peerpods/image" / name
        file.write_text(json.dumps(edit(json.loads(file.read_text()))))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """As it is in the repository."""
    return Tree(tmp_path_factory.mktemp("nix") / "tree")


@pytest.fixture
def spoilt(tmp_path: Path) -> Tree:
    """One to be spoilt."""
    return Tree(tmp_path / "tree")


@pytest.fixture(scope="module")
def contract(tree: Tree) -> dict[str, Any]:
    """What nix/contract.nix evaluates to."""
    done = tree.nix("eval", "--json", what="lib.contract")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(contract: object, scratch: Path, what: str = "all") -> Done:
    """nix/compare.py on a contract."""
    file = scratch / "contract.json"
    file.write_text(json.dumps(contract))
    return subprocess.run([sys.executable, COMPARE, what, file], capture_output=True, text=True, check=False)


def test_units_command_lines_agent_and_files_agree(contract: dict[str, Any], tmp_path: Path) -> None:
    done = compare(contract, tmp_path)
    assert done.returncode == 0, done.stdout
    assert set(contract["images"]) == {"snp", "tdx", "none"}
    assert all(set(row) == {"prod", "prod-test", "debug"} for row in contract["images"].values())
    assert contract["images"]["snp"]["prod"]["commandLine"][0] == "console=ttyS0,115200"
    assert contract["images"]["snp"]["prod"]["imageVersion"] == f"{VERSION}-snp-amd64"


def _unit(contract: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = contract["images"]["tdx"]["prod"]["units"][name]
    return found


SPOILT: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    (
        "units-match",
        lambda c: _unit(c, "peerpods-forwarder.service")["serviceConfig"].update(ExecStart="/x"),
        "ExecStart",
    ),
    ("units-match", lambda c: _unit(c, "peerpods-prepare.service")["unitConfig"].clear(), "FailureAction"),
    ("units-match", lambda c: c["images"]["tdx"]["prod"]["units"].pop("kata-agent.service"), "units"),
    ("units-match", lambda c: c["images"]["tdx"]["prod"]["programs"].remove("/sbin/nft"), "/usr/sbin/nft"),
    ("cmdline-match", lambda c: c["images"]["none"]["debug"]["commandLine"].pop(), "command line"),
    ("cmdline-match", lambda c: c["images"]["none"]["debug"].update(imageId="podvm"), "IMAGE_ID"),
    ("agent-match", lambda c: c["kataAgent"].update(amd64="00" * 32), "sha256"),
    ("agent-match", lambda c: c["images"]["snp"]["prod"].update(agent="development"), "agent"),
    ("agent-match", lambda c: c["images"]["snp"]["debug"]["osRelease"].update(VARIANT_ID="release"), "os-release"),
    ("files-match", lambda c: c["images"]["snp"]["prod"]["users"].update(tss=1), "users"),
    ("files-match", lambda c: c["images"]["snp"]["prod"]["files"].update({"fstab": "x"}), "/etc/fstab"),
    (
        "node-match",
        lambda c: c["node"]["peerpods-relay.service"]["serviceConfig"].pop("ProtectSystem"),
        "ProtectSystem",
    ),
]


@pytest.mark.parametrize(("what", "spoil", "word"), SPOILT, ids=[f"{row[0]}-{row[2]}" for row in SPOILT])
def test_each_difference_is_found(
    what: str, spoil: Callable[[dict[str, Any]], object], word: str, contract: dict[str, Any], tmp_path: Path
) -> None:
    copy = json.loads(json.dumps(contract))
    spoil(copy)
    done = compare(copy, tmp_path, what)
    assert done.returncode == 1
    assert word in done.stdout


def test_every_output_evaluates(tree: Tree) -> None:
    done = tree.nix("flake", "check", "--no-build")
    assert done.returncode == 0, done.stderr
    shown = json.loads(tree.nix("flake", "show", "--json").stdout)
    assert set(shown["packages"]["x86_64-linux"]) >= {"peerpods", "measure", "kata-agent", "podvm-snp", "podvm-tdx"}
    assert set(shown["nixosModules"]) == {"podvm", "podvm-snp", "podvm-tdx", "node", "debug"}
    assert set(shown["devShells"]["x86_64-linux"]) == {"default", "image"}
    assert {"units-match", "cmdline-match", "rebuild"} <= set(shown["checks"]["x86_64-linux"])
    assert {"formatter", "overlays", "nixosConfigurations", "lib"} <= set(shown)


def test_the_tables_build_twice_alike(tree: Tree) -> None:
    for again in ([], ["--rebuild"]):
        done = tree.nix("build", "--no-link", *again, what="packages.x86_64-linux.tables")
        assert done.returncode == 0, done.stderr


def test_a_derivation_that_is_not_stable_is_found_out(tmp_path: Path) -> None:
    """So that `--rebuild` ending with 0 means something."""
    text = 'derivation { name = "unstable"; system = "x86_64-linux"; builder = "/bin/sh"; '
    text += 'args = [ "-c" "read x < /proc/sys/kernel/random/uuid; echo $x > $out" ]; }'
    file = tmp_path / "unstable.nix"
    file.write_text(text)
    assert offline(*NIX, "build", "--no-link", "--file", file).returncode == 0
    done = offline(*NIX, "build", "--no-link", "--rebuild", "--file", file)
    assert done.returncode != 0
    assert "may not be deterministic" in done.stderr


def test_the_agent_without_a_digest_is_refused(spoilt: Tree) -> None:
    def unpin(data: dict[str, Any]) -> dict[str, Any]:
        data["pins"]["kata_agent"]["releases"]["amd64"]["sha256"] = None
        return data

    spoilt.change("inputs.json", unpin)
    done = spoilt.nix("build", "--no-link", "--print-build-logs", what="packages.x86_64-linux.kata-agent")
    assert done.returncode != 0
    assert "inputs.json pins no digest of kata-static-" in done.stderr


def test_the_pinned_agent_is_fetched_by_its_digest(spoilt: Tree) -> None:
    def pin(data: dict[str, Any]) -> dict[str, Any]:
        data["pins"]["kata_agent"]["releases"]["amd64"]["sha256"] = "ab" * 32
        return data

    spoilt.change("inputs.json", pin)
    done = spoilt.nix("eval", "--raw", what="packages.x86_64-linux.kata-agent.drvPath")
    assert done.returncode == 0, done.stderr
    needed = offline(*NIX, "derivation", "show", "--recursive", done.stdout)
    assert "ab" * 32 in needed.stdout


def _without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: {name: value for name, value in data.items() if name != key}


def _first(**changes: object) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**rows[0], **changes}, *rows[1:]]


WRONG: list[tuple[str, Callable[[Any], Any], str]] = [
    ("inputs.json", _without("sysctls"), "inputs.json lacks sysctls"),
    ("inputs.json", lambda data: {**data, "schema": 2}, "inputs.json is not of schema 1"),
    ("inputs.json", lambda _: [], "inputs.json is not an object"),
    ("units.json", lambda _: {}, "units.json is not a list"),
    ("units.json", _first(colour="red"), "units.json: peerpods.target: unknown field colour"),
    ("units.json", _first(layouts="system"), "units.json: peerpods.target: no list of layouts"),
    ("units.json", lambda rows: [*rows, rows[-1]], "units.json names a unit twice"),
]


@pytest.mark.parametrize(("file", "edit", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_wrong_tables_are_said_in_words(spoilt: Tree, file: str, edit: Callable[[Any], Any], message: str) -> None:
    spoilt.change(file, edit)
    done = spoilt.nix("eval", "--json", what="lib.contract")
    assert done.returncode != 0
    assert f"peerpods: {message}" in done.stderr


def test_a_table_that_is_no_json_is_named(spoilt: Tree) -> None:
    (spoilt.folder / "src/peerpods/image/units.json").write_text("[{]")
    done = spoilt.nix("eval", "--json", what="lib.contract")
    assert done.returncode != 0
    assert "while reading peerpods' units.json" in done.stderr


def test_a_program_that_no_package_has_is_named(spoilt: Tree) -> None:
    def other(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "exec": ["/usr/bin/ruby"]} if row["name"] == "peerpods-scratch.service" else row for row in rows
        ]

    spoilt.change("units.json", other)
    done = spoilt.nix("eval", "--json", what="lib.contract")
    assert done.returncode != 0
    assert "units.json starts /usr/bin/ruby" in done.stderr


def test_an_option_path_that_nobody_knows_is_an_error(spoilt: Tree) -> None:
    file = spoilt.folder / "nix/modules/podvm.nix"
    file.write_text(file.read_text().replace("boot.kernelParams", "boot.kernelParameters"))
    done = spoilt.nix("eval", "--json", what="lib.contract")
    assert done.returncode != 0
    assert "The option `boot.kernelParameters' does not exist" in done.stderr


NODE = """
let
  lib = import %(nix)s/stub/lib.nix;
  pkgs = import %(nix)s/stub/pkgs.nix { inherit lib; };
  self = { lib.facts = import %(nix)s/facts.nix { }; packages.x86_64-linux.peerpods = pkgs.linux; };
  inherit (lib.evalModules {
    modules = [
      %(nix)s/stub/options.nix
      (import %(nix)s/modules/node.nix { inherit self; })
      { services.peerpods = { %(settings)s }; }
    ];
    specialArgs = { inherit pkgs; };
  }) config;
in
{
  names = builtins.attrNames config.systemd.services;
  file = config.systemd.services.peerpods-adaptor.serviceConfig.EnvironmentFile or null;
  etc = builtins.attrNames config.environment.etc;
}
"""


def test_node_options(tree: Tree) -> None:
    """Only what is asked for runs; an environment file takes the place of the table's."""
    nix = tree.folder / "nix"
    settings = 'enable = true; settings.adaptor.provider = "aws"; '
    settings += 'environmentFile.peerpods-adaptor = "/run/keys/adaptor.env";'
    done = offline(*NIX, "eval", "--impure", "--json", "--expr", NODE % {"nix": nix, "settings": settings})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "names": ["peerpods-adaptor", "peerpods-relay"],
        "file": "/run/keys/adaptor.env",
        "etc": ["peerpods/peerpods.toml"],
    }


def test_a_shell_without_inputs_needs_no_network(tmp_path: Path) -> None:
    shutil.copytree(TOP / "nix/offline", tmp_path / "offline")
    flake = f"path:{tmp_path}/offline"
    done = offline(*NIX, "develop", flake, "-c", "true")
    assert done.returncode == 0, done.stderr
    inside = offline(*NIX, "develop", flake, "-c", "sh", "-c", "echo $PEERPODS_NIX_SHELL")
    assert inside.stdout == "offline\n"
    hint = offline(*NIX, "print-dev-env", "--json", flake)
    assert "make test" in json.loads(hint.stdout)["variables"]["shellHook"]["value"]


@pytest.mark.parametrize("shell", ["default", "image"])
def test_the_shells_open_over_the_stand_in(tree: Tree, shell: str) -> None:
    flake = ["develop", f"path:{tree.folder}?dir=nix#{shell}", "--no-write-lock-file", "--override-input", "nixpkgs"]
    done = offline(*NIX, *flake, f"path:{tree.folder}?dir=nix/stub", "-c", "true")
    assert done.returncode == 0, done.stderr


def test_a_node_service_that_does_not_exist_is_refused(tree: Tree) -> None:
    settings = 'enable = true; run = [ "peerpods-cook" ];'
    done = offline(
        *NIX, "eval", "--impure", "--json", "--expr", NODE % {"nix": tree.folder / "nix", "settings": settings}
    )
    assert done.returncode != 0
    assert "The option `services.peerpods.run' is not of type `one of peerpods-relay" in done.stderr
