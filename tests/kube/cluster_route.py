"""How the test API server reaches services without a cluster network.

It is told to dial services through an HTTP CONNECT proxy on a Unix socket (an egress selection as large installations
have); the proxy connects to the loopback port that the test said. The server so checks a webhook's certificate against
the service's name, as on a real cluster.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path

Lookup = Callable[[str, int], int | None]
_CHUNK = 65536


class _Handler(socketserver.BaseRequestHandler):
    server: Router
    request: socket.socket

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _CHUNK:
            data = self.request.recv(_CHUNK)
            if not data:
                return
            head += data
        address, _, port = head.split(b" ", 2)[1].decode().rpartition(":")
        local = self.server.lookup(address, int(port))
        if local is None:
            self.request.sendall(b"HTTP/1.1 502 no route to this service\r\n\r\n")
            return
        try:
            target = socket.create_connection(("127.0.0.1", local), timeout=10)
        except OSError:
            self.request.sendall(b"HTTP/1.1 502 nobody listens for this service\r\n\r\n")
            return
        target.settimeout(None)
        self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=_pump, args=(target, self.request), daemon=True)
        back.start()
        _pump(self.request, target)
        back.join()
        target.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for side, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            side.shutdown(how)


class Router(socketserver.ThreadingUnixStreamServer):
    """The proxy on `folder`/egress.sock, with `folder`/egress.json for the API server.

    Args:
        lookup: the loopback port behind a service's address and port, or None.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, lookup: Lookup) -> None:
        self.lookup = lookup
        sock = folder / "egress.sock"
        super().__init__(str(sock), _Handler)
        connection = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(sock)}}}
        self.configuration = folder / "egress.json"
        self.configuration.write_text(
            json.dumps(
                {
                    "apiVersion": "apiserver.k8s.io/v1beta1",
                    "kind": "EgressSelectorConfiguration",
                    "egressSelections": [{"name": "cluster", "connection": connection}],
                }
            )
        )
        threading.Thread(target=self.serve_forever, args=(0.1,), name="test-egress", daemon=True).start()

    def close(self) -> None:
        """Stop; connections that are open end with their peers."""
        self.shutdown()
        self.server_close()
