"""cert-manager's objects for the webhook's certificate. Pure."""

from __future__ import annotations

from typing import Any

from peerpods.kube.objects import names
from peerpods.kube.objects.resources import Resource
from peerpods.kube.peerpodconfig.render.parts import metadata
from peerpods.kube.peerpodconfig.spec import Config

CERT_MANAGER = "cert-manager.io"
ISSUERS = Resource(CERT_MANAGER, "v1", "issuers", "Issuer")
CERTIFICATES = Resource(CERT_MANAGER, "v1", "certificates", "Certificate")


def certificates(config: Config) -> list[dict[str, Any]]:
    """An Issuer, unless the configuration names one, and the Certificate; nothing without cert-manager."""
    chosen = config.webhook.cert_manager
    if chosen is None:
        return []
    issuer = dict(chosen.get("issuerRef") or {})
    made: list[dict[str, Any]] = []
    if not issuer:
        issuer = {"name": names.WEBHOOK, "kind": "Issuer", "group": CERT_MANAGER}
        made.append(
            {
                "apiVersion": ISSUERS.api_version,
                "kind": "Issuer",
                "metadata": metadata(config, names.WEBHOOK, "webhook"),
                "spec": {"selfSigned": {}},
            }
        )
    host = f"{names.WEBHOOK}.{config.namespace}.svc"
    made.append(
        {
            "apiVersion": CERTIFICATES.api_version,
            "kind": "Certificate",
            "metadata": metadata(config, names.WEBHOOK, "webhook"),
            "spec": {
                "secretName": names.WEBHOOK_CERT_SECRET,
                "dnsNames": [host, f"{host}.cluster.local"],
                "issuerRef": issuer,
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            },
        }
    )
    return made
