"""Certificates per sandbox, and the TLS contexts of both ends."""
