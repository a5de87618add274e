"""`twistd webhook`: flags and wiring."""

from __future__ import annotations

from twisted.application.service import IService

from peerpods.cli.services.common import Guarded, ServiceOptions, WithHttp, options_class
from peerpods.kube.client import KubeSettings
from peerpods.kube.webhook.settings import WebhookSettings

Options = options_class("webhook", ((WebhookSettings, "webhook"), (KubeSettings, "kubernetes")))


def makeService(options: ServiceOptions) -> IService:
    """The webhook with its HTTP port."""
    from twisted.internet import reactor

    from peerpods.kube.webhook.service import READY, WebhookService
    from peerpods.obs import ready, structured
    from peerpods.obs.http import make_http_service

    settings, kube = options.settings
    structured.set_up(settings.log_format, "webhook")

    def make() -> IService:
        http = None
        if settings.http:
            http = make_http_service(reactor, settings.http, lambda: ready.is_ready([READY]))
        return WithHttp(WebhookService(settings, kube, reactor), http)

    return Guarded("webhook", make, reactor)
