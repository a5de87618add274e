"""A chain of trust from a signing key to a root that is given, with revocation lists for every link. Pure.

What s390-tools demands of openssl (strict, lists for all certificates, 112 bits, at most two certificates between root
and signing key) is demanded here link by link. There is no way to go without.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from peerpods.errors import Refused

DEPTH = 3  # certificates above the signing key at most, the root included
RSA_BITS, EC_BITS = 2048, 224  # 112 bits of strength
_WEAK_HASHES = ("md5", "sha1")
NameTest = Callable[[x509.Name, x509.Name], bool]
Signed = x509.Certificate | x509.CertificateRevocationList


def name_of(certificate: x509.Certificate) -> str:
    """For messages."""
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"


def check_dates(what: str, now: datetime.datetime, begin: datetime.datetime, end: datetime.datetime | None) -> None:
    """Refused, in words, before `begin`, from `end` on, or when no end is said."""
    if now < begin:
        raise Refused(f"{what} is not valid before {begin:%Y-%m-%d}", remedy="is this machine's clock right?")
    if end is None or now >= end:
        raise Refused(f"{what} expired on {end:%Y-%m-%d}" if end else f"{what} says no end of validity")


def check_strength(certificate: x509.Certificate) -> None:
    """Refused for a key of less than 112 bits of strength."""
    key = certificate.public_key()
    strong = (isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= EC_BITS
    )
    if not strong:
        raise Refused(f"{name_of(certificate)} has a key that is too weak, or of an unknown kind")


def is_signed_by(signed: Signed, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made the signature; names are not compared."""
    algorithm, key = signed.signature_hash_algorithm, issuer.public_key()
    if algorithm is None or algorithm.name in _WEAK_HASHES:
        return False
    data = signed.tbs_certificate_bytes if isinstance(signed, x509.Certificate) else signed.tbs_certlist_bytes
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed.signature, data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            wanted = signed.signature_algorithm_parameters
            if not isinstance(wanted, padding.PSS | padding.PKCS1v15):
                return False
            key.verify(signed.signature, data, wanted, algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def check_key_id(signed: Signed, issuer: x509.Certificate) -> bool:
    """Whether the key identifier that the signed thing names, if any, is the issuer's."""
    try:
        wanted = signed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        has = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return True
    return wanted is None or wanted == has


def usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    """What its key may be used for; None when it does not say."""
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def check_issuer(certificate: x509.Certificate, below: int) -> None:
    """Refused when it may not sign certificates and revocation lists with so many issuers below it."""
    try:
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        authority = limits.ca and (limits.path_length is None or limits.path_length >= below)
    except x509.ExtensionNotFound:
        authority = False
    allowed = usage(certificate)
    if not authority or (allowed is not None and not (allowed.key_cert_sign and allowed.crl_sign)):
        raise Refused(f"{name_of(certificate)} may not sign certificates and revocation lists")


def check_revocation(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    lists: Sequence[x509.CertificateRevocationList],
    now: datetime.datetime,
    same: NameTest,
) -> None:
    """Refused when it is revoked, or when no valid list of its issuer is there to say that it is not."""
    counted, reasons = 0, []
    for one in lists:
        if not same(one.issuer, issuer.subject):
            continue
        begin, end = one.last_update_utc, one.next_update_utc
        if not check_key_id(one, issuer) or not is_signed_by(one, issuer):
            reasons.append("one is not signed by it")
        elif end is None or not begin <= now < end:
            reasons.append("one is not valid now")
        elif one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise Refused(f"{name_of(certificate)} (serial {certificate.serial_number:x}) is revoked by its issuer")
        else:
            counted += 1
    if not counted:
        raise Refused(
            f"no valid revocation list of {name_of(issuer)} is there" + (f": {reasons[0]}" if reasons else ""),
            remedy="give its current list with --crl FILE",
        )


def check_chain(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    root: x509.Certificate,
    lists: Sequence[x509.CertificateRevocationList],
    now: datetime.datetime,
    same: NameTest,
) -> None:
    """Refused unless the leaf leads to the root, every link signed, valid, strong and not revoked.

    Args:
        leaf: the signing certificate.
        between: other certificates, in any order; those that are not needed do not matter.
        root: the one that is trusted.
        lists: revocation lists, of each issuer at least one.
        now: aware of its zone.
        same: whether two names mean the same issuer.
    """
    if root.subject != root.issuer or not is_signed_by(root, root):
        raise Refused(f"the root {name_of(root)} is not signed by itself", remedy="give a root with --root FILE")
    at = leaf
    for below in range(DEPTH):
        check_dates(f"the certificate {name_of(at)}", now, at.not_valid_before_utc, at.not_valid_after_utc)
        check_strength(at)
        issuer = next(
            (one for one in (root, *between) if one.subject == at.issuer and is_signed_by(at, one)),
            None,
        )
        if issuer is None or not check_key_id(at, issuer):
            raise Refused(f"no given certificate has signed {name_of(at)}", remedy="give it with --certificate FILE")
        check_issuer(issuer, below)
        check_revocation(at, issuer, lists, now, same)
        if issuer == root:
            check_dates(f"the root {name_of(root)}", now, root.not_valid_before_utc, root.not_valid_after_utc)
            check_strength(root)
            return
        at = issuer
    raise Refused(f"the chain from {name_of(leaf)} to the root is longer than {DEPTH} certificates")
