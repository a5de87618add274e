"""A full node: 1,000 running sandboxes on one adaptor and one relay, each as a pod is between events.

    python bench/scale.py [--json FILE] [--pods N] [--seconds S]

Each sandbox is created and started by CreateVM and StartVM, has its TLS link up and one shim connection with
GetOOMEvent and WaitProcess outstanding and a Health/Check every 5 s. Adaptor, relay, the stand-in for all VMs and the
load are separate processes. Run it as root: the sandboxes share one pod namespace, which it makes and removes.
"""

import argparse
import os
import resource
import secrets
import selectors
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.lib.podns import PodNamespace
from bench.lib.rig import Crowd, Wire, cpu_seconds, rss_mib, table, verdict, write_json
from peerpods.adaptor.requests import NAME, NAMESPACE
from peerpods.protocols import hypervisor_pb2 as pb
from peerpods.ttrpc import decode_response

AGENT = "grpc.AgentService"
HYPERVISOR = "hypervisor.Hypervisor"
EVERY = 5.0
AT_ONCE = 50
REACH_MB = 200


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


def together(wire, method, requests):
    """Send calls at once and wait for all answers."""
    for request in requests:
        wire.send(HYPERVISOR, method, request.SerializeToString(), 200 * 10**9)
    missing = len(requests)
    while missing:
        for frame in wire.frames():
            response = decode_response(frame.body)
            if not response.ok:
                raise SystemExit(f"{method} failed: {response.status.message}")
            missing -= 1


def bring_up(node, netns, count):
    """Create and start the sandboxes, some at once, and connect their shims."""
    wire = Wire(node.socket)
    names = [secrets.token_hex(32) for _ in range(count)]
    for at in range(0, count, AT_ONCE):
        some = names[at : at + AT_ONCE]
        facts = [{NAME: f"bench-{name[:6]}", NAMESPACE: "bench"} for name in some]
        creates = [
            pb.CreateVMRequest(id=name, annotations=fact, networkNamespacePath=netns)
            for name, fact in zip(some, facts, strict=True)
        ]
        together(wire, "CreateVM", creates)
        together(wire, "StartVM", [pb.StartVMRequest(id=name) for name in some])
    return wire, [Pod(f"{node.folder}/pods/{name}/agent.ttrpc") for name in names]


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


def measure(node, netns, options):
    """Bring all up, let them live, and read what both processes cost."""
    pids = {"adaptor": node.adaptor.process.pid, "relay": node.relay.process.pid}
    empty = {name: rss_mib(pid) for name, pid in pids.items()}
    started = time.perf_counter()
    _wire, pods = bring_up(node, netns, options.pods)
    set_up = time.perf_counter() - started
    time.sleep(2)  # what the starts left to do
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    times = live(pods, options.seconds)
    passed = time.perf_counter() - began
    rows = []
    for name, pid in pids.items():
        rss, anonymous = rss_mib(pid)
        rows.append(
            {
                "process": name,
                "rss MiB": round(rss, 1),
                "empty MiB": round(empty[name][0], 1),
                "KiB per sandbox": round((anonymous - empty[name][1]) * 1024 / options.pods, 1),
                "CPU share": round((cpu_seconds(pid) - before[name]) / passed, 4),
            }
        )
    return {
        "bench": "scale",
        "pods": options.pods,
        "processes": rows,
        "rss_mb": round(sum(rss_mib(pid)[0] for pid in pids.values()) * 1.048576, 1),
        "cpu_share": round(sum(row["CPU share"] for row in rows), 4),
        "start_ms_each": round(set_up / options.pods * 1e3, 2),
        "checks": len(times),
        "unanswered": sum(1 for pod in pods if not pod.answers),
        "check_p50_us": round(times[len(times) // 2] * 1e6),
        "check_p99_us": round(times[len(times) * 99 // 100] * 1e6),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", default="")
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench/scale.py makes a network namespace: run it as root")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    with PodNamespace() as netns:
        node = Crowd.make("memory")
        try:
            node.start()
            result = measure(node, netns, options)
        finally:
            node.stop()
    table(result["processes"], list(result["processes"][0]))
    print(
        f"\n{options.pods} sandboxes, {result['start_ms_each']} ms each to start; {result['checks']} checks,"
        f" p50 {result['check_p50_us']} us, p99 {result['check_p99_us']} us; pods without an answer:"
        f" {result['unanswered']}; CPU share of both {result['cpu_share']:.1%} of one CPU"
    )
    result["verdicts"] = [
        verdict(
            f"adaptor and relay, {options.pods} sandboxes, resident",
            result["rss_mb"],
            f"≤ {REACH_MB}",
            unit=" MB",
            good=result["rss_mb"] <= REACH_MB and not result["unanswered"],
        )
    ]
    write_json(options.json, result)


if __name__ == "__main__":
    main()
