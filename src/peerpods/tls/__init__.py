"""TLS 1.3 over a socket: a core without I/O, and the pump that moves its bytes."""
