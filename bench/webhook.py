"""What an admission review costs, beside a bare Twisted Site that echoes the same bodies through the same TLS.

    python bench/webhook.py [--json FILE] [--rate PER_SECOND] [--seconds N]

Bodies: AdmissionReviews of a real API server (tests/fixtures/kube/reviews.jsonl). The server is one process bound to
one core: `twistd webhook` as it is installed. The load is another process with a few connections that stay open, as
the API server does it, at random moments (a Poisson process): a latency counts from the moment the review was due, so
waiting in a queue is in it. `at most`: each connection sends the next review after each answer.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

HERE = Path(__file__).parent
REVIEWS = HERE.parent / "tests/fixtures/kube/reviews.jsonl"
CONNECTIONS = 4
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def make_certificate(folder):
    from peerpods.kube.webhook.authority import new_authority, new_certificate

    now, day = datetime.now(UTC), timedelta(days=1)
    ca = new_authority(now, 3 * day)
    leaf = new_certificate(ca, ["127.0.0.1"], now, day)
    (folder / "tls.crt").write_text(leaf.cert)
    (folder / "tls.key").write_text(leaf.key)
    return ca.cert


def echo(folder, port):
    """The baseline: a Site with one resource that gives back what it got."""
    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    from peerpods.kube.webhook.pair import make_context
    from peerpods.kube.webhook.tlsrules import TlsRules
    from peerpods.tls.transport import listen_tls

    class Echo(Resource):
        isLeaf = True

        def render_POST(self, request):
            request.setHeader(b"content-type", b"application/json")
            return request.content.read()

    context = make_context((folder / "tls.crt").read_text(), (folder / "tls.key").read_text(), TlsRules())
    listen_tls(reactor, "127.0.0.1", port, context, Site(Echo()), max_connections=100, handshake_timeout=10)
    reactor.run()


def requests():
    found = []
    for body in REVIEWS.read_bytes().splitlines():
        head = (
            "POST /mutate-v1-pod?timeout=10s HTTP/1.1\r\nHost: peerpods-webhook.peerpods-system.svc:443\r\n"
            "User-Agent: kube-apiserver-admission\r\nAccept: application/json, */*\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


class Connection:
    def __init__(self, port, ca):
        context = ssl.create_default_context(cadata=ca)
        plain = socket.create_connection(("127.0.0.1", port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(plain, server_hostname="127.0.0.1")

    def ask(self, request):
        self.sock.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not answered: {head[:200]!r} {body[:300]!r}")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self.sock.recv(65536)


def load(port, ca, rate, seconds, pipe):
    """Sends (latencies, seconds taken); rate 0: as fast as the connections go."""
    bodies = requests()
    rng = random.Random(1)
    began = time.perf_counter() + 0.2
    due, moment = [], began
    while rate and moment < began + seconds:
        due.append(moment)
        moment += rng.expovariate(rate)
    lock, place, latencies = threading.Lock(), iter(due), []
    connections = [Connection(port, ca) for _ in range(CONNECTIONS)]

    def work(connection, number):
        count = number
        while True:
            if rate:
                with lock:
                    when = next(place, None)
                if when is None:
                    return
                time.sleep(max(0.0, when - time.perf_counter()))
            else:
                when = time.perf_counter()
                if when > began + seconds:
                    return
            connection.ask(bodies[count % len(bodies)])
            latencies.append(time.perf_counter() - when)
            count += 1

    threads = [threading.Thread(target=work, args=(c, i)) for i, c in enumerate(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((sorted(latencies), time.perf_counter() - began))


def start(kind, folder, port):
    if kind == "webhook":
        twistd = Path(sys.executable).parent / "twistd"
        flags = [f"--listen=127.0.0.1:{port}", "--http=", f"--cert-dir={folder}"]
        command = [twistd, "-n", "--pidfile=", "webhook", *flags]
    else:
        command = [sys.executable, __file__, "--echo", str(folder), str(port)]
    with open(folder / f"{kind}.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def await_port(port, ca, process, log):
    deadline = time.monotonic() + 30
    while True:
        try:
            return Connection(port, ca).ask(requests()[0])
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(log.read_text())
            time.sleep(0.1)


def measure(kind, folder, ca, options):
    """The rows of one server."""
    port = free_port()
    process = start(kind, folder, port)
    rows = []
    try:
        await_port(port, ca, process, folder / f"{kind}.log")
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[0]})
        context = multiprocessing.get_context("spawn")
        for rate in (options.rate, 0):
            for seconds in (2, options.seconds):  # the first is to warm up
                ours, theirs = context.Pipe()
                spent = cpu_seconds(process.pid)
                client = context.Process(target=load, args=(port, ca, rate, seconds, theirs), daemon=True)
                client.start()
                if len(cores) > 1:
                    os.sched_setaffinity(client.pid, set(cores[1:]))
                if not ours.poll(seconds + 60):
                    sys.exit(f"no answers from {kind}")
                times, took = ours.recv()
                spent = cpu_seconds(process.pid) - spent
                client.join(10)
            rows.append(
                {
                    "server": kind,
                    "load": f"{rate}/s" if rate else "at most",
                    "per_s": round(len(times) / took),
                    "cpu_ms": round(spent / len(times) * 1e3, 3),
                    "p50_ms": round(times[len(times) // 2] * 1e3, 2),
                    "p99_ms": round(times[len(times) * 99 // 100] * 1e3, 2),
                    "max_ms": round(times[-1] * 1e3, 2),
                }
            )
        memory = Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        for row in rows:
            row["rss_mib"] = round(int(memory) / 1024)
    finally:
        process.terminate()
        process.wait(10)
    return rows


def main():
    if sys.argv[1:2] == ["--echo"]:
        echo(Path(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ca = make_certificate(folder)
        for kind in ("echo", "webhook"):
            rows += measure(kind, folder, ca, options)
    sizes = [len(body) for body in REVIEWS.read_bytes().splitlines()]
    print(f"{len(sizes)} reviews of {min(sizes)} to {max(sizes)} bytes, {CONNECTIONS} connections")
    columns = list(rows[0])
    widths = [max(len(c), *(len(str(row.get(c, ""))) for row in rows)) for c in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(str(row.get(c, "")).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"bench": "webhook", "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
