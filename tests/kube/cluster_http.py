"""A plain second client for tests: blocking, independent of the one that is tested."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Http:
    """Requests to one server. Each call has a connection of its own, so any thread may call.

    Args:
        host: `https://ADDRESS:PORT`.
        ca_file: what the server's certificate is checked against.
        certificate: a client's certificate and key, instead of a token.
    """

    def __init__(self, host: str, ca_file: Path, certificate: tuple[Path, Path] | None = None) -> None:
        self._host = host
        self._context = ssl.create_default_context(cafile=str(ca_file))
        if certificate:
            self._context.load_cert_chain(*map(str, certificate))

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        return urllib.request.urlopen(request, timeout=timeout, context=self._context)  # https only

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "", token: str = "", timeout: float = 30.0
    ) -> tuple[int, Any]:
        """Status and decoded answer; a text answer (as of /healthz) comes as str.

        A PATCH needs its content type: one of the constants above. A lost connection raises OSError.
        """
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type or "application/json"
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self._host + path, data, headers, method=method)
        try:
            with self._open(request, timeout) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode(errors="replace")

    def stream(self, path: str, token: str = "", timeout: float = 30.0) -> Iterator[Json]:
        """The events of a watch until the server ends it, or nothing came for `timeout` seconds (TimeoutError)."""
        request = urllib.request.Request(self._host + path)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with self._open(request, timeout) as answer:
            for line in answer:
                yield json.loads(line)
