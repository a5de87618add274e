"""Asks our own port for a review, as the API server would: ready means that this works."""

from __future__ import annotations

import json
import ssl
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from peerpods.errors import LinkError, LinkFailure, PeerPodError
from peerpods.kube.objects.names import WEBHOOK_PATH
from peerpods.kube.webhook.review import API_VERSION
from peerpods.tls.transport import connect_tls

_UID = "self-test"
_MAX = 1 << 20


def question(runtime_class: str) -> bytes:
    """A review of a small peer pod."""
    pod = {
        "metadata": {"name": _UID},
        "spec": {"runtimeClassName": runtime_class, "containers": [{"name": "c", "image": "none"}]},
    }
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request = {"uid": _UID, "operation": "CREATE", "kind": kind, "object": pod}
    return json.dumps({"kind": "AdmissionReview", "apiVersion": API_VERSION, "request": request}).encode()


class _Ask(Protocol):
    """One request; `done` fires with all that came back."""

    def __init__(self, body: bytes) -> None:
        head = f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"X-Peerpods-Probe: 1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._answer = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """Ask."""
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """A piece of the answer."""
        self._answer += data
        if len(self._answer) > _MAX:
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The answer is complete."""
        if not self.done.called:
            self.done.callback(self._answer)


async def probe(reactor: Any, host: str, port: int, der: bytes, runtime_class: str, timeout: float) -> None:
    """One review through the real port.

    Args:
        host: an IP address.
        der: the certificate that must be shown.

    Raises:
        PeerPodError: it was not answered as it should be.
    """

    def verify(shown: bytes) -> None:
        if shown != der:
            raise LinkError("another certificate than the newest is shown", kind=LinkFailure.WRONG_PEER)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is compared as a whole
    ask = _Ask(question(runtime_class))
    await connect_tls(reactor, host, port, context, "", lambda: ask, timeout, verify)
    timer = reactor.callLater(timeout, _give_up, ask)
    answer = await ask.done
    if timer.active():
        timer.cancel()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise PeerPodError(f"the self-test was answered with {head[:60]!r}")
    try:
        response = json.loads(body)["response"]
    except (ValueError, KeyError, TypeError):
        raise PeerPodError("the self-test's answer is no review") from None
    if response.get("uid") != _UID or not response.get("allowed") or not response.get("patch"):
        raise PeerPodError("the self-test's pod was not admitted and changed")


def _give_up(ask: _Ask) -> None:
    if ask.transport is not None:
        cast(Any, ask.transport).abortConnection()
