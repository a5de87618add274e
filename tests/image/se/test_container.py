"""TEE=se from given files: the whole published folder, opened again as a host would, and what is refused."""

from __future__ import annotations

import argparse
import stat
import struct
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.errors import ConfigError, PeerPodError, Refused
from peerpods.image.measure import se, se_image
from peerpods.image.publish.folder import ImageFolder
from peerpods.image.publish.verify import verify
from peerpods.image.se import command, container
from tests.image.se import authority
from tests.image.se.authority import DAY, NOW

ROOT_HASH = "ab" * 32
LOCK = f"linux-image-s390x 6.12.1-1 {'c' * 64}\n"
KEY = Ed25519PrivateKey.generate()


def kernel() -> bytes:
    data = bytearray(b"k" * 0x12345)
    data[0x10008:0x1000E] = b"S390EP"
    struct.pack_into(">Q", data, 0x10430, 4096)
    return bytes(data)


CONTENT = {
    "kernel": kernel(),
    "initrd": b"i" * 9000,
    "cmdline": f"console=ttysclp0 ro roothash={ROOT_HASH}\n".encode(),
    "stage3a": b"a" * 0x2100,
    "stage3b": b"b" * 0x1234,
    "lock": LOCK.encode(),
}


@pytest.fixture
def order(tmp_path: Path) -> container.Order:
    inputs = tmp_path / "inputs"
    files = authority.write(authority.world(), inputs)
    for name, data in CONTENT.items():
        (inputs / name).write_bytes(data)
    return container.Order(
        files=container.Files(**{name: inputs / name for name in CONTENT}),
        hosts=container.Hosts(
            documents=[files["host"]],
            root=files["root"],
            certificates=[files["chain"]],
            lists=[files["one"], files["two"]],
        ),
        out=tmp_path / "out" / "se-s390x-prod",
        signing_key=KEY,
    )


def left(order: container.Order) -> list[Path]:
    return list(order.out.parent.glob("*")) if order.out.parent.exists() else []


def test_the_folder_verifies_and_opens_to_what_was_given(order: container.Order, tmp_path: Path) -> None:
    said: list[str] = []
    order = attrs.evolve(order, keys=tmp_path / "keys")
    image = ImageFolder(container.build(order, NOW, said.append))
    assert {"podvm.se", "se-header.bin", "vmlinuz", "initrd.img", "cmdline", "roothash", "manifest.json",
            "measurements.json", "rvps.json", "sbom.cdx.json", "packages.lock", "SHA256SUMS.sig",
            } <= {path.name for path in image.path.iterdir()}  # fmt: skip
    assert [finding.text for finding in verify(image, KEY.public_key()) if not finding.holds] == []
    assert image.text("roothash") == ROOT_HASH
    header_key = tmp_path / "keys" / "se-s390x-prod.header-key"
    assert stat.S_IMODE(header_key.stat().st_mode) == 0o600
    opened = se_image.open_image(image.read("podvm.se"), header_key.read_bytes())
    assert (opened.kernel, opened.initrd) == (CONTENT["kernel"], CONTENT["initrd"])
    assert opened.command_line == CONTENT["cmdline"].decode().rstrip()
    header = se.read_header(image.read("se-header.bin"))
    secrets = se.open_header(header, header_key.read_bytes())
    assert secrets.communication_key == (tmp_path / "keys" / "se-s390x-prod.cck").read_bytes()
    assert header.plaintext_flags == 0xE0
    measured = image.json("measurements.json")["se"]
    assert measured["tag"] == header.tag.hex()
    assert measured["image_phkh"] == image.manifest["host_keys"] == [header.host_hashes[0].hex()]
    assert image.json("rvps.json")["values"]["se.tag"] == [header.tag.hex()]
    assert "not booted" in said[-1]


def test_without_a_place_for_keys_none_are_left(order: container.Order, tmp_path: Path) -> None:
    said: list[str] = []
    keys = se.HeaderKeys.fresh()
    container.build(order, NOW, said.append, lambda: keys)
    assert any("thrown away" in text for text in said)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert keys.header_key not in path.read_bytes() and keys.communication_key not in path.read_bytes()


def test_two_builds_agree_in_what_will_run_and_differ_in_the_tag(order: container.Order) -> None:
    one, two = (
        ImageFolder(container.build(attrs.evolve(order, out=order.out.with_name(name)), NOW)).json("measurements.json")
        for name in ("one", "two")
    )
    assert one["se"]["plaintext"] == two["se"]["plaintext"] and one["se"]["tag"] != two["se"]["tag"]


def test_it_is_no_release_without_a_known_agent(order: container.Order) -> None:
    image = ImageFolder(container.build(order, NOW))
    findings = {one.check: one for one in verify(image, KEY.public_key(), release=True)}
    assert not findings["release"].holds and "unknown agent" in findings["release"].text


def test_files_without_a_lock_still_publish(order: container.Order) -> None:
    order = attrs.evolve(order, files=attrs.evolve(order.files, lock=None))
    image = ImageFolder(container.build(order, NOW))
    assert all(one.holds for one in verify(image, KEY.public_key()))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("kernel", b"\x7fELF" + bytes(0x12000), "no raw s390x kernel"),
        ("kernel", b"", "is empty"),
        ("initrd", None, "cannot be read"),
        ("cmdline", b"one\ntwo\n", "more than one line"),
        ("cmdline", b"\xff\xfe", "is no text"),
        ("cmdline", b"x" * 5000, "this kernel takes"),
        ("stage3a", b"short", "no room for its arguments"),
        ("stage3b", bytes(2 << 20), "too large"),
        ("two.crl", b"junk", "no readable revocation list"),
    ],
)
def test_wrong_files_are_refused_and_leave_nothing(
    order: container.Order, tmp_path: Path, name: str, data: bytes | None, words: str
) -> None:
    place = tmp_path / "inputs" / name
    place.unlink() if data is None else place.write_bytes(data)
    order = attrs.evolve(order, keys=tmp_path / "keys")
    with pytest.raises(PeerPodError, match=words):
        container.build(order, NOW)
    assert left(order) == [] and not (tmp_path / "keys").exists()


def test_an_expired_document_makes_no_image(order: container.Order) -> None:
    with pytest.raises(Refused, match="expired"):
        container.build(order, NOW + 400 * DAY)
    assert left(order) == []


def test_keys_are_neither_published_nor_written_over(order: container.Order, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which is published"):
        container.build(attrs.evolve(order, keys=order.out / "keys"), NOW)
    order = attrs.evolve(order, keys=tmp_path / "keys")
    container.build(order, NOW)
    with pytest.raises(ConfigError, match="has keys of an image already"):
        container.build(order, NOW)


def test_secrets_do_not_show(order: container.Order) -> None:
    assert "signing_key" not in repr(order)


def test_the_command_takes_all_of_it_and_has_no_way_around(order: container.Order, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    command.add_command(commands)
    files: dict[str, Any] = {
        name: getattr(order.files, name) for name in ("kernel", "initrd", "cmdline", "stage3a", "stage3b")
    }
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    words += ["--root", str(order.hosts.root), "--host-key", str(order.hosts.documents[0])]
    words += ["--certificate", str(order.hosts.certificates[0]), "--crl", str(order.hosts.lists[0])]
    options = parser.parse_args(["se", *words, "--out", str(order.out), "--cache", str(tmp_path)])
    assert options.host_key == [order.hosts.documents[0]] and not hasattr(options, "no_verify")
    with pytest.raises(SystemExit):
        parser.parse_args(["se", *words[:-2]])
