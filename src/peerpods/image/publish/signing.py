"""Signatures over what is published: ed25519, in the DSSE envelope for provenance and bare over SHA256SUMS.

The public key beside an image proves nothing: a verifier gives the key he trusts. A key that the build made itself says
so in its name.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from peerpods.errors import ConfigError, Refused

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, in hex."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def public_pem(key: Ed25519PublicKey) -> str:
    """The public key as a PEM file has it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def load_private(path: Path) -> Ed25519PrivateKey:
    """A signing key from its PEM file (PKCS 8, not encrypted).

    Raises:
        ConfigError: when it cannot be read, is another kind of key, or others may read it.
    """
    try:
        text = path.read_bytes()
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read this signing key", setting="signing-key", remedy="chmod 600 it")
        key = serialization.load_pem_private_key(text, None)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", setting="signing-key") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no plain PEM private key", setting="signing-key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} is no ed25519 key", setting="signing-key", remedy="openssl genpkey -algorithm ed25519"
        )
    return key


def load_public(path: Path) -> Ed25519PublicKey:
    """A trusted key from its PEM file.

    Raises:
        ConfigError: when it cannot be read or is another kind of key.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", setting="key") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no PEM public key", setting="key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} is no ed25519 key", setting="key")
    return key


def own_key(path: Path) -> Ed25519PrivateKey:
    """The key that builds without --signing-key use: made at first use, mode 0600; it stands for this cache only."""
    if path.exists():
        return load_private(path)
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text)
    return key


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def envelope(payload: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    """A DSSE envelope around an in-toto statement."""
    signature = key.sign(_encoded(payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }


@attrs.frozen
class Signed:
    """A statement whose signature held."""

    payload: bytes
    key_id: str


def open_envelope(found: Any, key: Ed25519PublicKey) -> Signed:
    """The payload, when `key` signed it.

    Raises:
        Refused: when it is no envelope, or no signature in it is this key's.
    """
    try:
        payload = base64.b64decode(found["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in found["signatures"]]
        kind = found["payloadType"]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("the provenance is no DSSE envelope") from error
    if kind != PAYLOAD_TYPE:
        raise Refused(f"the provenance has payload type {kind!r}, not {PAYLOAD_TYPE}")
    for signature in signatures[:16]:
        try:
            key.verify(signature, _encoded(payload))
        except InvalidSignature:
            continue
        return Signed(payload, key_id(key))
    raise Refused(f"the provenance is not signed by the key {key_id(key)[:16]}…")


def check(signature: bytes, data: bytes, key: Ed25519PublicKey) -> None:
    """A bare signature over data; Refused when it is not this key's."""
    try:
        key.verify(signature, data)
    except InvalidSignature:
        raise Refused(f"SHA256SUMS is not signed by the key {key_id(key)[:16]}…") from None
