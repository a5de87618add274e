"""The double's calls of admission webhooks over HTTPS: blocking ones, in threads of their own; connections are kept."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, */*",
    "Accept-Encoding": "gzip",
    "User-Agent": "kube-apiserver-admission",
}
THREADS = 16
Place = tuple[str, int, str]
"""(host, port, caBundle)"""


class Caller:
    """Asks webhooks.

    Attributes:
        services: URLs of webhooks that a configuration names as a service: (namespace, name) -> "https://127.0.0.1:PORT".
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._idle: dict[Place, list[http.client.HTTPSConnection]] = {}
        self.services: dict[tuple[str, str], str] = {}

    def _url(self, client: dict[str, Any]) -> str:
        if "url" in client:
            return str(client["url"])
        service = client["service"]
        base = self.services.get((service["namespace"], service["name"]))
        if base is None:
            raise OSError(f"service {service['name']!r} not found")
        return base + service.get("path", "/")

    async def ask(self, hook: dict[str, Any], review: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError: there was none: refused, wrong certificate, or too late.
        """
        client, seconds = hook["clientConfig"], hook.get("timeoutSeconds", 10)
        url = self._url(client)
        sign = "&" if urlsplit(url).query else "?"
        if self._pool is None:
            self._pool = ThreadPool(0, THREADS, "double-webhooks")
            self._pool.start()
        arguments = f"{url}{sign}timeout={seconds}s", json.dumps(review).encode(), client.get("caBundle"), seconds
        return await deferToThreadPool(self._reactor, self._pool, self._thd_post, *arguments)

    async def close(self) -> None:
        """End the threads and connections."""
        if self._pool is not None:
            self._pool.stop()
            self._pool = None
        for waiting in self._idle.values():
            for each in waiting:
                each.close()
        self._idle.clear()

    def _thd_post(self, url: str, body: bytes, bundle: str | None, seconds: float) -> tuple[int, bytes]:
        parts = urlsplit(url)
        place = parts.hostname or "", parts.port or 443, bundle or ""
        target = f"{parts.path or '/'}?{parts.query}"
        idle = self._idle.setdefault(place, [])
        try:
            while idle:
                connection = idle.pop()
                try:
                    return self._thd_ask(place, connection, target, body, seconds)
                except (ConnectionError, http.client.BadStatusLine):
                    continue  # it was closed while it waited
            connection = http.client.HTTPSConnection(*place[:2], timeout=seconds, context=_context(bundle))
            return self._thd_ask(place, connection, target, body, seconds)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f'Post "{url}": {error}') from error

    def _thd_ask(
        self, place: Place, connection: http.client.HTTPSConnection, target: str, body: bytes, seconds: float
    ) -> tuple[int, bytes]:
        if connection.sock:
            connection.sock.settimeout(seconds)
        try:
            connection.request("POST", target, body, HEADERS)
            answer = connection.getresponse()
            raw = answer.read()
        except BaseException:
            connection.close()
            raise
        self._idle.setdefault(place, []).append(connection)
        return answer.status, gzip.decompress(raw) if answer.getheader("content-encoding") == "gzip" else raw


def _context(bundle: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=base64.b64decode(bundle or "").decode() or None)
    except (ssl.SSLError, ValueError) as error:
        raise OSError(f"caBundle: {error}") from error
