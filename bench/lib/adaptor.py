"""The adaptor as `twistd adaptor` starts it, its memory provider's instances elsewhere. `adaptor.py SOCKET FLAG…`.

SOCKET is that of `instances.py`: what stands for the VMs must not count as the adaptor's memory and time.
"""

import sys

from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BytesValue, UInt32Value
from twisted.internet.endpoints import UNIXClientEndpoint

from peerpods.clouds.memory import provider as memory
from peerpods.ttrpc import connect_client

SERVICE = "bench.Instances"


class Guest:
    """An instance in the other process."""

    def __init__(self, elsewhere, port):
        self.elsewhere = elsewhere
        self.port = port

    async def close(self):
        await self.elsewhere.call("Close", UInt32Value(value=self.port), Empty)


class Elsewhere:
    """In place of the provider's `Guests`."""

    def __init__(self, reactor, path, store):
        self.reactor = reactor
        self.path = path
        self.store = store
        self.client = None

    async def call(self, method, request, answer):
        if self.client is None or not self.client.connected:
            self.client = await connect_client(self.reactor, UNIXClientEndpoint(self.reactor, self.path))
        return await self.client.call(SERVICE, method, request, answer, timeout=60)

    async def boot(self, instance_id, user_data, *, silent, say):
        port = (await self.call("Boot", BytesValue(value=user_data), UInt32Value)).value
        self.store.records[instance_id].user_data = b""  # a cloud keeps these elsewhere too
        self.store.calls.clear()
        return Guest(self, port)


def main():
    path = sys.argv[1]

    def make_provider(settings, reactor):
        store = memory.MemoryStore()
        return memory.MemoryProvider(settings, reactor, store=store, guests=Elsewhere(reactor, path, store))

    memory.make_provider = make_provider
    from twisted.scripts.twistd import run

    sys.argv = ["twistd", "-n", "--pidfile=", "adaptor", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()
