"""TLS_MIN_VERSION and TLS_CIPHER_SUITES: the thirteen cases of the existing system, and real handshakes."""

import ssl

import pytest

from peerpods.errors import ConfigError
from peerpods.kube.webhook.tlsrules import _SUITES, TlsRules, tls_rules

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
GCM = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
GCM_ECDSA = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"

GOOD = [
    ("nothing set", "", "", TlsRules()),
    ("1.2", "VersionTLS12", "", TlsRules(V12)),
    ("1.3", "VersionTLS13", "", TlsRules(V13)),
    ("suites", "VersionTLS12", f"{GCM},{GCM_ECDSA}",
     TlsRules(V12, "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384")),
    ("suites without a version", "", GCM, TlsRules(V12, "ECDHE-RSA-AES128-GCM-SHA256")),
    ("blanks around names", "VersionTLS12", f"  {GCM} ,\t{GCM_ECDSA} ",
     TlsRules(V12, "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384")),
    ("empty entries", "", f",,{GCM}, ,", TlsRules(V12, "ECDHE-RSA-AES128-GCM-SHA256")),
    ("blanks around the version", "  VersionTLS13 ", "", TlsRules(V13)),
]  # fmt: skip
BAD = [
    ("1.0", "VersionTLS10", "", "too old"),
    ("1.1", "VersionTLS11", "", "too old"),
    ("unknown version", "VersionTLS99", "", "unknown"),
    ("unknown suite", "", "TLS_NO_SUCH_SUITE", "TLS_NO_SUCH_SUITE"),
    ("suites with 1.3", "VersionTLS13", GCM, "must be empty"),
    ("too weak", "", "TLS_RSA_WITH_RC4_128_SHA", "too weak"),
    ("another spelling", "TLSv1.2", "", "VersionTLS12"),
]


@pytest.mark.parametrize(("name", "version", "suites", "expected"), GOOD)
def test_taken(name, version, suites, expected):
    assert tls_rules(version, suites) == expected


@pytest.mark.parametrize(("name", "version", "suites", "words"), BAD)
def test_refused(name, version, suites, words):
    with pytest.raises(ConfigError) as caught:
        tls_rules(version, suites)
    assert words in str(caught.value)


def test_suites_of_13_are_always_on():
    assert tls_rules("", "TLS_AES_128_GCM_SHA256") == TlsRules()


@pytest.mark.parametrize("name", _SUITES)
def test_openssl_knows_each(name):
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(tls_rules("", name).ciphers)
