"""The certificate and key the webhook shows: read, checked, exchanged while it runs."""

from __future__ import annotations

import os
import ssl
from datetime import datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from peerpods.errors import ConfigError
from peerpods.kube.webhook.tlsrules import TlsRules


@attrs.frozen(kw_only=True)
class Pair:
    """A serving certificate (with its chain) and its key, PEM."""

    cert: str
    key: str = attrs.field(repr=False)
    not_before: datetime
    not_after: datetime
    der: bytes = attrs.field(repr=False)
    """The certificate itself, as a client sees it."""


def read_pair(cert: str, key: str, rules: TlsRules) -> Pair:
    """Check that they are a pair that TLS takes.

    Raises:
        ConfigError: in words, without the key.
    """
    try:
        leaf = x509.load_pem_x509_certificates(cert.encode())[0]
    except (ValueError, IndexError):
        raise ConfigError("tls.crt is no PEM certificate") from None
    make_context(cert, key, rules)
    return Pair(
        cert=cert,
        key=key,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        der=leaf.public_bytes(Encoding.DER),
    )


def make_context(cert: str, key: str, rules: TlsRules) -> ssl.SSLContext:
    """A server's context.

    Raises:
        ConfigError: the two are no pair, or no cipher is left.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = rules.minimum
    # No HTTP/2: a client that offers both is told HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    try:
        if rules.ciphers:
            context.set_ciphers(rules.ciphers)
    except ssl.SSLError:
        raise ConfigError("this OpenSSL has none of the ciphers of tls-cipher-suites") from None
    fd = os.memfd_create("peerpods-webhook", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(f"{cert.strip()}\n{key.strip()}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(f"tls.crt and tls.key do not make a pair: {reason}") from None
    finally:
        os.close(fd)
    return context


def _no_password() -> bytes:
    """An encrypted key must fail, not prompt on the terminal."""
    return b""


class LiveContext:
    """In place of an `ssl.SSLContext`: each new connection gets the pair in force, older ones go on with theirs."""

    def __init__(self, rules: TlsRules) -> None:
        self.rules = rules
        self.pair: Pair | None = None
        self._context: ssl.SSLContext | None = None

    def use(self, pair: Pair) -> None:
        """Show this pair from the next handshake on."""
        self._context = make_context(pair.cert, pair.key, self.rules)
        self.pair = pair

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool, server_hostname: str | None
    ) -> ssl.SSLObject:
        """As `SSLContext.wrap_bio`. Without a pair the handshake fails with an alert."""
        context = self._context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        return context.wrap_bio(incoming, outgoing, server_side, server_hostname)
