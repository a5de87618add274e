"""`twistd peerpodconfig-ctrl`: flags and wiring."""

from __future__ import annotations

from twisted.application.service import IService

from peerpods.cli.services.common import Guarded, ServiceOptions, WithHttp, need_asyncio_reactor, options_class
from peerpods.kube.client.settings import KubeSettings
from peerpods.kube.peerpodconfig.settings import PeerPodConfigCtrlSettings

# The check of the cloud's settings makes a provider, which may need it: pyroute2's netlink runs on asyncio.
need_asyncio_reactor("peerpodconfig-ctrl")

Options = options_class(
    "peerpodconfig-ctrl",
    ((PeerPodConfigCtrlSettings, "peerpodconfig-ctrl"), (KubeSettings, "kubernetes")),
)


def makeService(options: ServiceOptions) -> IService:
    """The controller with its HTTP port."""
    from twisted.internet import reactor

    from peerpods.kube.peerpodconfig.service import PeerPodConfigService
    from peerpods.obs import ready, structured
    from peerpods.obs.http import make_http_service

    settings, kube_settings = options.settings
    structured.set_up(settings.log_format, "peerpodconfig-ctrl")

    def make() -> IService:
        http = None
        if settings.http:
            http = make_http_service(reactor, settings.http, lambda: ready.is_ready(["peerpodconfig-ctrl"]))
        return WithHttp(PeerPodConfigService(settings, kube_settings, reactor), http)

    return Guarded("peerpodconfig-ctrl", make, reactor)
