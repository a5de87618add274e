"""Small image folders with every file that a real one has."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.publish import publish
from tests.image.measure import synthetic

LOCK = (
    f"libc6 2.41-12+deb13u1 {'a' * 64}\nsystemd 257.9-1~deb13u1 {'b' * 64}\nattrs-25.4.0-py3-none-any.whl {'c' * 64}\n"
)
Maker = Callable[..., ImageFolder]


def gpt() -> bytes:
    disk = bytearray(64 * 512)
    struct.pack_into("<8sIIII", disk, 512, b"EFI PART", 0x10000, 92, 0, 0)
    struct.pack_into("<QII", disk, 512 + 72, 2, 128, 128)
    disk[1024:1040] = b"\1" * 16
    return bytes(disk)


@pytest.fixture(scope="session")
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def make_image(tmp_path: Path, signing_key: Ed25519PrivateKey) -> Maker:
    """Makes a published folder: tee, profile, more of the manifest, and changes to its files by name."""

    def make(
        name: str = "image", tee: str = "snp", profile: str = "prod", agent: str = "kata",
        facts: Mapping[str, object] = MappingProxyType({}), **files: bytes,
    ) -> ImageFolder:  # fmt: skip
        place = tmp_path / name
        (place / "firmware").mkdir(parents=True)
        kernel = synthetic.program()
        manifest = {
            "schema": 2,
            "variant": {"tee": tee, "arch": "amd64", "profile": profile},
            "image_id": "podvm",
            "version": "0.1.0",
            "epoch": 1767225600,
            "kernel": "6.12.1-cloud-amd64",
            "agent": {"kind": agent, "version": "4.1.0", "files": {"kata-agent": "d" * 64}},
            **facts,
        }
        content = {
            "podvm.raw": gpt() + b"disk",
            "podvm.efi": synthetic.program(linux=kernel),
            "vmlinuz": kernel,
            "initrd.img": b"initrd" * 50,
            "cmdline": b"console=ttyS0 ro\n",
            "roothash": b"0" * 64 + b"\n",
            "packages.lock": LOCK.encode(),
            "manifest.json": json.dumps(manifest).encode(),
            **{
                f"firmware/{file}": synthetic.firmware()
                for file in {"snp": ["OVMF.amdsev.fd"], "tdx": ["OVMF.inteltdx.fd", "OVMF.fd"]}.get(tee, ["OVMF.fd"])
            },
            **{key.replace("__", "/").replace("_", "."): value for key, value in files.items()},
        }
        for file, data in content.items():
            (place / file).write_bytes(data)
        image = ImageFolder(place)
        publish(image, signing_key)
        return image

    return make
