"""Makes the self-managed authority and the certificates it signs. ECDSA P-256, PEM."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATE = timedelta(minutes=5)
"""An API server's clock may be behind ours."""


@attrs.frozen(kw_only=True)
class Issued:
    """A certificate and its key."""

    cert: str
    key: str = attrs.field(repr=False)


def new_authority(now: datetime, lifetime: timedelta) -> Issued:
    """An authority that signs nothing but end certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities at once have the same name: the key's identifier tells them apart.
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"peerpods-webhook-ca-{x509.random_serial_number():x}"[:40])]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Issued(cert=_pem(cert), key=_key_pem(key))


def new_certificate(ca: Issued, names: Sequence[str], now: datetime, lifetime: timedelta) -> Issued:
    """A server's certificate for these DNS names and IP addresses; it ends no later than the authority."""
    authority = x509.load_pem_x509_certificate(ca.cert.encode())
    signer = serialization.load_pem_private_key(ca.key.encode(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not of an elliptic curve")
    key = ec.generate_private_key(ec.SECP256R1())
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + lifetime, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Issued(cert=_pem(cert), key=_key_pem(key))


@attrs.frozen(kw_only=True)
class Look:
    """What can be seen of a certificate."""

    cert: x509.Certificate
    made: datetime
    ends: datetime

    @property
    def renew_at(self) -> datetime:
        """After two thirds of its life."""
        return self.made + (self.ends - self.made) * 2 / 3

    def names(self) -> list[str]:
        """DNS names and addresses it is for."""
        try:
            alternative = self.cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            return []
        addresses = [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
        return [*alternative.get_values_for_type(x509.DNSName), *addresses]

    def signed_by(self, authority: Look) -> bool:
        """Whether this authority's key signed it."""
        try:
            self.cert.verify_directly_issued_by(authority.cert)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


def look(cert: str, key: str | None = None) -> Look | None:
    """Read a certificate, and check that `key` is its key; None when it is broken."""
    try:
        found = x509.load_pem_x509_certificate(cert.encode())
        if key is not None:
            private = serialization.load_pem_private_key(key.encode(), None)
            if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
                return None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return Look(cert=found, made=found.not_valid_before_utc + BACKDATE, ends=found.not_valid_after_utc)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
