"""Packer 1.6.6 formats, validates and builds our templates, and sees in them what the engine sees."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest

from peerpods.errors import ConfigError
from peerpods.image import inputs, units
from peerpods.image.key import SOURCE
from peerpods.image.variant import choose
from tests.clouds.libvirt.daemon import DaemonProcess
from tests.images import twice

pytestmark = [pytest.mark.images, pytest.mark.timeout(1500)]
TOP = SOURCE.parents[1]
FOLDERS = [TOP / "packer", TOP / "packer/plugins", *sorted((TOP / "packer/import").glob("*/"))]
GIVEN = ["-var", "kata_agent_file=agent", "-var", f"kata_agent_sha256={'a' * 64}", "-var", "guest_components_dir=gc"]
CLOUDS = {
    "aws": {"region": "r", "bucket": "b"},
    "azure": {"resource_group": "g", "location": "l", "storage_account": "a", "gallery": "y"},
    "gcp": {"project": "p", "bucket": "b"},
    "libvirt": {},
}
STAND_INS = {
    "aws": """case "$*" in
    *"import-snapshot "*) echo import-1 ;; *describe-import*) echo snap-1 ;; *register*) echo ami-1 ;; esac""",
    "az": """case "$*" in *definition\\ show*) exit 3;; *image-version*) echo /version/1;; esac""",
    "virsh": """case "$*" in *vol-info*) exit 1;; *vol-upload*) [ ! -e "$0.fails" ];; esac""",
}


@attrs.frozen
class Packer:
    program: str

    def __call__(self, *words: str | Path, path: str = "", stdin: str | None = None) -> tuple[int, str]:
        """Exit code and all that it said."""
        environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "PACKER_PLUGIN_PATH": "/nonexistent"}
        environment["PATH"] = f"{path}:{environment['PATH']}" if path else environment["PATH"]
        done = subprocess.run(
            [self.program, *words], cwd=TOP, env=environment, input=stdin, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=1200,
        )  # fmt: skip
        return done.returncode, done.stdout

    def value(self, expression: str, *words: str) -> Any:
        """What an expression of the podvm template is."""
        code, text = self("console", *words, "packer/", stdin=f"jsonencode({expression})\n")
        assert code == 0, text
        return json.loads(text)


@pytest.fixture(scope="module")
def packer() -> Packer:
    found = Packer(twice.packer())
    assert found("version")[1].split()[1] == "v1.6.6"
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_templates_are_formatted(packer: Packer, folder: Path) -> None:
    code, text = packer("fmt", "-check", "-diff", folder)
    assert (code, text.strip()) == (0, "")


def words(tee: str, arch: str, profile: str) -> list[str]:
    found = ["-var", f"tee={tee}", "-var", f"arch={arch}", "-var", f"profile={profile}"]
    found += GIVEN if profile == "prod" else []
    return found + (["-var", 'host_key_documents=["document"]'] if tee == "se" else [])


MATRIX = list(itertools.product(inputs.DATA["tees"], inputs.DATA["architectures"], inputs.DATA["profiles"]))


@pytest.mark.parametrize(("tee", "arch", "profile"), MATRIX)
def test_packer_and_engine_know_the_same_images_and_see_the_same_in_them(
    packer: Packer, tee: str, arch: str, profile: str
) -> None:
    given = words(tee, arch, profile)
    try:
        variant = choose(tee, arch, profile)
    except ConfigError:
        assert packer("validate", *given, "packer/")[0] == 1
        return
    agent = "kata" if profile == "prod" else "development"
    table = units.for_image(variant, agent)
    assert packer.value(
        "[local.name, local.facts.image_id, local.agent, local.exec_start, local.command_line, local.agent_sha256,"
        " [for unit in local.units : unit.name]]",
        *given,
    ) == [
        variant.name,
        variant.image_id,
        agent,
        {unit.name: " ".join(unit.exec) for unit in table},
        variant.command_line("").strip(),
        "a" * 64 if agent == "kata" else inputs.DATA["pins"]["kata_agent"]["releases"][arch]["sha256"] or "",
        [unit.name for unit in table],
    ]
    assert packer("validate", *given, "packer/") == (0, "")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["tee=foo"], "TEE=foo: choose one of none, se, snp, tdx"),
        (["tee=snp", "arch=s390x"], "TEE=snp does not exist on ARCH=s390x: give arch=amd64"),
        (["tee=snp", "profile=foo"], "PROFILE=foo: choose one of debug, local, prod, prod-test"),
        (["tee=tdx", "profile=local"], "PROFILE=local is for TEE=none ARCH=amd64 only"),
        (
            ["tee=none", "profile=prod"],
            "PROFILE=prod needs kata_agent_file, kata_agent_sha256 and guest_components_dir",
        ),
        (["tee=snp", "kata_agent_file=a"], "kata_agent_file needs kata_agent_sha256, since no digest is pinned"),
        (["tee=snp", "guest_components_dir=a"], "kata_agent_sha256 and guest_components_dir need kata_agent_file"),
        (["tee=snp", "lock=maybe"], "The lock is strict or anew."),
        (["tee=se"], "TEE=se needs se_files, host_key_documents"),
        ([], 'Unset variable "tee"'),
    ],
)
def test_wrong_values_are_refused_in_one_line(packer: Packer, given: list[str], line: str) -> None:
    code, text = packer("validate", *(word for value in given for word in ("-var", value)), "packer/")
    assert code == 1
    assert [one for one in text.splitlines() if line in one]
    assert text.count("Error:") == 1


@pytest.mark.parametrize("cloud", CLOUDS)
def test_imports_are_valid(packer: Packer, cloud: str, tmp_path: Path) -> None:
    facts = {"image_id": "podvm", "version": "1", "variant": {"tee": "snp", "arch": "amd64", "profile": "prod"}}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    assert packer("validate", *import_words(cloud, tmp_path), f"packer/import/{cloud}") == (0, "")
    missing = import_words(cloud, tmp_path / "none")
    code, text = packer("validate", *missing, f"packer/import/{cloud}")
    assert code == 1
    assert [line for line in text.splitlines() if "none is no finished image: it has no manifest.json" in line]


def import_words(cloud: str, image: Path, **more: str) -> list[str]:
    values = {"image_dir": str(image), "public_key": str(image / "signing-key.pub"), **CLOUDS[cloud], **more}
    return [word for name, value in values.items() for word in ("-var", f"{name}={value}")]


@pytest.fixture(scope="module")
def image() -> Path:
    """A whole image, built by packer; test_twice.py compares it with the engine's."""
    return twice.pair().second


def sums(folder: Path) -> dict[str, str]:
    lines = (line.split() for line in (folder / "SHA256SUMS").read_text().splitlines())
    return {name: value for value, name in lines}


def test_packer_leaves_the_image_whole_and_its_own_files_beside_it(image: Path) -> None:
    own = sums(image)
    for name, value in own.items():
        assert hashlib.sha256((image / name).read_bytes()).hexdigest() == value
    rows = [line.split() for line in Path(f"{image}.packer.sha256").read_text().splitlines()]
    assert {value for value, _ in rows} >= set(own.values()) - {own["provenance.intoto.json"]}
    manifest = json.loads(Path(f"{image}.packer.json").read_text())["builds"][-1]
    assert {"podvm.raw", "podvm.qcow2", "podvm.vhd", "podvm.efi", "roothash"} <= {
        one["name"] for one in manifest["files"]
    }
    asked, line = manifest["custom_data"], (image / "cmdline").read_text().strip()
    assert line == f"{asked['command_line']} roothash={(image / 'roothash').read_text().strip()}"
    assert asked["image_id"] == "podvm-prodtest"
    done = verified(image)
    assert done.returncode == 0, done.stdout


def verified(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from peerpods.cli.main import main; main()"]
    return subprocess.run(
        [*program, "image", "verify", "--key", key_of(folder), *more, folder], text=True, stdout=subprocess.PIPE
    )


def key_of(folder: Path) -> Path:
    return folder / "signing-key.pub"


def test_a_build_that_fails_leaves_nothing(packer: Packer, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    key.chmod(0o600)
    out = tmp_path / "images" / "image"
    code, text = packer("build", "-color=false", "-var", "tee=none", "-var", f"signing_key={key}",
                        "-var", f"out_dir={out}", "packer/")  # fmt: skip
    assert code == 1
    assert [line for line in text.splitlines() if f"image: {key} is no plain PEM private key" in line]
    assert not out.parent.exists()


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder with programs that record how they were called."""
    for name, script in STAND_INS.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o755)
    return tmp_path / "bin"


def calls(stand_ins: Path) -> list[str]:
    record = stand_ins.parent / "calls"
    return record.read_text().splitlines() if record.exists() else []


def bring(packer: Packer, cloud: str, image: Path, stand_ins: Path, **more: str) -> tuple[int, str]:
    given = import_words(cloud, image, public_key=str(key_of(image)), **more)
    return packer("build", "-color=false", *given, f"packer/import/{cloud}", path=str(stand_ins))


def test_aws_gets_the_disk_with_uefi_and_a_tpm(packer: Packer, image: Path, stand_ins: Path) -> None:
    code, text = bring(packer, "aws", image, stand_ins, release="false")
    assert code == 0, text
    assert "ami-1" in text
    upload, taken, _, _, register, removed = calls(stand_ins)
    assert upload.startswith(f"aws s3 cp --quiet {image}/podvm.raw s3://b/podvm-prodtest-none-amd64-")
    assert "Format=RAW" in taken
    for word in ("--boot-mode uefi", "--tpm-support v2.0", "SnapshotId=snap-1", "--imds-support v2.0"):
        assert word in register
    assert removed.startswith("aws s3 rm")


def test_azure_gets_the_fixed_disk_with_its_security_type(packer: Packer, image: Path, stand_ins: Path) -> None:
    code, text = bring(packer, "azure", image, stand_ins, release="false")
    assert code == 0, text
    upload, _, definition, version, removed = calls(stand_ins)
    assert "--type page" in upload and f"--file {image}/podvm.vhd" in upload
    assert "SecurityType=TrustedLaunchSupported" in definition and "--hyper-v-generation V2" in definition
    assert "--gallery-image-version 1.0.0" in version
    assert "blob delete" in removed


def test_libvirt_gets_a_volume_and_keeps_no_half_of_one(packer: Packer, image: Path, stand_ins: Path) -> None:
    code, text = bring(packer, "libvirt", image, stand_ins, release="false")
    assert code == 0, text
    assert [line.split()[4] for line in calls(stand_ins)] == ["vol-info", "vol-create-as", "vol-upload"]
    (stand_ins / "virsh.fails").touch()
    assert bring(packer, "libvirt", image, stand_ins, release="false")[0] == 1
    assert "vol-delete" in calls(stand_ins)[-1]


@pytest.mark.root
def test_a_real_libvirt_holds_the_disk_as_it_was_signed(packer: Packer, image: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pplv") as folder:
        daemon = DaemonProcess(Path(folder))
        try:
            pool = Path(folder) / "podvms"
            pool.mkdir()
            virsh(daemon.uri, "pool-create-as", "podvms", "dir", "--target", pool)
            given = import_words(
                "libvirt",
                image,
                public_key=str(key_of(image)),
                release="false",
                uri=daemon.uri,
                pool="podvms",
                name="disk",
            )
            code, text = packer("build", "-color=false", *given, "packer/import/libvirt")
            assert code == 0, text
            virsh(daemon.uri, "vol-download", "--pool", "podvms", "disk", Path(folder) / "copy")
            assert hashlib.sha256((Path(folder) / "copy").read_bytes()).hexdigest() == sums(image)["podvm.qcow2"]
            assert "<format type='qcow2'/>" in virsh(daemon.uri, "vol-dumpxml", "--pool", "podvms", "disk")
            code, text = packer("build", "-color=false", *given, "packer/import/libvirt")
            assert code == 1
            assert "the pool podvms has a volume disk already" in text
        finally:
            daemon.close()


def virsh(uri: str, *words: str | Path) -> str:
    return subprocess.run(["virsh", "--connect", uri, *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_google_gets_whole_gibibytes_in_a_sparse_archive(image: Path, tmp_path: Path) -> None:
    archive = tmp_path / "disk.tar.gz"
    script = TOP / "packer/import/gcp/pack.sh"
    subprocess.run(["bash", script, image, key_of(image), "false", "none", archive], check=True)
    with tarfile.open(archive) as found:
        (member,) = found.getmembers()
        assert (member.name, member.size % (1 << 30)) == ("disk.raw", 0)
        content = found.extractfile(member)
        assert content is not None
        raw = content.read((image / "podvm.raw").stat().st_size)
    assert hashlib.sha256(raw).hexdigest() == sums(image)["podvm.raw"]
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_nothing_is_imported_that_is_no_release_or_not_as_signed(
    packer: Packer, image: Path, stand_ins: Path, tmp_path: Path
) -> None:
    assert bring(packer, "aws", image, stand_ins)[0] == 1
    changed = tmp_path / "changed"
    shutil.copytree(image, changed)
    with (changed / "podvm.raw").open("r+b") as disk:
        disk.seek(100 << 20)
        byte = disk.read(1)
        disk.seek(100 << 20)
        disk.write(bytes([byte[0] ^ 1]))
    code, text = bring(packer, "aws", changed, stand_ins, release="false")
    assert code == 1, text
    assert calls(stand_ins) == []
