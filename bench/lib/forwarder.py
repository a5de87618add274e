"""The forwarder without a pod network. `forwarder.py APF_JSON LISTEN AGENT_SOCKET [REACTOR] [--many]`.

With --many it takes any number of links, each to its own agent connection: one process stands for all VMs.
"""

import sys

if "asyncio" in sys.argv:
    from twisted.internet import asyncioreactor

    asyncioreactor.install()
from twisted.internet import reactor

from peerpods.config.settings import ForwarderSettings
from peerpods.forwarder import service


def main():
    if "--many" in sys.argv:
        service.MAX_CONNECTIONS = 100_000
    settings = ForwarderSettings(config=sys.argv[1], listen=sys.argv[2], kata_agent_socket=sys.argv[3])
    forwarder = service.ForwarderService(settings, reactor, build_network=lambda apf, namespace: None)
    reactor.callWhenRunning(forwarder.startService)
    reactor.callWhenRunning(lambda: print("ready", flush=True))
    reactor.run()


if __name__ == "__main__":
    main()
