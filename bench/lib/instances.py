"""All VMs of a bench in one process. `instances.py SOCKET`.

On the socket (ttrpc, service bench.Instances): Boot takes an instance's user data and gives the loopback port on
which it now answers over TLS with its own keys; Close ends the one of a port. Every call of an agent is answered at
once with nothing, GetOOMEvent and WaitProcess never.
"""

import sys

from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BytesValue, UInt32Value
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from peerpods.clouds.memory.agent import AgentServices
from peerpods.clouds.memory.guest import Guests
from peerpods.ttrpc import Method, Response, Server, Service
from peerpods.ttrpc.unix import listen_unix


async def answer(_context, request):
    if request.method in ("GetOOMEvent", "WaitProcess"):
        await Deferred()
    return Response(None, b"")


class Instances:
    """The service."""

    def __init__(self):
        self.running = {}
        self.guests = Guests(reactor, lambda view: AgentServices(services=(), fallback=answer))

    async def boot(self, _context, request):
        guest = await self.guests.boot("bench", request.value, silent=False, say=lambda text: None)
        self.running[guest.port] = guest
        return UInt32Value(value=guest.port)

    async def close(self, _context, request):
        await self.running.pop(request.value).close()
        return Empty()

    def service(self):
        methods = {"Boot": Method(self.boot, BytesValue), "Close": Method(self.close, UInt32Value)}
        return Service("bench.Instances", methods)


def main():
    server = Server(reactor, [Instances().service()], max_in_flight=10_000)
    reactor.callWhenRunning(listen_unix, reactor, sys.argv[1], server)
    reactor.run()


if __name__ == "__main__":
    main()
