"""What of this process is ready, for /readyz and systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

_ready: set[str] = set()
_listeners: list[Callable[[str], None]] = []


def mark(name: str) -> None:
    """A part is ready. Idempotent. Tells systemd (or whoever gave NOTIFY_SOCKET) READY=1."""
    _ready.add(name)
    notify("READY=1")
    for listener in list(_listeners):
        listener(name)


def unmark(name: str) -> None:
    """A part is ready no more. Idempotent."""
    _ready.discard(name)


def is_ready(names: Iterable[str]) -> bool:
    """Whether all of these parts are ready."""
    return all(name in _ready for name in names)


def notify(state: str) -> None:
    """Send one sd_notify datagram; nothing happens without NOTIFY_SOCKET or when nobody listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return  # the manager is gone or does not read: not ours to mend
