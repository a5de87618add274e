"""`twistd agent`: flags and wiring. Runs in the VM: nothing is imported that the guest does not need."""

from __future__ import annotations

from twisted.application.service import IService

from peerpods.cli.services.common import Guarded, ServiceOptions, options_class
from peerpods.config.settings import AgentSettings

Options = options_class("agent", ((AgentSettings, "agent"),), file=False)


def makeService(options: ServiceOptions) -> IService:
    """The development agent."""
    from twisted.internet import reactor

    from peerpods.agent.service import make_service

    (settings,) = options.settings
    return Guarded("agent", lambda: make_service(settings, reactor), reactor)
