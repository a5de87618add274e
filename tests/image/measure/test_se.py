"""The Secure Execution header against the published test vector of s390-tools, byte for byte, and against damage."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from peerpods.errors import Refused
from peerpods.image.measure import se

VECTOR = json.loads((Path(__file__).parents[2] / "fixtures/image/se_header_vector.json").read_text())
HOST = ec.EllipticCurvePublicNumbers(int(VECTOR["host_x"], 16), int(VECTOR["host_y"], 16), ec.SECP521R1()).public_key()
KEYS = se.HeaderKeys(
    customer=ec.derive_private_key(int(VECTOR["customer_private"], 16), ec.SECP521R1()),
    header_key=b"2" * 32,
    communication_key=b"1" * 32,
    iv=b"3" * 12,
)
COMPONENTS = se.Components(pld=b"\2" * 64, ald=b"\1" * 64, tld=b"\3" * 64, pages=1, xts_key=b"\3" * 64)


def test_the_header_equals_the_published_one() -> None:
    made = se.write_header(COMPONENTS, [HOST], KEYS, entry=1234, psw_mask=5678)
    assert made == bytes.fromhex(VECTOR["header"])


def test_it_reads_back_and_opens() -> None:
    header = se.read_header(bytes.fromhex(VECTOR["header"]) + b"behind")
    assert (header.size, header.pages, header.plaintext_flags) == (640, 1, 0)
    assert header.host_hashes == (se.key_hash(HOST),)
    assert header.pld == COMPONENTS.pld
    secrets = se.open_header(header, KEYS.header_key)
    assert (secrets.entry, secrets.psw_mask, secrets.xts_key) == (1234, 5678, COMPONENTS.xts_key)
    assert secrets.communication_key == KEYS.communication_key


@pytest.mark.parametrize("at", [17, 60, 100, 230, 420, 500, 600, 639])
def test_one_changed_byte_keeps_it_shut(at: int) -> None:
    data = bytearray.fromhex(VECTOR["header"])
    data[at] ^= 1
    with pytest.raises(Refused, match="does not open"):
        se.open_header(se.read_header(bytes(data)), KEYS.header_key)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(Refused, match="wrong header key"):
        se.open_header(se.read_header(bytes.fromhex(VECTOR["header"])), bytes(32))


def test_several_hosts_each_have_a_slot_and_fresh_keys_differ() -> None:
    hosts = [ec.generate_private_key(ec.SECP521R1()).public_key() for _ in range(3)]
    one, two = (
        se.write_header(COMPONENTS, hosts, se.HeaderKeys.fresh(), entry=0x2000, psw_mask=1, plaintext_flags=1 << 29)
        for _ in range(2)
    )
    assert one != two
    header = se.read_header(one)
    assert header.host_hashes == tuple(map(se.key_hash, hosts))
    assert header.size == 416 + 3 * 80 + 128 + 16
    assert header.tag != se.read_header(two).tag


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not begin"),
        (b"IBMSecEy" + bytes(600), "does not begin"),
        (b"IBMSecEx" + (2).to_bytes(4, "big") + bytes(600), "version 0x2"),
        (bytes.fromhex(VECTOR["header"])[:600], "contradict"),
        (bytes.fromhex(VECTOR["header"]).replace((640).to_bytes(4, "big"), (641).to_bytes(4, "big")), "contradict"),
    ],
)
def test_what_is_no_header_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        se.read_header(data)


def test_wrong_hosts_are_refused_in_words() -> None:
    with pytest.raises(Refused, match="at least one host key"):
        se.write_header(COMPONENTS, [], KEYS, entry=0, psw_mask=0)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(Refused, match="P-521 only"):
        se.write_header(COMPONENTS, [other], KEYS, entry=0, psw_mask=0)
    with pytest.raises(Refused, match="do not fit"):
        se.write_header(COMPONENTS, [HOST] * 100, KEYS, entry=0, psw_mask=0)


def test_secrets_do_not_show() -> None:
    assert "31313131" not in repr(KEYS) and "header_key" not in repr(KEYS)
    assert "xts_key" not in repr(attrs.evolve(COMPONENTS))
