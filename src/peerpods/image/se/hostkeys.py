"""Host key documents: which machines may open an image. Each is verified before its key gets a slot.

A document is an X.509 certificate with the host's P-521 key, signed by IBM's host key signing key, whose own
certificate leads to a public root. Whoever could slip in a key of his own would read the image's secrets, so nothing
here can be switched off. Rules: s390-tools `pv::verify`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from peerpods.errors import ConfigError, Refused
from peerpods.image.se import chain, names

_PEM = re.compile(rb"-----BEGIN (?P<kind>[A-Z0-9 ]+)-----.*?-----END (?P=kind)-----\n?", re.S)
SIZE_MAX = 20 << 20  # bytes; the largest public revocation lists have a few MB


@attrs.frozen(kw_only=True)
class Trust:
    """What documents are checked against."""

    root: x509.Certificate
    """Trusted as it is."""
    certificates: tuple[x509.Certificate, ...]
    """The signing certificate, and those between it and the root."""
    lists: tuple[x509.CertificateRevocationList, ...]
    """Revocation lists of the root, of those between, and of the signing key."""


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a file, PEM or DER.

    Raises:
        ConfigError: when there is none.
    """
    return [x509.load_der_x509_certificate(one) for one in _blocks(path, "certificate", b"CERTIFICATE")]


def read_lists(path: Path) -> list[x509.CertificateRevocationList]:
    """The revocation lists of a file, PEM or DER; ConfigError when there is none."""
    return [x509.load_der_x509_crl(one) for one in _blocks(path, "revocation list", b"X509 CRL")]


def _blocks(path: Path, what: str, kind: bytes) -> list[bytes]:
    load = x509.load_der_x509_certificate if kind == b"CERTIFICATE" else x509.load_der_x509_crl
    try:
        if path.stat().st_size > SIZE_MAX:
            raise ConfigError(f"{path} is too large for a {what}")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if b"-----BEGIN" not in data:
            load(data)
            return [data]
        texts = [m[0] for m in _PEM.finditer(data) if m["kind"] == kind]
        pem = x509.load_pem_x509_certificate if kind == b"CERTIFICATE" else x509.load_pem_x509_crl
        found = [pem(text).public_bytes(Encoding.DER) for text in texts]
    except ValueError as error:
        raise ConfigError(f"{path} holds no readable {what}") from error
    if not found:
        raise ConfigError(f"{path} holds no {what}")
    return found


def read_trust(root: Path, certificates: Sequence[Path], lists: Sequence[Path]) -> Trust:
    """From files.

    Raises:
        ConfigError: a file is not what it should be; the root is not exactly one.
    """
    roots = read_certificates(root)
    if len(roots) != 1:
        raise ConfigError(f"{root} holds {len(roots)} certificates", remedy="name the one root to trust")
    return Trust(
        root=roots[0],
        certificates=tuple(one for path in certificates for one in read_certificates(path)),
        lists=tuple(one for path in lists for one in read_lists(path)),
    )


def verify(
    documents: Sequence[x509.Certificate], trust: Trust, now: datetime.datetime
) -> list[ec.EllipticCurvePublicKey]:
    """The host keys of documents, all of which hold.

    Args:
        documents: at least one.
        trust: see there.
        now: aware of its zone.

    Raises:
        Refused: naming the first document or certificate that does not hold, and why.
    """
    if not documents:
        raise Refused("a Secure Execution image needs at least one host key document", remedy="give --host-key FILE")
    try:
        return _verify(documents, trust, now)
    except (ValueError, x509.DuplicateExtension) as error:
        raise Refused(f"a certificate or revocation list is malformed: {error}") from error


def _verify(
    documents: Sequence[x509.Certificate], trust: Trust, now: datetime.datetime
) -> list[ec.EllipticCurvePublicKey]:
    signer = names.signing_certificate(trust.certificates)
    between = [one for one in trust.certificates if one != signer]
    chain.check_chain(signer, between, trust.root, trust.lists, now, names.same_signer)
    allowed = chain.usage(signer)
    if allowed is not None and not (allowed.digital_signature or allowed.key_cert_sign):
        raise Refused(f"the key of {chain.name_of(signer)} is not for signing")
    return [_host_key(one, signer, trust, now) for one in documents]


def _host_key(
    document: x509.Certificate, signer: x509.Certificate, trust: Trust, now: datetime.datetime
) -> ec.EllipticCurvePublicKey:
    what = f"the host key document {chain.name_of(document)}"
    key = document.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP521R1):
        raise Refused(f"{what} has no P-521 key")
    if not names.same_signer(document.issuer, signer.subject):
        raise Refused(f"{what} names another issuer: {document.issuer.rfc4514_string()}")
    if not chain.check_key_id(document, signer) or not chain.is_signed_by(document, signer):
        raise Refused(f"{what} is not signed by {chain.name_of(signer)}")
    chain.check_dates(what, now, document.not_valid_before_utc, document.not_valid_after_utc)
    allowed = chain.usage(document)
    if allowed is not None and not (allowed.key_agreement or allowed.key_encipherment):
        raise Refused(f"{what} is not for agreeing on keys")
    chain.check_revocation(document, signer, trust.lists, now, names.same_signer)
    return key
