"""`twistd peerpod-ctrl`: flags and wiring."""

from __future__ import annotations

import os

from twisted.application.service import IService

from peerpods.cli.services.common import Guarded, ServiceOptions, WithHttp, need_asyncio_reactor, options_class
from peerpods.clouds import registry
from peerpods.kube.client.settings import KubeSettings
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings

# Providers may need it: pyroute2's netlink runs on asyncio.
need_asyncio_reactor("peerpod-ctrl")


def Options() -> ServiceOptions:
    """Flags of the controller. Providers take their settings from tables [provider.NAME], environment and files."""
    cls = options_class("peerpod-ctrl", ((PeerPodCtrlSettings, "peerpod-ctrl"), (KubeSettings, "kubernetes")))
    cls.providers = tuple(registry.names())
    return cls()


def makeService(options: ServiceOptions) -> IService:
    """The controller with its HTTP port."""
    from twisted.internet import reactor

    from peerpods.kube.peerpod.configuration import Configuration, Exports
    from peerpods.kube.peerpod.providers import Providers
    from peerpods.kube.peerpod.service import READY, make_service
    from peerpods.obs import ready, structured
    from peerpods.obs.http import make_http_service

    settings, kube = options.settings
    structured.set_up(settings.log_format, "peerpod-ctrl")

    def make() -> IService:
        configuration = Configuration(
            path=options["config"] or "", folder=settings.provider_dir, environ=dict(os.environ)
        )
        exports = Exports(os.environ)
        providers = Providers(reactor, configuration, at_once=settings.cloud_calls, exports=exports)
        http = None
        if settings.http:
            http = make_http_service(reactor, settings.http, lambda: ready.is_ready([READY]))
        return WithHttp(make_service(settings, kube, providers, reactor), http)

    return Guarded("peerpod-ctrl", make, reactor)
