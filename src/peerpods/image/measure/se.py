"""IBM Secure Execution header, version 1: written, read back, and opened with the header key.

The ultravisor checks the header's GCM tag, unwraps the header key with its own host key, and then checks the three
digests over the encrypted pages of the image. Layout and key derivation: s390-tools (pvimg), all big endian.

    magic, version, size | iv | slots, secret size, pages, flags | customer key | pld, ald, tld | slots | secrets | tag
    <------------------------- authenticated ------------------------------------------------->  <- AES-256-GCM

What depends only on the image: pld, ald, tld given keys and tweaks. A real image has fresh keys and tweaks, so its
header differs in each build; the tag names one build.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peerpods.errors import Refused

MAGIC = b"IBMSecEx"
VERSION = 0x100
HEADER_MAX = 2 * 4096
_FIXED = struct.Struct(">8sII12s4xQQQQ160s64s64s64s")
_SECRETS = struct.Struct(">32s64sQQQII")
_SLOT = 80
_TAG = 16
_COORDINATE = 80
_FIELD = 66  # bytes of a P-521 coordinate


@attrs.frozen(kw_only=True)
class Components:
    """Digests over the encrypted pages of an image, and the key they are encrypted with."""

    pld: bytes
    """SHA-512 over the encrypted pages."""
    ald: bytes
    """SHA-512 over their addresses, 8 bytes each."""
    tld: bytes
    """SHA-512 over their tweaks, 16 bytes each."""
    pages: int
    xts_key: bytes = attrs.field(repr=False)
    """64 bytes."""


@attrs.frozen(kw_only=True)
class HeaderKeys:
    """Everything random in a header. `fresh` for real images; a test gives fixed ones."""

    customer: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    """P-521."""
    header_key: bytes = attrs.field(repr=False)
    communication_key: bytes = attrs.field(repr=False)
    """CCK: lets the owner talk to the ultravisor about this guest; 32 bytes."""
    iv: bytes

    @classmethod
    def fresh(cls) -> HeaderKeys:
        """New random keys."""
        return cls(
            customer=ec.generate_private_key(ec.SECP521R1()),
            header_key=os.urandom(32),
            communication_key=os.urandom(32),
            iv=os.urandom(12),
        )


def coordinates(key: ec.EllipticCurvePublicKey) -> bytes:
    """A P-521 public key as headers have it: x and y, 80 bytes each.

    Raises:
        Refused: for a key on another curve.
    """
    if not isinstance(key.curve, ec.SECP521R1):
        raise Refused(f"a host key is on curve {key.curve.name}, Secure Execution takes P-521 only")
    numbers = key.public_numbers()
    return numbers.x.to_bytes(_COORDINATE, "big") + numbers.y.to_bytes(_COORDINATE, "big")


def key_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    """By which a host finds its slot: SHA-256 of the coordinates; what verifiers call image_phkh."""
    return hashlib.sha256(coordinates(key)).digest()


def key_slot(host: ec.EllipticCurvePublicKey, customer: ec.EllipticCurvePrivateKey, header_key: bytes) -> bytes:
    """The header key, wrapped for one host: 80 bytes."""
    name = key_hash(host)
    shared = customer.exchange(ec.ECDH(), host).rjust(_FIELD, b"\0")
    wrapping = hashlib.sha256(shared + struct.pack(">I", 1)).digest()
    return name + AESGCM(wrapping).encrypt(bytes(12), header_key, None)


def write_header(
    components: Components,
    hosts: Sequence[ec.EllipticCurvePublicKey],
    keys: HeaderKeys,
    *,
    entry: int,
    psw_mask: int,
    plaintext_flags: int = 0,
    secret_flags: int = 0,
) -> bytes:
    """A header for these hosts.

    Args:
        entry: address of the guest's first instruction (stage 3b).
        psw_mask: of the initial PSW.
        plaintext_flags, secret_flags: control flags, bit 0 the most significant.

    Raises:
        Refused: without a host key, with too many, or with one on another curve.
    """
    if not hosts:
        raise Refused("a Secure Execution image needs at least one host key document", remedy="give --host-key FILE")
    size = _FIXED.size + len(hosts) * _SLOT + _SECRETS.size + _TAG
    if size > HEADER_MAX:
        most = (HEADER_MAX - _FIXED.size - _SECRETS.size - _TAG) // _SLOT
        raise Refused(f"{len(hosts)} host keys do not fit in a header, which takes {most}")
    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        size,
        keys.iv,
        len(hosts),
        _SECRETS.size,
        components.pages,
        plaintext_flags,
        coordinates(keys.customer.public_key()),
        components.pld,
        components.ald,
        components.tld,
    )
    open_part = fixed + b"".join(key_slot(host, keys.customer, keys.header_key) for host in hosts)
    secrets = _SECRETS.pack(keys.communication_key, components.xts_key, psw_mask, entry, secret_flags, 0, 0)
    return open_part + AESGCM(keys.header_key).encrypt(keys.iv, secrets, open_part)


@attrs.frozen(kw_only=True)
class Header:
    """A header as anyone can read it."""

    size: int
    iv: bytes
    pages: int
    plaintext_flags: int
    customer: bytes
    pld: bytes
    ald: bytes
    tld: bytes
    host_hashes: tuple[bytes, ...]
    tag: bytes
    """Names this build: what a verifier compares (se.tag)."""
    raw: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Secrets:
    """What only hosts and the owner of the header key can read."""

    communication_key: bytes = attrs.field(repr=False)
    xts_key: bytes = attrs.field(repr=False)
    psw_mask: int
    entry: int
    flags: int


def read_header(data: bytes) -> Header:
    """Read the open part of a header; bytes behind it are ignored.

    Raises:
        Refused: when it is no header of version 1, or its sizes contradict each other.
    """
    if len(data) < _FIXED.size or data[:8] != MAGIC:
        raise Refused("no Secure Execution header: it does not begin with IBMSecEx")
    _, version, size, iv, slots, secret_size, pages, flags, customer, pld, ald, tld = _FIXED.unpack_from(data)
    if version != VERSION:
        raise Refused(f"the Secure Execution header has version {version:#x}, only {VERSION:#x} is known")
    expected = _FIXED.size + slots * _SLOT + secret_size + _TAG
    if secret_size != _SECRETS.size or size != expected or slots < 1 or size > min(HEADER_MAX, len(data)):
        raise Refused(f"the Secure Execution header's sizes contradict each other ({slots} slots, {size} bytes)")
    at = range(_FIXED.size, _FIXED.size + slots * _SLOT, _SLOT)
    return Header(
        size=size,
        iv=iv,
        pages=pages,
        plaintext_flags=flags,
        customer=customer,
        pld=pld,
        ald=ald,
        tld=tld,
        host_hashes=tuple(data[start : start + 32] for start in at),
        tag=data[size - _TAG : size],
        raw=data[:size],
    )


def open_header(header: Header, header_key: bytes) -> Secrets:
    """Check the tag and read the secrets.

    Raises:
        Refused: when the key is another, or a byte was changed.
    """
    cut = header.size - _TAG - _SECRETS.size
    try:
        plain = AESGCM(header_key).decrypt(header.iv, header.raw[cut:], header.raw[:cut])
    except InvalidTag:
        raise Refused("the Secure Execution header does not open: wrong header key, or it was changed") from None
    communication_key, xts_key, mask, entry, flags, _, _ = _SECRETS.unpack(plain)
    return Secrets(communication_key=communication_key, xts_key=xts_key, psw_mask=mask, entry=entry, flags=flags)
