"""Names in certificates of IBM Z, and how they may differ though they mean the same. Pure.

Rules as in s390-tools (`pv::verify::helper`): the signing key's name has six fixed parts; documents and revocation
lists name it with the town of Armonk or of Poughkeepsie, and with the parts in another order.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.oid import NameOID

from peerpods.errors import Refused

COMPANY = "International Business Machines Corporation"
TOWNS = ("Poughkeepsie", "Armonk")
UNIT_END = "Key Signing Service"
_PARTS = 6


def is_signing_name(name: x509.Name) -> bool:
    """Whether a certificate with this subject signs host keys."""
    found = {part.oid: str(part.value) for part in name}
    return (
        len(list(name)) == _PARTS
        and found.get(NameOID.COUNTRY_NAME) == "US"
        and found.get(NameOID.STATE_OR_PROVINCE_NAME) == "New York"
        and found.get(NameOID.LOCALITY_NAME) in TOWNS
        and found.get(NameOID.ORGANIZATION_NAME) == COMPANY
        and found.get(NameOID.COMMON_NAME) == COMPANY
        and found.get(NameOID.ORGANIZATIONAL_UNIT_NAME, "").endswith(UNIT_END)
    )


def same_signer(one: x509.Name, other: x509.Name) -> bool:
    """Whether two names mean the same signing key: equal but for the order of parts and the two towns."""
    return _plain(one) == _plain(other)


def _plain(name: x509.Name) -> list[tuple[str, str]]:
    found = []
    for part in name:
        value = str(part.value)
        town = part.oid == NameOID.LOCALITY_NAME and value in TOWNS
        found.append((part.oid.dotted_string, TOWNS[0] if town else value))
    return sorted(found)


def signing_certificate(certificates: Iterable[x509.Certificate]) -> x509.Certificate:
    """The one that signs host keys.

    Raises:
        Refused: when there is none, or more than one.
    """
    found = [one for one in certificates if is_signing_name(one.subject)]
    if len(found) != 1:
        raise Refused(
            f"{len(found) or 'none'} of the given certificates is named as IBM's host key signing key is",
            remedy="give the one of the machine's generation with --certificate FILE",
        )
    return found[0]
