"""The webhook as a service: certificates, the HTTPS port, the self-test that decides whether it is ready."""

from __future__ import annotations

import secrets
import socket
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from peerpods.errors import ConfigError, LocalFailure, PeerPodError
from peerpods.kube.client import Kube, KubeSettings, connect
from peerpods.kube.webhook import meters
from peerpods.kube.webhook.files import CertificateFolder
from peerpods.kube.webhook.managed import ManagedCertificates
from peerpods.kube.webhook.pair import LiveContext, read_pair
from peerpods.kube.webhook.probe import probe
from peerpods.kube.webhook.server import MAX_CONNECTIONS, ReviewFactory
from peerpods.kube.webhook.settings import WebhookSettings
from peerpods.kube.webhook.tlsrules import tls_rules
from peerpods.obs import ready
from peerpods.obs.log import get_logger
from peerpods.tls.transport import listen_tls

READY = "webhook"
HANDSHAKE = 10.0
PROBE_EVERY = 10.0
PROBE_TIMEOUT = 4.0
PROBE_FAILURES = 2
"""Self-tests in a row that must fail before a ready webhook is so no more."""
STOP_WITHIN = 5.0
_log = get_logger("webhook")


class _Source(Protocol):
    def start(self) -> None: ...

    def stop(self) -> Any: ...


class WebhookService(Service):
    """Listens from its start on; ready when it has a certificate and answers itself through the port."""

    def __init__(self, settings: WebhookSettings, kube_settings: KubeSettings, reactor: Any) -> None:
        """Raises:
        ConfigError: settings that contradict each other.
        """
        settings.check()
        self._settings = settings
        self._kube_settings = kube_settings
        self._reactor = reactor
        self._policy = settings.policy()
        self._context = LiveContext(tls_rules(settings.tls_min_version, settings.tls_cipher_suites))
        self._factory = ReviewFactory(reactor, self._policy)
        self.port: IListeningPort | None = None
        self._source: _Source | None = None
        self._kube: Kube | None = None
        self._timer: Any = None
        self._probing: Deferred[None] | None = None
        self._failures = 0

    def startService(self) -> Deferred[None]:
        """Listen, then look for a certificate."""
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        settings = self._settings
        host, _, port = settings.listen.rpartition(":")
        try:
            self.port = listen_tls(
                self._reactor,
                host.strip("[]"),
                int(port),
                self._context,  # type: ignore[arg-type]
                self._factory,
                max_connections=2 * MAX_CONNECTIONS,  # the factory itself drops the quietest before
                handshake_timeout=HANDSHAKE,
            )
        except OSError as error:
            raise LocalFailure(
                f"cannot listen on {settings.listen}: {error.strerror}",
                remedy="another process has this port: choose one with --listen",
            ) from None
        _log.info(
            "listening",
            address=settings.listen,
            port=cast(Any, self.port.getHost()).port,
            classes=dict(self._policy.classes),
        )
        if settings.self_managed_tls:
            self._kube = await connect(self._reactor, self._kube_settings, component="webhook")
            identity = f"{settings.identity or socket.gethostname()}_{secrets.token_hex(4)}"
            self._source = ManagedCertificates(self._reactor, self._kube, settings, identity, self._found)
        else:
            self._source = CertificateFolder(self._reactor, settings.cert_dir, settings.cert_poll, self._found)
        self._source.start()

    def _found(self, cert: str, key: str) -> None:
        """A pair has appeared. A broken one raises ConfigError; the last good one stays in use."""
        current = self._context.pair
        if current is not None and (current.cert, current.key) == (cert, key):
            return
        try:
            pair = read_pair(cert, key, self._context.rules)
            self._context.use(pair)
        except ConfigError as error:
            meters.CERTIFICATE_LOADS.labels("broken").inc()
            kept = "the one before stays in use" if current else "there is none to serve with"
            _log.error("certificate_broken", error=str(error), kept=kept)
            raise
        meters.CERTIFICATE_LOADS.labels("ok").inc()
        meters.CERTIFICATE_EXPIRY.set(pair.not_after.timestamp())
        _log.info("certificate_loaded", ends=pair.not_after.isoformat())
        if pair.not_after <= datetime.now(UTC):
            _log.error("certificate_ended", ended=pair.not_after.isoformat())
        self._probe_soon(0.0)

    def _probe_soon(self, delay: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self.running and not self._factory.draining:
            self._timer = self._reactor.callLater(delay, self._probe)

    def _probe(self) -> None:
        if self._probing is None:
            self._probing = Deferred.fromCoroutine(self._test())
            self._probing.addBoth(self._tested)

    async def _test(self) -> None:
        pair, port = self._context.pair, self.port
        assert pair is not None
        assert port is not None
        if pair.not_after <= datetime.now(UTC):
            raise PeerPodError(f"the certificate ended {pair.not_after.isoformat()}", remedy="see who should renew it")
        address: Any = port.getHost()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        await probe(self._reactor, host, address.port, pair.der, next(iter(self._policy.classes)), PROBE_TIMEOUT)

    def _tested(self, result: Any) -> None:
        self._probing = None
        failed = getattr(result, "value", None) if result is not None else None
        if self._factory.draining:
            return
        if failed is None:
            self._failures = 0
            if not ready.is_ready([READY]):
                _log.info("ready")
            ready.mark(READY)
        else:
            self._failures += 1
            _log.warning("self_test_failed", error=str(failed), times=self._failures)
            if self._failures >= PROBE_FAILURES:
                ready.unmark(READY)
        self._probe_soon(PROBE_EVERY if failed is None else 1.0)

    def stopService(self) -> Deferred[None]:
        """Say not ready, answer for a moment more, end what is idle, let the rest finish; at most 5 s."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        served = ready.is_ready([READY]) or bool(self._factory.channels)
        ready.unmark(READY)
        self._factory.drain()
        # Meanwhile: the lease is released at once, so that another replica need not wait for its end.
        source = maybeDeferred(self._source.stop) if self._source is not None else None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        began = self._reactor.seconds()
        if served:
            moment: Deferred[None] = Deferred()
            self._reactor.callLater(self._settings.drain, moment.callback, None)
            await moment
        if self.port is not None:
            await maybeDeferred(self.port.stopListening)
        await self._factory.close(max(0.5, STOP_WITHIN - 0.5 - (self._reactor.seconds() - began)))
        if source is not None:
            await source
        if self._kube is not None:
            await self._kube.close()
