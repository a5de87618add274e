"""A full node: 1,000 sandboxes on one relay, each as a running pod is between events.

    python bench/scale.py [--json FILE] [--pods N] [--seconds S] [--reactor epoll|asyncio]

Each sandbox has its TLS link up and one shim connection with GetOOMEvent and WaitProcess outstanding and a
Health/Check every 5 s. One forwarder process stands for all VMs; the load is a process of its own.
"""

import argparse
import resource
import selectors
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.lib.rig import Rig, Wire, cpu_seconds, rss_mib, table, write_json
from peerpods.protocols import relay_pb2

AGENT = "grpc.AgentService"
EVERY = 5.0


class Pod:
    """One sandbox's shim."""

    def __init__(self, path):
        self.wire = Wire(path)
        self.wire.send(AGENT, "GetOOMEvent", b"")
        self.wire.send(AGENT, "WaitProcess", b"\x0a\x02c1")
        self.asked = 0.0
        self.answers = 0

    def check(self):
        """Ask for health."""
        self.asked = time.perf_counter()
        self.wire.send("grpc.Health", "Check", b"", 30 * 10**9)


def live(pods, seconds):
    """Health/Check each pod every 5 s, evenly spread; the latencies, sorted."""
    selector = selectors.EpollSelector()
    for pod in pods:
        selector.register(pod.wire.socket, selectors.EVENT_READ, pod)
    times = []
    step = EVERY / len(pods)
    started = time.perf_counter()
    number = 0
    while True:
        now = time.perf_counter()
        due = started + number * step
        if due - started >= seconds:
            break
        if now >= due:
            pods[number % len(pods)].check()
            number += 1
            continue
        for key, _ in selector.select(due - now):
            pod = key.data
            for _ in pod.wire.frames():
                pod.answers += 1
                times.append(time.perf_counter() - pod.asked)
    return sorted(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="")
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--reactor", default="epoll", choices=["epoll", "asyncio"])
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    with Rig(options.reactor, many=True) as rig:
        relay = rig.pid("relay")
        idle, idle_anon = rss_mib(relay)
        pods = []
        started = time.perf_counter()
        for number in range(options.pods):
            sandbox = f"{number:064x}"
            path = rig.open(sandbox)
            rig.link(sandbox)
            pods.append(Pod(path))
        set_up = time.perf_counter() - started
        before = cpu_seconds(relay)
        began = time.perf_counter()
        times = live(pods, options.seconds)
        share = (cpu_seconds(relay) - before) / (time.perf_counter() - began)
        rss, anon = rss_mib(relay)
        listed = rig.order("List", relay_pb2.ListRequest(), relay_pb2.ListResponse).sandboxes
        result = {
            "pods": options.pods,
            "links_up": sum(1 for one in listed if one.up),
            "open_and_link_ms": round(set_up / options.pods * 1e3, 2),
            "relay_rss_mib": round(rss, 1),
            "relay_anon_mib": round(anon, 1),
            "empty_rss_mib": round(idle, 1),
            "kib_per_pod": round((anon - idle_anon) * 1024 / options.pods, 1),
            "cpu_share": round(share, 4),
            "checks": len(times),
            "check_p50_us": round(times[len(times) // 2] * 1e6),
            "check_p99_us": round(times[len(times) * 99 // 100] * 1e6),
        }
    table([{"what": key, "value": value} for key, value in result.items()], ["what", "value"])
    print("\nreach: adaptor and relay together at most 200 MB")
    write_json(options.json, {"bench": "scale", "reactor": options.reactor, **result})


if __name__ == "__main__":
    main()
