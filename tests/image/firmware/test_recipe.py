"""What a firmware is made from and how: the decisions, without compiling anything."""

from __future__ import annotations

import subprocess

import attrs
import pytest

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image import inputs
from peerpods.image.firmware import recipe, source

A, B, C = "a" * 64, "b" * 64, "c" * 64
LISTED = f"""Reading package lists...
'http://mirror.example/pool/e/edk2_2025.02-8%2bdeb13u1.dsc' edk2_2025.02-8+deb13u1.dsc 2656 SHA256:{A}
'http://mirror.example/pool/e/edk2_2025.02.orig.tar.xz' edk2_2025.02.orig.tar.xz 29646336 SHA256:{B}
'http://mirror.example/pool/e/edk2_2025.02-8.debian.tar.xz' edk2_2025.02-8+deb13u1.debian.tar.xz 53652 SHA256:{C}
"""
SHOWN = "Package: edk2\nVersion: 1:2024.01-1\n\nPackage: edk2\nVersion: 2025.02-8+deb13u1\n"


def test_a_source_package_is_its_two_archives_with_digests_of_the_signed_list() -> None:
    found = source.parse("edk2", LISTED, SHOWN)
    assert found.version == "2025.02-8+deb13u1"
    assert found.digests() == {
        "edk2_2025.02.orig.tar.xz": "b" * 64,
        "edk2_2025.02-8+deb13u1.debian.tar.xz": "c" * 64,
    }


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        ("", SHOWN),
        (LISTED, "Version: 2024.01-1\n"),
        (LISTED.replace("SHA256:" + "b" * 64, "MD5Sum:" + "b" * 32), SHOWN),
        (LISTED.replace(".debian.tar.xz", ".debian.tar.gz"), SHOWN),
    ],
)
def test_a_source_package_that_is_not_whole_is_said(listed: str, shown: str) -> None:
    with pytest.raises(LocalFailure, match="no source package edk2"):
        source.parse("edk2", listed, shown)


def test_patches_are_read_in_order() -> None:
    assert source.patches("# first\none.diff\n\n two.patch -p1 # why\n#three\n") == ["one.diff", "two.patch"]


def test_each_tee_has_its_platform() -> None:
    snp, tdx = recipe.recipe("snp"), recipe.recipe("tdx")
    assert snp and tdx and recipe.recipe("none") is None
    assert (snp.file, tdx.file) == ("OVMF.amdsev.fd", "OVMF.inteltdx.fd")
    assert snp.result == "Build/AmdSev/RELEASE_GCC5/FV/OVMF.fd"
    with pytest.raises(ConfigError, match="no firmware file"):
        recipe.recipe("se")
    with pytest.raises(ConfigError, match="no such tee"):
        recipe.recipe("sgx")


def test_the_boot_loader_of_the_sev_firmware_is_taken_out() -> None:
    made = recipe.recipe("snp")
    assert made
    script = recipe.build_script(made, "1.0", 2)
    assert "/^ *PREBUILD/d" in script and ": > OvmfPkg/AmdSev/Grub/grub.efi" in script


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_the_scripts_are_shell_and_name_time_and_version(tee: str) -> None:
    made = recipe.recipe(tee)
    assert made
    scripts = [
        recipe.prepare_script("up stream.tar.xz", "own.tar.xz"),
        recipe.patch_script(["a b.diff"]),
        recipe.tools_script(2),
        recipe.build_script(made, "2025.02-8+deb13u1", 2),
    ]
    for script in scripts:
        subprocess.run(["sh", "-n", "-c", script], check=True, timeout=10)
    assert "PcdFirmwareVersionString=L2025.02-8+deb13u1\\0" in scripts[3]
    assert "PcdFirmwareReleaseDateString=L01/01/2026\\0" in scripts[3]


def test_the_key_changes_with_all_that_decides_and_with_nothing_else() -> None:
    made = recipe.recipe("snp")
    assert made
    key = recipe.key({"a": "b"}, "tools", made, "1")
    others = [
        recipe.key({"a": "c"}, "tools", made, "1"),
        recipe.key({"a": "b"}, "others", made, "1"),
        recipe.key({"a": "b"}, "tools", attrs.evolve(made, flags=("-D", "X")), "1"),
        recipe.key({"a": "b"}, "tools", made, "2"),
    ]
    assert key == recipe.key({"a": "b"}, "tools", made, "1") and len({key, *others}) == 5


def test_the_inputs_name_only_tees_that_exist() -> None:
    pins = inputs.DATA["pins"]["firmware"]
    assert set(pins["targets"]) | set(pins["stock"]["tees"]) <= set(inputs.DATA["tees"])
