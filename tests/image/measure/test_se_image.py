"""Secure Execution images: component digests against the published vector, whole images against what a host would do.

No IBM Z machine is here, so no image was booted: loaders and kernel are self-made stand-ins with the right marks.
"""

from __future__ import annotations

import hashlib
import struct

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from peerpods.errors import Refused
from peerpods.image.measure import se
from peerpods.image.measure.se_image import (
    Encryption,
    Loaders,
    Parts,
    find_header,
    open_image,
    plaintext_digests,
    write_image,
)

# s390-tools, rust/pvimg/src/pv_utils/secured_comp.rs, prepare_aligned_component_test (MIT): numbers of the vector.
ALD = bytes.fromhex(
    "c391de5727a08212ea2fea9c37f9cf090be51f93c6d521b8906332ce720c5f38"
    "ada0e73e69663e5211d015fef41dc62606f5135e619904d4f450ab889f49caad"
)
PLD = bytes.fromhex(
    "a24ff30a8af1295888dedfe9369eb509290309a90159ebc32ca26a53f9d4364a"
    "781857e2590587536c3e767355c7b7603f2b0c6a407f16330d82128d0964fad2"
)

HOST = ec.generate_private_key(ec.SECP521R1())
KEYS = se.HeaderKeys.fresh()
LOADERS = Loaders(stage3a=b"a" * 0x2100, stage3b=b"b" * 0x1234)


def kernel(size: int = 0x12345) -> bytes:
    data = bytearray(b"k" * size)
    data[0x10008:0x1000E] = b"S390EP"
    struct.pack_into(">Q", data, 0x10430, 4096)
    return bytes(data)


PARTS = Parts(kernel=kernel(), initrd=b"i" * 5000, command_line="root=/dev/ram0 panic=0")


def made(parts: Parts = PARTS) -> bytes:
    return write_image(parts, LOADERS, [HOST.public_key()], KEYS, Encryption(b"x" * 32 + b"y" * 32)).data


def test_component_digests_equal_the_published_ones() -> None:
    encryption = Encryption(b"\x42" * 32 + b"\x43" * 32)
    tweak = bytes(7) + b"\x42" + bytes(8)
    encryption.add(b"\1" * 0x3400, 0x10000, tweak)
    encryption.add(b"\2" * 0x3000, 0x20000, tweak)
    components = encryption.components()
    assert components.pages == 7
    assert components.ald == ALD
    assert components.pld == PLD
    expected = hashlib.sha512()
    for page in (0, 1, 2, 3, 0, 1, 2):
        expected.update(bytes(7) + b"\x42" + (page * 4096).to_bytes(8, "big"))
    assert components.tld == expected.digest()


def test_an_image_opens_to_what_was_put_in() -> None:
    opened = open_image(made(), KEYS.header_key)
    assert opened.kernel == PARTS.kernel
    assert opened.initrd == PARTS.initrd
    assert opened.command_line == PARTS.command_line


def test_nothing_of_the_content_shows_and_the_layout_is_as_tools_expect() -> None:
    image = made()
    assert b"k" * 64 not in image and b"root=" not in image
    assert struct.unpack_from(">Q", image)[0] == 0x0008000180011000
    assert image[0x14000:0x14008] == b"IBMSecEx"
    header = find_header(image)
    assert header.host_hashes == (se.key_hash(HOST.public_key()),)
    at = 0x10000 + len(LOADERS.stage3a) - 24
    offset, size, block = struct.unpack_from(">QQQ", image, at)
    assert (at + offset, size) == (0x14000, header.size)
    assert struct.unpack_from(">I", image, at + block)[0] == 136 + 4 * 24
    assert struct.unpack_from(">Q", image, at + block + 136)[0] >> 48 == 40


def test_two_builds_differ_as_files_and_agree_in_plaintext() -> None:
    one = write_image(PARTS, LOADERS, [HOST.public_key()], se.HeaderKeys.fresh(), Encryption(bytes(range(64))))
    two = write_image(PARTS, LOADERS, [HOST.public_key()], se.HeaderKeys.fresh(), Encryption(bytes(range(64))))
    assert one.data != two.data and one.header.tag != two.header.tag
    assert plaintext_digests(PARTS)["kernel"] == hashlib.sha256(PARTS.kernel).hexdigest()


@pytest.mark.parametrize("at", [0x14014, 0x141F0, 0x15000, 0x16001, 0x2A000])
def test_one_flipped_bit_in_header_or_components_is_noticed(at: int) -> None:
    data = bytearray(made())
    data[at] ^= 1
    with pytest.raises(Refused, match=r"does not open|was changed|contradict"):
        open_image(bytes(data), KEYS.header_key)


def test_a_cut_image_is_refused_in_words() -> None:
    image = made()
    with pytest.raises(Refused, match="cut off"):
        open_image(image[:-100], KEYS.header_key)
    with pytest.raises(Refused, match="too short"):
        find_header(image[:100])
    with pytest.raises(Refused, match="no Secure Execution image"):
        find_header(bytes(0x20000))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": b"\x7fELF" + bytes(0x11000)}, "no raw s390x kernel"),
        ({"kernel": bytes(0x11000)}, "no raw s390x kernel"),
        ({"command_line": "x" * 4096}, "4096 bytes, this kernel takes 4096"),
        ({"command_line": ""}, "0 bytes"),
    ],
)
def test_parts_that_cannot_boot_are_refused_in_words(changes: dict[str, object], words: str) -> None:
    with pytest.raises(Refused, match=words):
        made(attrs.evolve(PARTS, **changes))


def test_a_loader_without_room_is_refused() -> None:
    with pytest.raises(Refused, match="stage3b has 64 bytes"):
        write_image(
            PARTS, attrs.evolve(LOADERS, stage3b=b"b" * 64), [HOST.public_key()], KEYS, Encryption(bytes(range(64)))
        )
