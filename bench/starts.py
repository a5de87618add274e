"""Starts of sandboxes: many at once, and what the adaptor adds to one.

    python bench/starts.py [--json FILE] [--few N] [--many N] [--rounds N] [--overhead N]

First: `--few` and `--many` CreateVM + StartVM at once, and their StopVM, on the provider `memory`; every sandbox must
start, and the time per start should not grow with their number. Then, where the provider `netns` can run (root):
StartVM's wall time less the instance's own, from the create call until its forwarder says that it listens.
Adaptor, relay and load are separate processes; the memory provider's stand-ins for VMs are inside the adaptor.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.lib.rig import cpu_seconds, rss_mib, table, verdict, write_json
from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.cli.node import Node
from peerpods.cli.reacting import run_reactor
from peerpods.protocols import admin_pb2
from peerpods.protocols import hypervisor_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
HYPERVISOR = "hypervisor.Hypervisor"
NETNS = f"pp-bench-{os.getpid()}"


def podns(action):
    """Make or remove the pod namespace that the sandboxes share (they have no tunnel on `memory`)."""
    subprocess.run(
        [sys.executable, "-m", "peerpods.cli.podns", action, NETNS],
        check=True,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )


def environment():
    """Ours, with the sources to be found."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def quantile(values, share):
    """A quantile of some values, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Shim:
    """The three calls, each on a connection of its own as kata's Go shim makes them."""

    def __init__(self, reactor, node):
        self.reactor = reactor
        self.node = node

    async def call(self, method, request, answer, path=None, service=HYPERVISOR):
        from twisted.internet.endpoints import UNIXClientEndpoint

        from peerpods.ttrpc import connect_client

        endpoint = UNIXClientEndpoint(self.reactor, path or self.node.socket, timeout=60)
        client = await connect_client(self.reactor, endpoint, 60)
        try:
            return await client.call(service, method, request, answer, timeout=230)
        finally:
            await client.close()

    async def start(self, sandbox, netns=f"/run/netns/{NETNS}"):
        """CreateVM and StartVM; the seconds of both, and of StartVM."""
        facts = {NAME: f"bench-{sandbox[:6]}", NAMESPACE: "bench"}
        begun = time.perf_counter()
        create = pb.CreateVMRequest(id=sandbox, annotations=facts, networkNamespacePath=netns)
        await self.call("CreateVM", create, pb.CreateVMResponse)
        created = time.perf_counter()
        await self.call("StartVM", pb.StartVMRequest(id=sandbox), pb.StartVMResponse)
        ended = time.perf_counter()
        return ended - begun, ended - created

    async def stop(self, sandbox):
        await self.call("StopVM", pb.StopVMRequest(id=sandbox), pb.StopVMResponse)

    async def gone(self, seconds=120):
        """Wait until the adaptor has no sandbox left."""
        from twisted.internet.task import deferLater

        for _ in range(int(seconds / 0.1)):
            shown = await self.admin("Ps", admin_pb2.PsRequest(), admin_pb2.PsResponse)
            if not shown.sandboxes:
                return
            await deferLater(self.reactor, 0.1)
        raise SystemExit(f"{len(shown.sandboxes)} sandboxes are not gone after {seconds} s")

    async def admin(self, method, request, answer):
        return await self.call(method, request, answer, self.node.admin, "peerpods.v1.Admin")

    async def console(self, sandbox):
        """The console's bytes."""
        from twisted.internet.endpoints import UNIXClientEndpoint

        from peerpods.ttrpc import connect_client

        client = await connect_client(self.reactor, UNIXClientEndpoint(self.reactor, self.node.admin))
        try:
            request = admin_pb2.ConsoleRequest(sandbox=sandbox)
            stream = client.stream(
                "peerpods.v1.Admin", "Console", request, admin_pb2.ConsoleChunk, kind="server_stream"
            )
            text = b""
            while (chunk := await stream.receive()) is not None:
                text += chunk.data
            return text
        finally:
            await client.close()


async def at_once(shim, count):
    """Start `count` sandboxes at once, then stop them; one row of the table."""
    from twisted.internet.defer import DeferredList

    from peerpods.aio import spawn

    names = [secrets.token_hex(32) for _ in range(count)]
    pids = [shim.node.adaptor.process.pid, shim.node.relay.process.pid]
    cpu = sum(map(cpu_seconds, pids))
    begun = time.perf_counter()
    results = await DeferredList([spawn(shim.start(name)) for name in names], consumeErrors=True)
    wall = time.perf_counter() - begun
    cpu = sum(map(cpu_seconds, pids)) - cpu
    failures = [result.getErrorMessage() for good, result in results if not good]
    if failures:
        print("first failure:", failures[0], file=sys.stderr)
    both, starts = zip(*(result for good, result in results if good), strict=True)
    rss = sum(rss_mib(pid)[0] for pid in pids)
    stopping = time.perf_counter()
    await DeferredList([spawn(shim.stop(name)) for name in names], consumeErrors=True)
    answered = time.perf_counter() - stopping
    await shim.gone()
    return {
        "at once": count,
        "failures": len(failures),
        "wall s": round(wall, 3),
        "ms per start": round(wall / count * 1000, 2),
        "cpu ms per start": round(cpu / count * 1000, 2),
        "create+start p50 ms": round(quantile(both, 0.5) * 1000, 1),
        "create+start p99 ms": round(quantile(both, 0.99) * 1000, 1),
        "StartVM p99 ms": round(quantile(starts, 0.99) * 1000, 1),
        "all stops answered s": round(answered, 3),
        "rss MiB": round(rss, 1),
    }


async def memory(reactor, options):
    """The rows for few and many, `rounds` times in turn; the best of each (the machine is shared)."""
    node = Node.make("memory")
    try:
        node.start()
        shim = Shim(reactor, node)
        await at_once(shim, 2)  # imports
        rows = {}
        for _ in range(options.rounds):
            for count in (options.few, options.many):
                row = await at_once(shim, count)
                kept = rows.get(count)
                if kept is None or row["wall s"] < kept["wall s"]:
                    row["failures"] += kept["failures"] if kept else 0
                    rows[count] = row
                else:
                    kept["failures"] += row["failures"]
        return list(rows.values())
    finally:
        node.stop()


def listening_at(console):
    """When the forwarder's log says `ready`, seconds since the epoch; None when it does not."""
    for line in console.decode("utf-8", "replace").splitlines():
        try:
            record = json.loads(line[line.index("{") :])
        except ValueError:
            continue
        if record.get("event") == "ready" and record.get("room", "forwarder") == "forwarder" and "listen" in record:
            return float(record["time"])
    return None


async def overhead(reactor, count):
    """StartVM's wall time less the instance's own, one sandbox at a time."""
    node = Node.make("netns")
    try:
        node.start()
        shim = Shim(reactor, node)
        rows = []
        for _ in range(count + 1):
            podns("add")
            sandbox = secrets.token_hex(32)
            _, start = await shim.start(sandbox)
            ended = time.time()
            console = await shim.console(sandbox)
            shown = await shim.admin("Inspect", admin_pb2.InspectRequest(sandbox=sandbox), admin_pb2.InspectResponse)
            launching = next(entry.at for entry in shown.history if entry.state == "launching")
            ready = listening_at(console)
            own = (ready if ready is not None else ended) - launching
            rows.append({"start_ms": start * 1000, "own_ms": own * 1000, "phases": dict(shown.phases)})
            rows[-1]["over_ms"] = rows[-1]["start_ms"] - rows[-1]["own_ms"]
            rows[-1]["measured_by"] = "forwarder's log" if ready is not None else "not measurable"
            await shim.stop(sandbox)
            await shim.gone()
        return rows[1:]
    finally:
        node.stop()


async def everything(reactor, options):
    """Both parts; the second is left out, saying why, where it cannot run."""
    result = {"memory": await memory(reactor, options), "netns": [], "netns_skipped": ""}
    if options.overhead:
        try:
            result["netns"] = await overhead(reactor, options.overhead)
        except Exception as error:
            result["netns_skipped"] = str(error)
    return result


def over_verdicts(result):
    """The figures of the provider netns beside their reach."""
    if not result["netns"]:
        print(f"provider netns not measured: {result['netns_skipped'] or 'not asked for'}")
        return []
    over = [row["over_ms"] for row in result["netns"]]
    own = statistics.median(row["own_ms"] for row in result["netns"])
    print(f"provider netns: {len(over)} starts, the instance itself {own:.0f} ms, worst overhead {max(over):.1f} ms")
    return [
        verdict(f"StartVM less the instance's own time, {name}", round(value, 1), "≤ 50", unit=" ms", good=value <= 50)
        for name, value in (("median", statistics.median(over)), ("p90", quantile(over, 0.9)))
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overhead", type=int, default=20, help="starts on the provider netns; 0 for none")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench/starts.py makes a network namespace: run it as root")
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    podns("add")
    try:
        result = run_reactor(lambda reactor: everything(reactor, options))
    finally:
        podns("remove")
    rows = result["memory"]
    table(rows, list(rows[0]))
    few, many = (row["ms per start"] for row in rows)
    result["per_start_ratio"] = round(many / few, 2)
    print()
    failures = sum(row["failures"] for row in rows)
    ratio = result["per_start_ratio"]
    result["verdicts"] = [
        verdict(f"failures of {options.many} starts at once", failures, "0", good=not failures),
        verdict(
            f"time per start, {options.many} against {options.few} at once",
            f"x{ratio}",
            "flat: ≤ x1.25",
            good=ratio <= 1.25,
        ),
    ]
    result["verdicts"] += over_verdicts(result)
    write_json(options.json, result)
    return 1 if any(row["failures"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
