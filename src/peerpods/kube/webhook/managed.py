"""Self-managed TLS as a part of the service: every replica follows the Secret, the holder of the lease keeps it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from peerpods.errors import ConfigError
from peerpods.kube.client import Change, Informer, KubeApi, LeaderElection, WorkQueue
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import MUTATING_WEBHOOKS, SECRETS
from peerpods.kube.webhook.keeper import Keeper, Place
from peerpods.kube.webhook.rotation import Terms, decode_data
from peerpods.kube.webhook.settings import WebhookSettings

_KEY = "certificates"


def place_of(settings: WebhookSettings) -> Place:
    """Where the Secrets are and how long certificates live."""
    return Place(
        namespace=settings.namespace,
        service=settings.service_name,
        configuration=settings.configuration_name,
        terms=Terms(names=tuple(settings.dns_names()), overlap=timedelta(seconds=settings.ca_overlap)),
        cert_lifetime=timedelta(seconds=settings.cert_lifetime),
        ca_lifetime=timedelta(seconds=settings.ca_lifetime),
    )


class ManagedCertificates:
    """Tells of each new pair in the Secret; while it leads, keeps Secrets and caBundle right."""

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        settings: WebhookSettings,
        identity: str,
        found: Callable[[str, str], None],
    ) -> None:
        """Args:
        found: as in `files.CertificateFolder`.
        """
        self._found = found
        self._keeper = Keeper(kube, place_of(settings), lambda: datetime.now(UTC))
        self._reactor = reactor
        self._queue: WorkQueue | None = None

        def watch(resource: Any, name: str, namespace: str | None) -> Informer:
            return Informer(
                reactor, kube, resource, namespace=namespace, fields=f"metadata.name={name}", on_change=self._changed
            )

        self._own = watch(SECRETS, names.WEBHOOK_CERT_SECRET, settings.namespace)
        self._others = [
            watch(SECRETS, names.WEBHOOK_CA_SECRET, settings.namespace),
            watch(MUTATING_WEBHOOKS, settings.configuration_name, None),
        ]
        self._election = LeaderElection(
            reactor,
            kube,
            name=names.WEBHOOK_CERT_LEASE,
            namespace=settings.namespace,
            identity=identity,
            on_started=self._lead,
            on_stopped=self._follow,
        )

    def start(self) -> None:
        """Follow the Secret, and seek the lease. What fails is logged by its part and tried again."""
        for informer in (self._own, *self._others):
            informer.start()
        self._election.start()

    async def stop(self) -> None:
        """Release the lease and end the watches."""
        await self._election.stop()
        for informer in (self._own, *self._others):
            informer.stop()

    def _changed(self, change: Change) -> None:
        if self._queue is not None:
            self._queue.add(_KEY)
        secret = change.new
        if secret is None or secret.get("kind") != "Secret" or change.key.split("/")[-1] != names.WEBHOOK_CERT_SECRET:
            return
        data = decode_data(secret)
        try:
            self._found(data.get("tls.crt", ""), data.get("tls.key", ""))
        except ConfigError:
            return  # already said; the last good pair stays in use, and the lease's holder makes a new one

    def _lead(self) -> None:
        self._queue = WorkQueue(self._reactor, self._work, workers=1, cap=30.0, name="webhook-certificates")
        self._queue.start()
        self._queue.add(_KEY)

    async def _follow(self) -> None:
        queue, self._queue = self._queue, None
        if queue is not None:
            await queue.stop(grace=3.0)  # less than the lease holds after it was renewed no more

    async def _work(self, key: str) -> float:
        return await self._keeper.round()
