"""The terminal of a container: crun opens it and sends our end over a unix socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from peerpods.agent.wait import ready
from peerpods.errors import GuestError

FDS_MAX = 1


class ConsoleSocket:
    """Where one run of crun delivers one terminal. Use `path` with `--console-socket`, then `receive`, then `close`."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen(1)

    async def receive(self) -> int:
        """The terminal's descriptor, not blocking, close-on-exec. To be called once crun has succeeded.

        Raises:
            GuestError: when crun sent none.
        """
        await ready(self._reactor, self._listener.fileno())
        connection, _ = self._listener.accept()
        with connection:
            connection.setblocking(False)
            await ready(self._reactor, connection.fileno())
            _, fds, _, _ = socket.recv_fds(connection, 4096, FDS_MAX)
        if not fds:
            raise GuestError("crun opened no terminal for the process")
        os.set_inheritable(fds[0], False)
        os.set_blocking(fds[0], False)
        return fds[0]

    def close(self) -> None:
        """Listen no more and remove the socket."""
        self._listener.close()
        Path(self.path).unlink(missing_ok=True)
