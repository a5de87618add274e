"""`twistd forwarder`: flags and wiring. Runs in the VM: nothing is imported that the guest does not need."""

from __future__ import annotations

from twisted.application.service import IService

from peerpods.cli.services.common import Guarded, ServiceOptions, options_class
from peerpods.config.settings import ForwarderSettings

Options = options_class("forwarder", ((ForwarderSettings, "forwarder"),), file=False)


def makeService(options: ServiceOptions) -> IService:
    """The forwarder."""
    from twisted.internet import reactor

    from peerpods.forwarder.service import make_service

    (settings,) = options.settings
    return Guarded("forwarder", lambda: make_service(settings, reactor), reactor)
