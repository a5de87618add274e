"""TLS contexts of both ends of a link: TLS 1.3 only, certificates on both sides, key material in memory only.

Stdlib alone at import time: the VM has no `cryptography`.
"""

from __future__ import annotations

import os
import ssl

from peerpods.errors import ConfigError, LinkError, LinkFailure


def server_context(server_cert: str, server_key: str, client_ca: str) -> ssl.SSLContext:
    """Context of the VM's end: shows `server_cert` and takes only a client that `client_ca` vouches for.

    Args:
        server_cert: PEM.
        server_key: PEM, unencrypted.
        client_ca: PEM of the certificates to expect; must hold at least one.

    Raises:
        ConfigError: when a text is not what it should be. A missing client certificate is never "any client".
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # No resumption: a link is one connection, and each ticket would be work and memory at both ends.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _prepare(context, server_cert, server_key, client_ca, "the client's certificate (tls-client-ca)")
    return context


def client_context(server_ca: str, client_cert: str, client_key: str) -> ssl.SSLContext:
    """Context of the node's end. The name is checked after the handshake by `check_server_name`.

    Raises:
        ConfigError: as in `server_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    _prepare(context, client_cert, client_key, server_ca, "the server's certificate (server_ca)")
    return context


def check_server_name(der: bytes, name: str) -> None:
    """Check that a certificate was made for `name`, by service_identity. Node only.

    Args:
        der: the peer's certificate.
        name: DNS name expected in its subject alternative names.

    Raises:
        LinkError: kind WRONG_PEER.
    """
    from cryptography import x509
    from service_identity import CertificateError, VerificationError
    from service_identity.cryptography import verify_certificate_hostname

    try:
        verify_certificate_hostname(x509.load_der_x509_certificate(der), name)
    except (VerificationError, CertificateError, ValueError) as error:
        raise LinkError(
            f"the peer's certificate is not for {name}: {type(error).__name__}", kind=LinkFailure.WRONG_PEER
        ) from None


def _prepare(context: ssl.SSLContext, cert: str, key: str, ca: str, what: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The suites of older versions are never used, and 60 of them take 1 KiB of each sandbox's context.
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    # The pinned certificate may be a leaf that another project's authority signed.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError, TypeError):
        raise ConfigError(f"{what} is not a PEM certificate") from None
    if context.cert_store_stats()["x509"] == 0:
        raise ConfigError(f"{what} is missing", remedy="without one nobody could be told from a stranger")
    # load_cert_chain wants a path; a memfd has one and never touches a disk.
    fd = os.memfd_create("peerpods-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(f"{cert.strip()}\n{key.strip()}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(f"the certificate and the key do not make a pair: {reason}") from None
    finally:
        os.close(fd)


def _no_password() -> bytes:
    """An encrypted key must fail, not prompt on the terminal."""
    return b""
