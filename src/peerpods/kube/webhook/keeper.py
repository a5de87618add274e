"""Keeps the self-managed certificates: reads what there is, asks `rotation`, does it. One replica at a time (lease)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import attrs

from peerpods.errors import PeerPodError
from peerpods.kube.client import ApiError, KubeApi, PatchKind
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import MUTATING_WEBHOOKS, SECRETS, Resource
from peerpods.kube.webhook import rotation
from peerpods.kube.webhook.authority import Issued, new_authority, new_certificate
from peerpods.kube.webhook.patch import pointer
from peerpods.kube.webhook.rotation import CaState, CertState, Hook, encode
from peerpods.obs.log import get_logger

_STEPS = 12
"""Decisions in one round: a whole rotation takes fewer."""
_log = get_logger("webhook")


@attrs.frozen(kw_only=True)
class Place:
    """Where things are."""

    namespace: str
    service: str
    configuration: str
    terms: rotation.Terms
    cert_lifetime: timedelta
    ca_lifetime: timedelta


@attrs.frozen(kw_only=True)
class _Seen:
    ca_secret: dict[str, Any] | None
    cert_secret: dict[str, Any] | None
    ca: CaState | None
    cert: CertState | None
    hooks: list[Hook]


class Keeper:
    """Does one round when asked; keeps no state."""

    def __init__(self, kube: KubeApi, place: Place, now: Callable[[], datetime]) -> None:
        self._kube = kube
        self._place = place
        self._now = now

    async def round(self) -> float:
        """Put everything right; the seconds until something falls due.

        Raises:
            PeerPodError: try again later; a Secret of another type must be deleted by a person first.
        """
        for _ in range(_STEPS):
            seen = await self._look()
            actions = rotation.decide(self._now(), seen.ca, seen.cert, seen.hooks, self._place.terms)
            if not actions:
                return rotation.next_look(self._now(), seen.ca, seen.cert, self._place.terms)
            for action in actions:
                try:
                    await self._do(action, seen)
                except ApiError as error:
                    # Somebody was quicker, or the configuration has changed: look again.
                    if not (error.conflict or error.already_exists or error.not_found or error.invalid):
                        raise
                    _log.info("certificate_step_again", action=type(action).__name__, error=error.message)
                    break
        return 1.0

    async def _look(self) -> _Seen:
        place = self._place
        ca = await self._get(SECRETS, names.WEBHOOK_CA_SECRET, place.namespace)
        cert = await self._get(SECRETS, names.WEBHOOK_CERT_SECRET, place.namespace)
        configuration = await self._get(MUTATING_WEBHOOKS, place.configuration)
        return _Seen(
            ca_secret=ca,
            cert_secret=cert,
            ca=rotation.read_ca(ca),
            cert=rotation.read_cert(cert),
            hooks=rotation.our_hooks(configuration, place.service, place.namespace, names.WEBHOOK_PATH),
        )

    async def _get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        try:
            return await self._kube.get(resource, name, namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _do(self, action: rotation.Action, seen: _Seen) -> None:
        now, place, ca = self._now(), self._place, seen.ca
        if isinstance(action, rotation.SetBundle):
            await self._set_bundle(action)
            return
        if isinstance(action, rotation.NewAuthority):
            made = new_authority(now, place.ca_lifetime)
            data = {"ca.crt": made.cert, "ca.key": made.key, "old.crt": action.old_pem}
            await self._write(seen.ca_secret, names.WEBHOOK_CA_SECRET, "Opaque", data)
            _log.info("authority_made", ends=str(now + place.ca_lifetime))
            return
        assert ca is not None
        data = {"ca.crt": ca.ca_pem, "ca.key": ca.key_pem, "old.crt": ca.old_pem}
        if isinstance(action, rotation.NextAuthority):
            made = new_authority(now, place.ca_lifetime)
            data |= {"next.crt": made.cert, "next.key": made.key}
            await self._write(seen.ca_secret, names.WEBHOOK_CA_SECRET, "Opaque", data)
        elif isinstance(action, rotation.Promote):
            data = {"ca.crt": ca.next_pem, "ca.key": ca.next_key, "old.crt": ca.ca_pem}
            await self._write(seen.ca_secret, names.WEBHOOK_CA_SECRET, "Opaque", data)
        elif isinstance(action, rotation.ForgetOld):
            data |= {"old.crt": "", "next.crt": ca.next_pem, "next.key": ca.next_key}
            await self._write(seen.ca_secret, names.WEBHOOK_CA_SECRET, "Opaque", data)
        elif isinstance(action, rotation.NewCertificate):
            issuer = Issued(cert=ca.ca_pem, key=ca.key_pem)
            leaf = new_certificate(issuer, place.terms.names, now, place.cert_lifetime)
            data = {"tls.crt": leaf.cert, "tls.key": leaf.key, "ca.crt": ca.ca_pem}
            await self._write(seen.cert_secret, names.WEBHOOK_CERT_SECRET, "kubernetes.io/tls", data)
            _log.info("certificate_made", why=action.why)
            return
        _log.info("authority_changed", step=type(action).__name__)

    async def _set_bundle(self, action: rotation.SetBundle) -> None:
        hook = action.hook
        where = ("webhooks", hook.index)
        await self._kube.patch(
            MUTATING_WEBHOOKS,
            self._place.configuration,
            [
                # The list may have changed since it was read: another webhook must not get our bundle.
                {"op": "test", "path": pointer(*where, "name"), "value": hook.name},
                {"op": "add", "path": pointer(*where, "clientConfig", "caBundle"), "value": action.bundle},
            ],
            kind=PatchKind.JSON,
        )
        _log.info("ca_bundle_set", webhook=hook.name)

    async def _write(self, old: dict[str, Any] | None, name: str, kind: str, texts: dict[str, str]) -> None:
        data = {key: encode(text) for key, text in texts.items() if text}
        if old is not None and old.get("type") != kind:
            raise PeerPodError(
                f"the Secret {self._place.namespace}/{name} is of type {old.get('type')} and was not made by us",
                remedy="delete it: it is then made anew",
            )
        if old is not None:
            # With the resourceVersion that was read: a change of somebody else meanwhile is a conflict.
            await self._kube.replace(SECRETS, {**old, "data": data}, self._place.namespace)
            return
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": kind,
            "metadata": {
                "name": name,
                "namespace": self._place.namespace,
                "labels": names.labels("webhook", managed_by=names.WEBHOOK),
            },
            "data": data,
        }
        await self._kube.create(SECRETS, body, self._place.namespace)
