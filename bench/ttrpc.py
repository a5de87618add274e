"""How many ttrpc calls a second, and what a call costs, beside a bare length-prefixed echo in the same run.

    python bench/ttrpc.py [--json FILE] [--calls N] [--payload BYTES] [--reactor asyncio|epoll]

Server and load are two processes on a unix socket. `ping-pong`: the next call after each answer. `pipelined`: WINDOW
calls in flight. The load writes and reads ready-made bytes on a blocking socket, so it measures the server and not
itself; the row `client` has our client as the load, against the same server.
"""

import argparse
import json
import multiprocessing
import os
import resource
import socket
import struct
import sys
import tempfile
import time

WINDOW = 64


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def install(name):
    if name == "asyncio":
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    else:
        from twisted.internet import epollreactor

        epollreactor.install()
    from twisted.internet import reactor

    return reactor


def factory_for(kind, reactor):
    from google.protobuf.wrappers_pb2 import BytesValue
    from twisted.internet.protocol import Factory, Protocol

    from peerpods.ttrpc import Method, Response, Server, Service

    class Echo(Protocol):
        """The baseline: cut into messages by a length of four bytes, answer with the same, one write a read."""

        rest = b""

        def dataReceived(self, data):
            data, pos, out = self.rest + data, 0, []
            while len(data) - pos >= 4:
                stop = pos + 4 + int.from_bytes(data[pos : pos + 4], "big")
                if stop > len(data):
                    break
                out.append(data[pos:stop])
                pos = stop
            self.rest = data[pos:]
            if out:
                self.transport.write(b"".join(out))

    async def unary(ctx, asked):
        return BytesValue(value=asked.value)

    async def forward(ctx, asked):
        return Response(None, asked.payload)

    if kind == "baseline":
        return Factory.forProtocol(Echo)
    if kind == "forward":
        return Server(reactor, [], fallback=forward)
    return Server(reactor, [Service("bench.Echo", {"Echo": Method(unary, BytesValue)})])


def serve(kind, path, reactor_name, pipe):
    """The server process: listens, then answers each message on the pipe with its CPU seconds; None ends it."""
    reactor = install(reactor_name)
    from twisted.internet.threads import deferToThread

    from peerpods.ttrpc.unix import listen_unix

    def asked(message):
        if message is None:
            reactor.stop()
            return
        pipe.send(cpu())
        wait()

    def wait():
        deferToThread(pipe.recv).addCallback(asked)

    def ready(_):
        pipe.send("ready")
        wait()

    listen_unix(reactor, path, factory_for(kind, reactor)).addCallback(ready)
    reactor.run()


def exchange(kind, path, calls, window, size):
    """Make the calls; gives (seconds, sorted list of round-trip times when window is 1)."""
    from google.protobuf.wrappers_pb2 import BytesValue

    from peerpods.ttrpc import FrameDecoder, Request, encode_frame

    payload = BytesValue(value=bytes(size)).SerializeToString()
    body = Request("bench.Echo", "Echo", payload).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        if kind == "baseline":
            message = struct.pack(">I", len(body)) + body
            batches = [message * min(window, calls - i) for i in range(0, calls, window)]
            answer = len(message)
        else:
            ids = range(1, 2 * calls, 2)
            frames = [encode_frame(stream, 1, 0, body) for stream in ids]
            batches = [b"".join(frames[i : i + window]) for i in range(0, calls, window)]
            answer = 0
        times = []
        began = time.perf_counter()
        for batch in batches:
            sent = time.perf_counter()
            sock.sendall(batch)
            if answer:
                left = len(batch)
                while left:
                    left -= len(sock.recv(min(left, 1 << 18)))
            else:
                decoder = FrameDecoder()
                left = batch.count(b"bench.Echo")
                while left:
                    left -= len(decoder.feed(sock.recv(1 << 18)))
            times.append(time.perf_counter() - sent)
        seconds = time.perf_counter() - began
    return seconds, sorted(times) if window == 1 else []


def client_load(path, reactor_name, calls, window, size, pipe):
    """Our client as the load, in a process of its own; sends (seconds, CPU seconds)."""
    reactor = install(reactor_name)
    from google.protobuf.wrappers_pb2 import BytesValue
    from twisted.internet.defer import Deferred, gatherResults
    from twisted.internet.endpoints import UNIXClientEndpoint

    from peerpods.ttrpc import connect_client

    async def one(client, count):
        for _ in range(count):
            await client.call("bench.Echo", "Echo", BytesValue(value=bytes(size)), BytesValue, timeout=60)

    async def run():
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, path))
        began, used = time.perf_counter(), cpu()
        await gatherResults([Deferred.fromCoroutine(one(client, calls // window)) for _ in range(window)])
        pipe.send((time.perf_counter() - began, cpu() - used))
        await client.close()

    def done(_):
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()).addBoth(done))
    reactor.run()


def measure(kind, options, size):
    """The rows of one kind of server."""
    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(kind, path, options.reactor, theirs), daemon=True)
        process.start()
        if not ours.poll(30):
            sys.exit(f"the {kind} server is not ready after 30 s")
        ours.recv()

        def used():
            ours.send("cpu")
            return ours.recv()

        for way, window, calls in (("ping-pong", 1, options.calls // 4), ("pipelined", WINDOW, options.calls)):
            exchange(kind, path, calls // 10, window, size)
            before = used()
            seconds, times = exchange(kind, path, calls, window, size)
            row = {
                "server": kind,
                "way": way,
                "payload": size,
                "calls_per_s": round(calls / seconds),
                "server_cpu_us": round((used() - before) / calls * 1e6, 2),
            }
            if times:
                row["p50_us"] = round(times[len(times) // 2] * 1e6, 1)
                row["p99_us"] = round(times[len(times) * 99 // 100] * 1e6, 1)
            rows.append(row)
        if kind == "ttrpc":
            here, there = context.Pipe()
            for way, window, calls in (("ping-pong", 1, options.calls // 8), ("pipelined", WINDOW, options.calls // 2)):
                before = used()
                load = context.Process(
                    target=client_load, args=(path, options.reactor, calls, window, size, there), daemon=True
                )
                load.start()
                if not here.poll(120):
                    sys.exit("our client did not finish within 120 s")
                seconds, spent = here.recv()
                load.join(10)
                rows.append(
                    {
                        "server": "ttrpc, our client",
                        "way": way,
                        "payload": size,
                        "calls_per_s": round(calls / seconds),
                        "server_cpu_us": round((used() - before) / calls * 1e6, 2),
                        "client_cpu_us": round(spent / calls * 1e6, 2),
                    }
                )
        ours.send(None)
        process.join(10)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--payload", type=int, action="append", help="bytes; may be given more than once")
    parser.add_argument("--reactor", choices=["asyncio", "epoll"], default="asyncio")
    options = parser.parse_args()
    rows = []
    for size in options.payload or [128, 2048]:
        for kind in ("baseline", "forward", "ttrpc"):
            rows += measure(kind, options, size)
    columns = ["server", "way", "payload", "calls_per_s", "server_cpu_us", "client_cpu_us", "p50_us", "p99_us"]
    widths = [max(len(c), *(len(str(row.get(c, ""))) for row in rows)) for c in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(str(row.get(c, "")).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"bench": "ttrpc", "reactor": options.reactor, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
