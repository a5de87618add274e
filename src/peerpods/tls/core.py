"""TLS without I/O: ciphertext in, plaintext out, and the other way round, on memory BIOs."""

from __future__ import annotations

import ssl
from typing import cast

PIECE = 65536
"""Bytes moved through a BIO at a time: a BIO's memory grows to the most it ever held and never shrinks."""


class TlsCore:
    """One TLS connection as a pure object. Not thread-safe.

    Feed ciphertext by `feed`, then call `handshake` until it is true, then `read_into`. Whatever you call,
    send `outgoing()` afterwards: a handshake step, an alert or a post-handshake message may wait there.
    """

    __slots__ = ("_closing", "_in", "_object", "_out", "established")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=server_name)
        self.established = False
        self._closing = False

    def feed(self, data: memoryview | bytes) -> None:
        """Take ciphertext from the peer; at most PIECE bytes at a time keeps the memory small."""
        self._in.write(data)

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is complete.

        Raises:
            ssl.SSLError: it failed. `outgoing()` then has the alert for the peer.
        """
        if not self.established:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self.established = True
        return True

    def peer_certificate(self) -> bytes | None:
        """DER of the peer's certificate, after the handshake."""
        return self._object.getpeercert(binary_form=True)

    @property
    def version(self) -> str | None:
        """Protocol version agreed on."""
        return self._object.version()

    def read_into(self, buffer: memoryview) -> tuple[int, bool]:
        """Decrypt into `buffer` until it is full or no whole record is left.

        Returns:
            Bytes written, and whether the peer has closed its side in order (close_notify).

        Raises:
            ssl.SSLError: an alert or a bad record. TLS 1.3: a server that refuses the client's certificate
                shows here first, after the client's handshake.
        """
        read = self._object.read
        got = 0
        room = len(buffer)
        try:
            while got < room:
                count = cast(int, read(room - got, buffer[got:]))
                if not count:
                    return got, True
                got += count
        except ssl.SSLWantReadError:
            return got, False
        except ssl.SSLZeroReturnError:
            return got, True
        return got, False

    def encrypt(self, data: memoryview | bytes) -> bytes:
        """Ciphertext for `data`, with whatever else was waiting to go out."""
        done = self._object.write(data)
        while done < len(data):
            done += self._object.write(data[done:])
        return self._out.read()

    def close(self) -> None:
        """Tell the peer that nothing follows (close_notify, in `outgoing()`). Reading goes on. Idempotent."""
        if self._closing:
            return
        self._closing = True
        try:
            self._object.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError, ssl.SSLZeroReturnError):
            return
        except ssl.SSLError:
            # Data of the peer still unread, or the connection has failed: the notice is out or pointless.
            return

    def outgoing(self) -> bytes:
        """Ciphertext that waits to be sent; empty when none does."""
        return self._out.read() if self._out.pending else b""
