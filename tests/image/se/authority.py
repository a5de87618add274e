"""A self-made stand-in for the public root, IBM's signing key and hosts, with revocation lists."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from peerpods.image.se.hostkeys import Trust

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
COMPANY = "International Business Machines Corporation"
CA_USAGE = {"key_cert_sign": True, "crl_sign": True}


def name(**parts: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(getattr(NameOID, key), value) for key, value in parts.items()])


def signer_name(town: str = "Poughkeepsie", unit: str = "IBM Z Host Key Signing Service", turned: bool = False):
    parts = {
        "COUNTRY_NAME": "US",
        "STATE_OR_PROVINCE_NAME": "New York",
        "LOCALITY_NAME": town,
        "ORGANIZATION_NAME": COMPANY,
        "ORGANIZATIONAL_UNIT_NAME": unit,
        "COMMON_NAME": COMPANY,
    }
    return name(**dict(reversed(parts.items())) if turned else parts)


def usage(**on: bool) -> x509.KeyUsage:
    kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{kind: on.get(kind, False) for kind in kinds})


@attrs.frozen
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any


def issue(
    subject: x509.Name,
    issuer: Holder | None = None,
    *,
    issuer_name: x509.Name | None = None,
    authority: bool = False,
    path_length: int | None = None,
    on: dict[str, bool] | None = None,
    key: Any = None,
    begin: datetime.datetime = NOW - 300 * DAY,
    end: datetime.datetime = NOW + 300 * DAY,
    digest: hashes.HashAlgorithm | None = None,
) -> Holder:
    key = key or ec.generate_private_key(ec.SECP384R1())
    own = issuer or Holder(None, key)  # type: ignore[arg-type]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name or (issuer.certificate.subject if issuer else subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own.key.public_key()), critical=False)
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    if on:
        builder = builder.add_extension(usage(**on), critical=True)
    return Holder(builder.sign(own.key, digest or hashes.SHA512()), key)


def revocation(
    issuer: Holder,
    revoked: Sequence[Holder] = (),
    *,
    issuer_name: x509.Name | None = None,
    begin: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + DAY,
    key: Any = None,
) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer_name or issuer.certificate.subject)
    builder = builder.last_update(begin).next_update(end)
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(begin).build())
    return builder.sign(key or issuer.key, hashes.SHA512())


def host(signer: Holder, **changed: Any) -> Holder:
    changed.setdefault("key", ec.generate_private_key(ec.SECP521R1()))
    return issue(name(COMMON_NAME=COMPANY, ORGANIZATIONAL_UNIT_NAME="host 02-8561"), signer, **changed)


@attrs.define
class World:
    """Root, one certificate between, signing key, one host; any of them replaced before `trust` is asked."""

    root: Holder
    between: Holder
    signer: Holder
    host: Holder
    lists: list[x509.CertificateRevocationList]

    def trust(self) -> Trust:
        return Trust(
            root=self.root.certificate,
            certificates=(self.between.certificate, self.signer.certificate),
            lists=tuple(self.lists),
        )


def world(signer_changed: dict[str, Any] | None = None, between_changed: dict[str, Any] | None = None) -> World:
    root = issue(name(COMMON_NAME="Test Root"), authority=True, on=CA_USAGE)
    given = {"authority": True, "on": CA_USAGE, **(between_changed or {})}
    between = issue(name(COMMON_NAME="Test Between"), root, **given)
    changed = {"subject": signer_name(), "on": {"digital_signature": True}, **(signer_changed or {})}
    signer = issue(changed.pop("subject"), between, **changed)
    return World(root, between, signer, host(signer), [revocation(root), revocation(between), revocation(signer)])


def write(world: World, folder: Path) -> dict[str, Path]:
    """Files: host key document (DER), chain (PEM, both in one), root, revocation lists (PEM and DER)."""
    folder.mkdir(parents=True, exist_ok=True)
    chain = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (world.between, world.signer))
    content = {
        "host.crt": world.host.certificate.public_bytes(Encoding.DER),
        "chain.pem": chain,
        "root.pem": world.root.certificate.public_bytes(Encoding.PEM),
        "one.crl": b"".join(one.public_bytes(Encoding.PEM) for one in world.lists[:2]),
        "two.crl": world.lists[2].public_bytes(Encoding.DER),
    }
    for file, data in content.items():
        (folder / file).write_bytes(data)
    return {file.partition(".")[0]: folder / file for file in content}
