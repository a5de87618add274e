"""TLS 1.3 over a socket: a core without I/O, the pump that moves its bytes, and how to connect and listen."""

from peerpods.tls.transport import connect_tls, listen_tls

__all__ = ["connect_tls", "listen_tls"]
