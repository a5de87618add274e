"""A scripted webhook on loopback for the suite, served by threads of its own: HTTPS, one answer for each path."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Answer, Api, Json
from tests.kube.conformance.gadgets import config_map

Script = Callable[[Json], Any]
"""From a request to the AdmissionReview, or to (HTTP status, body) for what is none."""
PROBE = "probe"
RULE: Json = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods", "configmaps"]}


@attrs.frozen
class Call:
    """One call of the webhook; `peer` is the port that it came from."""

    path: str
    line: str
    headers: dict[str, str]
    body: Json
    peer: int

    @property
    def request(self) -> Json:
        """Of the review."""
        found: Json = self.body["request"]
        return found


def review(request: Json, *, allowed: bool = True, **more: Any) -> Json:
    """An answer as it should be."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": request["uid"], "allowed": allowed, **more},
    }


def encoded(patch: Any) -> Json:
    """The two fields of a patch."""
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}


def patching(*operations: Json) -> Script:
    """Allows with a patch."""
    return lambda request: review(request, **encoded(operations))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hook: Hook

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not trust us, is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        # the handshake here, in a thread of its own, not where connections are accepted
        self.request = self.server.hook.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_POST(self) -> None:
        """The one method of webhooks; the name is http.server's."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        hook = self.server.hook
        hook.calls.append(Call(path, self.requestline, headers, body, self.client_address[1]))
        answer = hook.scripts.get(path, review)(body["request"])
        code, raw = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """No."""


class Hook:
    """The webhook.

    Args:
        pair: certificate and key.
        ca_file: who signed it.

    Attributes:
        scripts: what each path answers; the others allow.
        calls: all calls, probes too.
    """

    def __init__(self, pair: tuple[Path, Path], ca_file: Path, host: str = "127.0.0.1") -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        self.bundle = base64.b64encode(ca_file.read_bytes()).decode()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hook = self
        self.url = f"https://{host}:{self._server.server_address[1]}"
        self.scripts: dict[str, Script] = {}
        self.calls: list[Call] = []
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """No more."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def order(self) -> list[str]:
        """The paths that were called, but for probes."""
        return [call.path for call in self.calls if call.request.get("name") != PROBE]

    @property
    def last(self) -> Call:
        """The last call that was no probe."""
        return next(call for call in reversed(self.calls) if call.request.get("name") != PROBE)


class Installed:
    """Webhook configurations of one test, for its namespace only."""

    def __init__(self, api: Api, hook: Hook) -> None:
        self.api = api
        self.hook = hook
        self.names: list[str] = []

    def entry(self, path: str, **more: Any) -> Json:
        """One webhook of a configuration."""
        return {
            "name": f"{path.strip('/')}.peerpods.example",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": {"url": self.hook.url + path, "caBundle": self.hook.bundle},
            "rules": [RULE],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.api.namespace}},
            **more,
        }

    async def create(self, *webhooks: Json) -> Answer:
        """The configuration alone; its name is later in the alphabet than those before."""
        name = self.api.unique(f"hook{len(self.names)}")
        answer = await self.api.create(r.MUTATING_WEBHOOKS, {"metadata": {"name": name}, "webhooks": list(webhooks)})
        if answer.code == 201:
            self.names.append(name)
        return answer

    async def serve(self, path: str, script: Script | None = None, **more: Any) -> str:
        """A configuration that the server knows of: it has asked the webhook. Gives its name."""
        answer = await self.create(self.entry(path, **more))
        assert answer.code == 201, answer.body

        async def asked() -> bool:
            await self.api.create(r.CONFIG_MAPS, config_map(PROBE), dryRun="All")
            return any(call.path == path for call in self.hook.calls)

        await self.api.until(asked)
        self.hook.calls.clear()
        if script:
            self.hook.scripts[path] = script
        return self.names[-1]

    async def ignore(self, name: str) -> None:
        """Set the failure policy to Ignore."""
        change = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]
        answer = await self.api.patch(r.MUTATING_WEBHOOKS, name, change, "json")
        assert answer.code == 200, answer.body

    def thd_remove(self) -> None:
        """Remove all: blocks."""
        for name in self.names:
            self.api.thd_call("DELETE", r.MUTATING_WEBHOOKS.path(None, name))


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
