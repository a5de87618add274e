"""Keys and certificates of one sandbox's link, made in one place: a later key will be born in the VM.

Both ends pin: the client trusts exactly this server certificate, the server exactly this client certificate.
Runs on the node only (`cryptography` is not in the VM).
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BEFORE = timedelta(days=1)
"""A VM's clock may be behind the node's."""
AFTER = timedelta(days=3650)
_FIELDS = ("server_name", "server_key", "server_cert", "client_key", "client_cert")


@attrs.frozen(kw_only=True)
class SandboxKeys:
    """What both ends of a sandbox's link need. PEM text; the keys never show in `repr`."""

    server_name: str
    """DNS name in the server's certificate (`model.instance_name`)."""
    server_key: str = attrs.field(repr=False)
    server_cert: str
    client_key: str = attrs.field(repr=False)
    client_cert: str

    @property
    def server_ca(self) -> str:
        """What the client pins: the server's own self-signed certificate."""
        return self.server_cert

    def to_json(self) -> str:
        """Text for a file of mode 0600; `from_json` reads it back to an equal value."""
        return json.dumps({name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def from_json(cls, text: str) -> SandboxKeys:
        """Read what `to_json` wrote.

        Raises:
            ValueError: when it is not that. The text itself is not in the message.
        """
        try:
            data = json.loads(text)
        except ValueError:
            raise ValueError("the sandbox's keys are not JSON") from None
        if not isinstance(data, dict) or not all(isinstance(data.get(name), str) for name in _FIELDS):
            raise ValueError(f"the sandbox's keys must be an object with the texts {', '.join(_FIELDS)}")
        return cls(**{name: data[name] for name in _FIELDS})


def issue(server_name: str, now: datetime) -> SandboxKeys:
    """Make both pairs: ECDSA P-256, PKCS#8, self-signed, valid from a day before `now` for ten years.

    Args:
        server_name: a DNS label or name; it becomes the server certificate's only subject alternative name.
        now: aware datetime.
    """
    server_key, server_cert = _pair(server_name, now, ExtendedKeyUsageOID.SERVER_AUTH, dns=server_name)
    client_key, client_cert = _pair("peerpods-relay", now, ExtendedKeyUsageOID.CLIENT_AUTH, dns=None)
    return SandboxKeys(
        server_name=server_name,
        server_key=server_key,
        server_cert=server_cert,
        client_key=client_key,
        client_cert=client_cert,
    )


def _pair(name: str, now: datetime, usage: x509.ObjectIdentifier, dns: str | None) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name takes 64 characters at most (X.520); the alternative name is what is checked.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now - BEFORE + AFTER)
        # A pinned certificate is its own authority: Go and OpenSSL both take it as a root only so.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    if dns is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
