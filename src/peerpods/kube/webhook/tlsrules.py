"""TLS_MIN_VERSION and TLS_CIPHER_SUITES as Go programs know them, for OpenSSL."""

from __future__ import annotations

import ssl

import attrs

from peerpods.errors import ConfigError

_VERSIONS = {"VersionTLS12": ssl.TLSVersion.TLSv1_2, "VersionTLS13": ssl.TLSVersion.TLSv1_3}
_TOO_OLD = ("VersionTLS10", "VersionTLS11")
_TLS13 = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Always on, as in Go: they cannot be chosen."""
_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
"""Go's names (crypto/tls; those with RC4 and 3DES are in no OpenSSL we run on) to OpenSSL's."""


@attrs.frozen
class TlsRules:
    """What the port agrees to."""

    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    ciphers: str = ""
    """For OpenSSL; empty: its default."""


def tls_rules(version: str, suites: str) -> TlsRules:
    """Read both settings; blanks around names and empty names in the list do not count.

    Raises:
        ConfigError: an unknown or too old version, an unknown suite, or suites beside TLS 1.3.
    """
    version = version.strip()
    names = [name for raw in suites.split(",") if (name := raw.strip())]
    if version in _TOO_OLD:
        raise ConfigError(
            f"tls-min-version {version} is too old",
            setting="tls-min-version",
            remedy="use VersionTLS12 or VersionTLS13",
        )
    if version and version not in _VERSIONS:
        raise ConfigError(
            f"tls-min-version {version[:40]!r} is unknown",
            setting="tls-min-version",
            remedy="use VersionTLS12 or VersionTLS13",
        )
    minimum = _VERSIONS.get(version, ssl.TLSVersion.TLSv1_2)
    if names and minimum is ssl.TLSVersion.TLSv1_3:
        raise ConfigError(
            "tls-cipher-suites must be empty with VersionTLS13",
            setting="tls-cipher-suites",
            remedy="the suites of TLS 1.3 cannot be chosen",
        )
    unknown = [name for name in names if name not in _SUITES and name not in _TLS13]
    if unknown:
        raise ConfigError(
            f"tls-cipher-suites: {', '.join(unknown)[:120]} unknown, or too weak for this OpenSSL",
            setting="tls-cipher-suites",
            remedy="use the IANA names of suites with ECDHE and GCM or CHACHA20",
        )
    return TlsRules(minimum, ":".join(dict.fromkeys(_SUITES[name] for name in names if name in _SUITES)))
