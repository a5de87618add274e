"""Keys of a sandbox: what is in them, what both ends make of them."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from peerpods.errors import ConfigError, LinkError, LinkFailure
from peerpods.pki.contexts import check_server_name, client_context, server_context
from peerpods.pki.issue import SandboxKeys, issue
from peerpods.tls.core import TlsCore

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NAME = "podvm-web-0123abcd"


@pytest.fixture(scope="module")
def keys():
    return issue(NAME, datetime.now(UTC))


def test_what_is_in_the_certificates():
    keys = issue(NAME, NOW)
    for pem, key_pem in ((keys.server_cert, keys.server_key), (keys.client_cert, keys.client_key)):
        cert = x509.load_pem_x509_certificate(pem.encode())
        assert cert.not_valid_before_utc == NOW - timedelta(days=1)
        assert cert.not_valid_after_utc - cert.not_valid_before_utc == timedelta(days=3650)
        assert cert.issuer == cert.subject
        key = serialization.load_pem_private_key(key_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
        assert key_pem.startswith("-----BEGIN PRIVATE KEY-----")
        assert key.public_key() == cert.public_key()
    server = x509.load_pem_x509_certificate(keys.server_cert.encode())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    assert keys.server_ca == keys.server_cert


def test_long_name_is_kept_whole_in_the_alternative_name():
    name = "podvm-" + "x" * 48 + "-0123abcd"
    cert = x509.load_pem_x509_certificate(issue(name, NOW).server_cert.encode())
    check_server_name(cert.public_bytes(serialization.Encoding.DER), name)


def test_keys_stay_out_of_repr_and_survive_json(keys):
    assert "PRIVATE" not in repr(keys)
    assert SandboxKeys.from_json(keys.to_json()) == keys


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"server_name": 1}', "secret"])
def test_broken_json_is_a_clear_error_without_the_text(text):
    with pytest.raises(ValueError, match="sandbox's keys") as caught:
        SandboxKeys.from_json(text)
    assert "secret" not in str(caught.value)


def shake(client, server):
    """Run both cores against each other; returns when neither has anything to say."""
    errors = []
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            try:
                one.handshake()
            except ssl.SSLError as error:
                errors.append(error)
            data = one.outgoing()
            if data:
                other.feed(data)
    return errors


def pair(client_keys, server_keys):
    client = client_context(client_keys.server_ca, client_keys.client_cert, client_keys.client_key)
    server = server_context(server_keys.server_cert, server_keys.server_key, server_keys.client_cert)
    return TlsCore(client, server_side=False, server_name=NAME), TlsCore(server, server_side=True)


def test_mutual_tls_13(keys):
    client, server = pair(keys, keys)
    assert shake(client, server) == []
    assert client.established and server.established
    assert client.version == server.version == "TLSv1.3"
    check_server_name(client.peer_certificate(), NAME)
    server.feed(client.encrypt(b"hello"))
    room = memoryview(bytearray(100))
    assert server.read_into(room) == (5, False)
    assert bytes(room[:5]) == b"hello"


def test_strict_verifier_takes_the_certificates_too(keys):
    client, server = pair(keys, keys)
    context = client_context(keys.server_ca, keys.client_cert, keys.client_key)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    client = TlsCore(context, server_side=False, server_name=NAME)
    assert shake(client, server) == []


def test_foreign_server_fails_at_the_client(keys):
    client, server = pair(keys, issue(NAME, datetime.now(UTC)))
    assert any(isinstance(error, ssl.SSLCertVerificationError) for error in shake(client, server))
    assert not client.established


def test_foreign_client_fails_at_the_server_after_the_clients_handshake(keys):
    other = issue(NAME, datetime.now(UTC))
    mixed = SandboxKeys(
        server_name=NAME,
        server_key=keys.server_key,
        server_cert=keys.server_cert,
        client_key=other.client_key,
        client_cert=other.client_cert,
    )
    client, server = pair(mixed, keys)
    assert shake(client, server)
    assert client.established and not server.established
    with pytest.raises(ssl.SSLError):
        client.read_into(memoryview(bytearray(10)))


def test_tls_12_is_refused(keys):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    server = TlsCore(server_context(keys.server_cert, keys.server_key, keys.client_cert), server_side=True)
    assert shake(TlsCore(old, server_side=False), server)
    assert not server.established


def test_wrong_name_is_the_wrong_peer(keys):
    der = ssl.PEM_cert_to_DER_cert(keys.server_cert)
    with pytest.raises(LinkError) as caught:
        check_server_name(der, "podvm-other-0123abcd")
    assert caught.value.kind is LinkFailure.WRONG_PEER
    with pytest.raises(LinkError):
        check_server_name(b"junk", NAME)
    with pytest.raises(LinkError):
        check_server_name(ssl.PEM_cert_to_DER_cert(keys.client_cert), NAME)


@pytest.mark.parametrize("ca", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_no_client_to_expect_is_an_error(keys, ca):
    with pytest.raises(ConfigError, match="client's certificate"):
        server_context(keys.server_cert, keys.server_key, ca)


def test_key_of_another_pair_is_an_error_without_key_text(keys):
    with pytest.raises(ConfigError, match="do not make a pair") as caught:
        server_context(keys.server_cert, keys.client_key, keys.client_cert)
    assert "PRIVATE" not in str(caught.value)
    with pytest.raises(ConfigError):
        client_context(keys.server_ca, keys.client_cert, "")
