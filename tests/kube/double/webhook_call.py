"""The double's calls of admission webhooks over HTTPS: blocking ones, in threads of their own."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, */*",
    "User-Agent": "kube-apiserver-admission",
}
THREADS = 16


class Caller:
    """Asks webhooks.

    Attributes:
        services: URLs of webhooks that a configuration names as a service: (namespace, name) -> "https://127.0.0.1:PORT".
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
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
        return await deferToThreadPool(self._reactor, self._pool, _thd_post, *arguments)

    async def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.stop()
            self._pool = None


def _thd_post(url: str, body: bytes, bundle: str | None, seconds: float) -> tuple[int, bytes]:
    try:
        context = ssl.create_default_context(cadata=base64.b64decode(bundle or "").decode() or None)
    except (ssl.SSLError, ValueError) as error:
        raise OSError(f"caBundle: {error}") from error
    request = urllib.request.Request(url, body, HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=seconds, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except urllib.error.URLError as error:
        raise OSError(f'Post "{url}": {error.reason}') from error
