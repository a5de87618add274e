"""The processes of a bench, and what they cost."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from peerpods.cli.children import Child, socket_answers
from peerpods.cli.node import Node
from peerpods.pki.issue import issue
from peerpods.protocols import relay_pb2
from peerpods.ttrpc import FrameDecoder, Request, decode_response, encode_frame

TICK = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).parent
NAME = "podvm-bench-01234567"


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mib(pid):
    """(resident, of which anonymous) MiB."""
    values = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return tuple(int(values[key].split()[0]) / 1024 for key in ("VmRSS", "RssAnon"))


class Wire:
    """A blocking ttrpc connection for raw frames."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.decoder = FrameDecoder()
        self.stream = -1
        self.buffer = memoryview(bytearray(1 << 20))

    def send(self, service, method, payload, timeout=0):
        """Send a request; its stream id."""
        self.stream += 2
        self.socket.sendall(encode_frame(self.stream, 1, 0, Request(service, method, payload, timeout).encode()))
        return self.stream

    def frames(self):
        """The next frames."""
        while True:
            count = self.socket.recv_into(self.buffer)
            if not count:
                raise ConnectionError("closed")
            frames = self.decoder.feed(self.buffer[:count])
            if frames:
                return frames

    def call(self, service, method, payload):
        """One call; its payload."""
        self.send(service, method, payload)
        response = decode_response(self.frames()[0].body)
        if not response.ok:
            raise RuntimeError(response.status.message)
        return response.payload


class Rig:
    """Agent, forwarder and relay as processes of their own. Use as a context."""

    def __init__(self, reactor="epoll", many=False):
        self.folder = tempfile.mkdtemp(prefix="ppb")
        self.reactor = reactor
        self.many = many
        self.children = {}
        self.agent = f"{self.folder}/agent.sock"
        self.control_path = f"{self.folder}/relay.sock"
        self.pods = f"{self.folder}/pods"
        self.keys = issue(NAME, datetime.now(UTC))

    def __enter__(self):
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_all(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        apf = {
            "pod-name": "bench",
            "pod-namespace": "bench",
            "tls-server-key": self.keys.server_key,
            "tls-server-cert": self.keys.server_cert,
            "tls-client-ca": self.keys.client_cert,
            "pod-network": {
                "podip": "10.0.0.2/24",
                "interface": "eth0",
                "pod-hw-addr": "02:00:00:00:00:01",
                "worker-node-ip": "10.0.1.1/24",
                "mtu": 1450,
                "vxlan-port": 4789,
                "vxlan-id": 555000,
                "tunnel-type": "vxlan",
                "routes": [],
                "neighbors": [],
            },
        }
        path = Path(self.folder, "apf.json")
        path.touch(mode=0o600)
        path.write_text(json.dumps(apf))
        self.spawn("agent", HERE / "agent.py", self.agent, ready="ready")
        many = ["--many"] if self.many else []
        self.spawn(
            "forwarder",
            HERE / "forwarder.py",
            str(path),
            f"127.0.0.1:{self.port}",
            self.agent,
            self.reactor,
            *many,
            ready="ready",
        )
        self.spawn(
            "relay",
            *("-m", "twisted", f"--reactor={self.reactor}", "relay"),
            *("--control", self.control_path, "--pods-dir", self.pods, "--http", ""),
            ready='"ready"',
        )
        self.control = Wire(self.control_path)

    def spawn(self, name, *command, ready):
        """Start a Python process and wait until it says so."""
        log = Path(self.folder, f"{name}.log")
        with log.open("wb") as out:
            child = subprocess.Popen([sys.executable, *map(str, command)], stdout=out, stderr=out)
        self.children[name] = child
        end = time.monotonic() + 20
        while ready not in log.read_text():
            if child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)

    def __exit__(self, *_):
        for child in reversed(self.children.values()):
            child.terminate()
        for child in self.children.values():
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder)

    def pid(self, name):
        """Process id of a child."""
        return self.children[name].pid

    def costs(self):
        """CPU seconds so far, by process."""
        return {name: cpu_seconds(child.pid) for name, child in self.children.items()}

    def order(self, method, request, kind):
        """A control call."""
        return kind.FromString(self.control.call("peerpods.v1.Relay", method, request.SerializeToString()))

    def open(self, sandbox):
        """Open a sandbox; its agent socket."""
        request = relay_pb2.OpenRequest(
            sandbox=sandbox,
            server_name=NAME,
            server_ca=self.keys.server_ca,
            client_cert=self.keys.client_cert,
            client_key=self.keys.client_key,
        )
        return self.order("Open", request, relay_pb2.OpenResponse).agent_socket

    def link(self, sandbox):
        """Link it to the forwarder."""
        request = relay_pb2.LinkRequest(sandbox=sandbox, host="127.0.0.1", port=self.port, deadline=30 * 10**9)
        answer = self.order("Link", request, relay_pb2.LinkResponse)
        if not answer.up:
            raise RuntimeError(answer.message)


class Crowd(Node):
    """A private adaptor and relay whose instances, any number, live in a third process."""

    instances = None

    def start(self):
        path = str(self.folder / "instances.sock")
        self.instances = Child.start("instances", [sys.executable, str(HERE / "instances.py"), path], self.folder)
        self.instances.wait_until(lambda: socket_answers(path), 20, "its socket")
        super().start()

    def start_adaptor(self):
        def command(_service, *flags):
            return [sys.executable, str(HERE / "adaptor.py"), str(self.folder / "instances.sock"), *flags]

        with mock.patch("peerpods.cli.node.twistd", command):
            super().start_adaptor()

    def stop(self):
        for child in (self.adaptor, self.relay, self.instances):
            if child is not None:
                child.stop()
        super().stop()


def verdict(what, measured, reach, *, good, unit=""):
    """Print one figure beside its reach, and whether it is within; gives the same as a dict."""
    print(f"{'PASS ' if good else 'under'}  {what}: {measured}{unit} (reach: {reach}{unit})")
    return {"what": what, "measured": measured, "reach": reach, "unit": unit.strip(), "pass": good}


def table(rows, columns):
    """Print rows (dicts) as a table."""
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    for line in [list(columns), ["-" * width for width in widths], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write_json(path, result):
    """Keep a result when asked to."""
    if path:
        Path(path).write_text(json.dumps(result, indent=2) + "\n")
