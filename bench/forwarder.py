"""Memory of the forwarder, and its time from exec to listening, beside a bare interpreter with a reactor.

    python bench/forwarder.py [--runs N] [--json FILE]

Each run starts `twistd -n --pidfile= forwarder` as a process of its own, with tunnel "none" and no network to build
(that needs root and is no part of what is measured), waits until it says READY=1, makes a TLS connection with one call,
and reads VmRSS and VmHWM. The bare process imports twisted's reactor, ssl and nothing of ours, and says READY=1 too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.lib.rig import verdict
from peerpods.model import PodNetwork
from peerpods.pki.contexts import client_context
from peerpods.pki.issue import issue
from peerpods.ttrpc import Request, encode_frame
from peerpods.userdata.apf import ApfConfig

LIMIT = 60.0  # seconds for one run
REACH_RSS_MIB = 64
REACH_LISTEN_S = 1.0
BARE = (
    "import os, socket, ssl, twisted.internet.reactor as reactor\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n"
    "reactor.run()\n"
)
# The service as twistd starts it, without building a network namespace.
FORWARDER = (
    "import sys\n"
    "import peerpods.forwarder.service as service\n"
    "service.ForwarderService.__init__.__kwdefaults__['build_network'] = lambda apf, path: None\n"
    "from twisted.scripts.twistd import run\n"
    "sys.argv = ['twistd', '-n', '--pidfile=', 'forwarder', *sys.argv[1:]]\n"
    "run()\n"
)


def memory(pid: int) -> dict[str, float]:
    """VmRSS and VmHWM in MiB."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {name: int(rows[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Run:
    """One process, from exec to READY=1."""

    def __init__(self, code: str, arguments: list[str], folder: str) -> None:
        path = f"{folder}/notify-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(LIMIT)
            began = time.perf_counter()
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env={**os.environ, "NOTIFY_SOCKET": path},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
            )
            while b"READY=1" not in notify.recv(4096):
                pass
            self.ready_s = time.perf_counter() - began

    def end(self) -> None:
        """Stop the process."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT)


def call(port: int, context: ssl.SSLContext) -> None:
    """One connection with one call that is looked into and refused: what a first call loads is loaded."""
    body = Request("grpc.AgentService", "SetPolicy", b"\x7a\x00").encode()
    with socket.create_connection(("127.0.0.1", port), LIMIT) as raw, context.wrap_socket(raw) as sock:
        sock.sendall(encode_frame(1, 1, 0, body))
        if not sock.recv(100):
            raise SystemExit("the forwarder closed the connection")


def forwarder(folder: str) -> dict[str, float]:
    """Start a forwarder, talk to it once, measure it."""
    keys = issue("podvm-bench-00000000", datetime.datetime.now(datetime.UTC))
    network = PodNetwork(
        interface="eth0", mac="02:00:00:00:00:01", mtu=1450, addresses=("10.0.0.2/24",), node_address="192.0.2.1"
    )
    apf = ApfConfig(
        pod_name="bench",
        pod_namespace="bench",
        server_key=keys.server_key,
        server_cert=keys.server_cert,
        client_ca=keys.client_cert,
        network=network,
        tunnel="none",
    )
    Path(folder, "apf.json").write_text(apf.to_json())
    port = free_port()
    run = Run(FORWARDER, ["--config", f"{folder}/apf.json", "--listen", f"127.0.0.1:{port}"], folder)
    try:
        before = memory(run.process.pid)
        call(port, client_context(keys.server_cert, keys.client_cert, keys.client_key))
        after = memory(run.process.pid)
    finally:
        run.end()
    return {
        "listening_s": run.ready_s,
        "rss_idle_mib": before["VmRSS"],
        "rss_after_call_mib": after["VmRSS"],
        "peak_mib": after["VmHWM"],
    }


def bare(folder: str) -> dict[str, float]:
    """The same of an interpreter with a reactor."""
    run = Run(BARE, [], folder)
    try:
        found = memory(run.process.pid)
    finally:
        run.end()
    return {"listening_s": run.ready_s, "rss_idle_mib": found["VmRSS"], "peak_mib": found["VmHWM"]}


def middle(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        forwarder(folder)  # the first one fills the page cache and writes bytecode
        pairs = [(forwarder(folder), bare(folder)) for _ in range(options.runs)]
    ours, base = middle([pair[0] for pair in pairs]), middle([pair[1] for pair in pairs])
    result = {
        "bench": "forwarder",
        "runs": options.runs,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "forwarder": ours,
        "bare": base,
        "reach": {"rss_mib": REACH_RSS_MIB, "listening_s": REACH_LISTEN_S},
    }
    print(f"{'median of ' + str(options.runs):24}{'forwarder':>12}{'bare reactor':>14}{'reach':>10}")
    for name, reach in (
        ("listening_s", f"≤ {REACH_LISTEN_S:g}"),
        ("rss_idle_mib", ""),
        ("rss_after_call_mib", f"≤ {REACH_RSS_MIB}"),
        ("peak_mib", ""),
    ):
        print(f"{name:24}{ours[name]:>12.2f}{base.get(name, float('nan')):>14.2f}{reach:>10}")
    print()
    rss, listening = ours["rss_after_call_mib"], ours["listening_s"]
    result["verdicts"] = [
        verdict("forwarder, resident after a call", rss, f"≤ {REACH_RSS_MIB}", unit=" MiB", good=rss <= REACH_RSS_MIB),
        verdict(
            "forwarder, exec to listening",
            listening,
            f"≤ {REACH_LISTEN_S:g}",
            unit=" s",
            good=listening <= REACH_LISTEN_S,
        ),
    ]
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
