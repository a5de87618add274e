"""What each megabyte is for, and the bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerpods.errors import Refused
from peerpods.image import inputs
from peerpods.image.system import sizes
from peerpods.image.variant import choose

ASKED = {"python": "forwarder", "python-stdlib": "forwarder", "crun": "containers", "nft": "default drop"}
DESCRIBED = [
    {"Package": "python", "Depends": "libc6 (>= 2.41), libz | libz-ng, python-stdlib (= 3.13)"},
    {"Package": "python-stdlib", "Depends": "media-types, libffi8"},
    {"Package": "crun", "Pre-Depends": "libc6:any", "Depends": "seccomp-virtual"},
    {"Package": "nft", "Depends": "libc6, libnft"},
    {"Package": "libc6", "Depends": "libgcc"},
    {"Package": "libgcc"},
    {"Package": "libz-ng", "Depends": "libc6"},
    {"Package": "libffi8"},
    {"Package": "libseccomp", "Provides": "seccomp-virtual (= 2)", "Depends": "libc6"},
    {"Package": "libnft", "Depends": "nft"},
    {"Package": "stray"},
]


def test_a_dependency_is_for_what_leads_to_it() -> None:
    found = sizes.purposes(ASKED, DESCRIBED[:-1])
    assert {name: found[name] for name in ASKED} == ASKED
    assert found["libz-ng"] == found["libffi8"] == "forwarder"
    assert found["libseccomp"] == "containers" and found["libnft"] == "default drop"
    assert found["libc6"] == found["libgcc"] == sizes.SHARED


def test_a_package_that_nothing_leads_to_is_not_lost() -> None:
    assert sizes.purposes(ASKED, DESCRIBED)["stray"] == sizes.SHARED


def test_every_byte_is_for_something(tmp_path: Path) -> None:
    files = {"crun": ["usr/bin/crun"], "python": ["lib/python3.13/os.py"], "libc6": ["lib64/ld.so"]}
    owner = sizes.owners(files, {"crun": "containers", "python": "forwarder", "libc6": sizes.SHARED})
    content = {
        "usr/bin/crun": 7,
        "usr/lib/python3.13/os.py": 11,
        "usr/lib/python3.13/__pycache__/os.cpython-313.pyc": 13,
        "usr/lib64/ld.so": 17,
        "usr/lib/python3/dist-packages/peerpods/__init__.py": 19,
        "usr/lib/python3/dist-packages/attr/__init__.py": 23,
        "usr/lib/modules/6.12/kernel/loop.ko": 29,
        "usr/local/bin/kata-agent": 31,
        "etc/passwd": 37,
    }
    for name, size in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "usr/bin/runc").symlink_to("crun")
    found = sizes.by_purpose(tmp_path, owner)
    assert found == {
        "containers": 7,
        "forwarder": 24,
        sizes.SHARED: 17,
        "our source": 19,
        "Python packages (wheels)": 23,
        "kernel modules": 29,
        "a release's agent and components": 31,
        sizes.REST: 37,
    }
    assert sum(found.values()) == sum(content.values())
    assert sizes.table(found)[0].endswith(sizes.REST)


@pytest.mark.parametrize("profile", ["prod", "prod-test"])
def test_the_bound_is_120_megabytes(profile: str) -> None:
    variant = choose("snp", "amd64", profile)
    parts = {"pulling images": 90_000_000, "our source": 1_000_000, "rest": 2_000_000, "small": 1}
    assert "120.0 MB compressed (zstd -9), at most 120 MB allowed" in sizes.bound(variant, 120_000_000, parts)
    with pytest.raises(Refused) as caught:
        sizes.bound(variant, 120_100_000, parts)
    text = str(caught.value)
    assert f"PROFILE={profile}: the image is 120.1 MB compressed, more than the 120 MB" in text
    assert "pulling images 90.0 MB, rest 2.0 MB, our source 1.0 MB" in text and "\n" not in text


def test_a_debug_image_has_no_bound() -> None:
    assert "debug" not in inputs.DATA["size_limit"]
    assert "allowed" not in sizes.bound(choose("snp", "amd64", "debug"), 1 << 40, {})
