"""`twistd relay`: flags and wiring."""

from __future__ import annotations

from twisted.application.service import IService

from peerpods.cli.services.common import Guarded, ServiceOptions, WithHttp, options_class
from peerpods.config.settings import RelaySettings

Options = options_class("relay", ((RelaySettings, "relay"),))


def makeService(options: ServiceOptions) -> IService:
    """The relay with its HTTP port."""
    from twisted.internet import reactor

    from peerpods.obs import ready, structured
    from peerpods.obs.http import make_http_service
    from peerpods.relay.service import make_service

    (settings,) = options.settings
    structured.set_up(settings.log_format, "relay")

    def make() -> IService:
        http = None
        if settings.http:
            http = make_http_service(reactor, settings.http, lambda: ready.is_ready(["relay"]))
        return WithHttp(make_service(settings, reactor), http)

    return Guarded("relay", make, reactor)
