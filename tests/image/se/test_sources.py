"""What an s390x image is made of: suites and given packages by explicit choice only, wheels where there are any."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from peerpods.errors import ConfigError
from peerpods.image import inputs, key
from peerpods.image.debian import Listed, Package
from peerpods.image.se import base, root, sources
from peerpods.image.variant import choose

KERNEL = Listed("linux-image-6.12.9+deb13-s390x", "6.12.9-1", "a" * 64)
LIBC = Listed("libc6", "2.41-12", "b" * 64)
CONTAINER = {"SE_STAGE3A": "a", "SE_STAGE3B": "b", "SE_HOST_KEYS": "h1:h2", "SE_CERTIFICATES": "c", "SE_CRLS": "l"}


def package(name: str, digest: str) -> Package:
    return Package(name=name, version="1", sha256=digest * 64, file=Path(f"{name}.deb"))


def test_all_suites_are_read_unless_some_are_named():
    assert [list(row) for row in sources.suites("")] == inputs.SUITES
    assert sources.suites("trixie-security trixie") == (("debian", "trixie"), ("debian-security", "trixie-security"))


@pytest.mark.parametrize("named", ["trixie-updates", "trixie sid", "bookworm"])
def test_other_suites_are_refused(named):
    with pytest.raises(ConfigError, match="choose of trixie, trixie-updates, trixie-security, with trixie among"):
        sources.suites(named)


def test_a_suite_that_is_left_out_is_said():
    assert sources.left_out(sources.suites("")) == ""
    said = sources.left_out(sources.suites("trixie trixie-updates"))
    assert said.startswith("SE_SUITES: trixie-security not read")
    assert "NOT in this image" in said


def test_given_packages_take_the_archives_place_and_are_unsigned_unless_listed():
    same, other = package("libc6", "b"), package("libc6", "c")
    assert sources.merge([KERNEL, LIBC], {"libc6": same}) == ([same, KERNEL], [])
    assert sources.merge([KERNEL, LIBC], {"libc6": other}) == ([other, KERNEL], [other])


def test_a_given_kernel_takes_the_kernels_place_whatever_its_version():
    own = package("linux-image-6.12.1+deb13-s390x", "d")
    assert sources.merge([KERNEL, LIBC], {own.name: own}) == ([LIBC, own], [own])


def test_a_package_without_a_place_is_refused():
    with pytest.raises(ConfigError, match="nothing of this image needs vim"):
        sources.merge([KERNEL, LIBC], {"vim": package("vim", "e")})


def deb(folder: Path, name: str, arch: str) -> None:
    tree = folder / f"{name}-{arch}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1:2-3\nArchitecture: {arch}\nMaintainer: n <n@example.org>\nDescription: d\n"
    )
    subprocess.run(["dpkg-deb", "-b", tree, folder / f"{name}_{arch}.deb"], check=True, capture_output=True)


def test_given_files_are_read_by_their_own_words(tmp_path):
    deb(tmp_path, "libc6", "s390x")
    found = sources.given(tmp_path)
    assert list(found) == ["libc6"]
    assert (found["libc6"].version, len(found["libc6"].sha256)) == ("1:2-3", 64)


def test_given_files_of_another_machine_twice_or_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no \.deb in it"):
        sources.given(tmp_path / "nowhere")
    deb(tmp_path, "one", "amd64")
    with pytest.raises(ConfigError, match="is of amd64, not of s390x"):
        sources.given(tmp_path)
    (tmp_path / "one_amd64.deb").unlink()
    deb(tmp_path, "two", "s390x")
    deb(tmp_path, "two", "all")
    with pytest.raises(ConfigError, match="are both two"):
        sources.given(tmp_path)


def test_what_debian_brings_is_no_wheel_and_all_else_stays_pinned():
    text = key.REQUIREMENTS.read_text()
    left = sources.requirements(text, ["zope-interface"])
    assert "\nzope-interface==" in text
    assert "\nzope-interface==" not in left
    assert left.count("\ntwisted==") == 1
    assert len(text.splitlines()) - len(left.splitlines()) == 1 + sum(
        line.startswith("    ") for line in text.partition("\nzope-interface==")[2].splitlines()
    )


def test_an_s390x_image_asks_for_no_module_of_a_pc_and_strips_by_its_own_name():
    variant = choose("se", "s390x", "prod-test")
    assert {"virtio_net", "dm-crypt", "s390-trng"} <= set(variant.modules())
    assert not {"ena", "tpm_crb", "hv_vmbus"} & set(variant.modules())
    assert "python3-zope.interface" in variant.packages()
    assert "python3-zope.interface" not in choose("snp", "amd64", "prod-test").packages()
    assert "usr/lib/s390x-linux-gnu/gconv" in base.stripped()
    assert not [name for name in base.stripped() if "x86_64" in name]


def test_settings_without_any_make_no_container():
    found = root.settings({}, tee="se", release=True)
    assert (found.container, found.debs, len(found.suites)) == ({}, None, 3)


def test_a_container_is_described_wholly_and_for_se_only():
    with pytest.raises(ConfigError, match="container lacks SE_ROOT"):
        root.settings(CONTAINER, tee="se", release=True)
    whole = {**CONTAINER, "SE_ROOT": "r"}
    assert root.settings(whole, tee="se", release=True).container == whole
    with pytest.raises(ConfigError, match="TEE=none has no Secure Execution container"):
        root.settings(whole, tee="none", release=False)


def test_no_release_holds_a_file_that_no_signed_list_has():
    with pytest.raises(ConfigError, match="SE_DEBS is not for PROFILE=prod"):
        root.settings({"SE_DEBS": "x"}, tee="se", release=True)
    assert root.settings({"SE_DEBS": "x"}, tee="se", release=False).debs == Path("x")
