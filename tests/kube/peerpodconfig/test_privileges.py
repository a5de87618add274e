"""The capabilities that the DaemonSets give are enough for what adaptor and relay do, and none of them is too much."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerpods.kube.peerpodconfig.render.adaptor import CAPABILITIES
from tests.kube.cluster_process import free_port
from tests.podnet.harness import Space, Spaces

pytestmark = pytest.mark.root
TOP = Path(__file__).parents[3]
LIFE_OF_A_TUNNEL = """
import sys
from peerpods.model import SandboxId
from peerpods.podnet import Worker, tunnel_for
from tests.podnet.harness import Inline, wait

netns, named = sys.argv[1:]
api = Worker("", Inline(), named=named)
try:
    network = wait(api.inspect(netns))
    vni = wait(api.choose_vni([], 555000))
    tunnel = tunnel_for(SandboxId("a" * 64), network, netns, "10.9.0.2", vni, 4789)
    wait(api.setup_tunnel(tunnel))
    wait(api.setup_tunnel(tunnel))
    wait(api.teardown_tunnel(tunnel))
    wait(api.sweep([]))
finally:
    api.close()
print("done")
"""


@pytest.fixture
def spaces(tmp_path: Path) -> Iterator[Spaces]:
    made = Spaces(tmp_path)
    yield made
    made.close()


def with_only(capabilities: list[str], *command: str) -> list[str]:
    """A command as root with these capabilities and no others, as a container runtime starts it."""
    names = "".join(f",+{name.lower()}" for name in capabilities)
    return ["setpriv", f"--bounding-set=-all{names}", "--inh-caps=-all", *command]


def pod_and_worker(spaces: Spaces) -> tuple[Space, Space]:
    """A worker with an underlay and a default route, and a pod."""
    worker, pod, vm = spaces.new("worker"), spaces.new("pod"), spaces.new("vm")
    worker.ip(f"link add veth0 type veth peer name eth0 netns {pod.path}")
    worker.ip(f"link add under0 type veth peer name ens1 netns {vm.path}")
    for line in ("addr add 10.1.0.1/24 dev veth0", "link set veth0 up", "addr add 10.9.0.1/24 dev under0"):
        worker.ip(line)
    for line in ("link set under0 up", "route add default via 10.9.0.2"):
        worker.ip(line)
    for line in ("link set eth0 up", "addr add 10.1.0.2/24 dev eth0", "route add default via 10.1.0.1"):
        pod.ip(line)
    return worker, pod


def tunnel_with(capabilities: list[str], spaces: Spaces) -> subprocess.CompletedProcess[str]:
    worker, pod = pod_and_worker(spaces)
    command = with_only(
        capabilities, sys.executable, "-c", LIFE_OF_A_TUNNEL, str(pod.path), str(spaces.folder / "named")
    )
    return subprocess.run(
        ["nsenter", f"--net={worker.path}", *command],
        cwd=TOP, env={**os.environ, "PYTHONPATH": f"{TOP}/src:{TOP}"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_adaptors_capabilities_are_enough_for_a_tunnels_life(spaces: Spaces) -> None:
    done = tunnel_with(CAPABILITIES, spaces)
    assert done.stdout.strip().endswith("done"), done.stderr


@pytest.mark.parametrize("without", CAPABILITIES)
def test_each_of_them_is_needed(spaces: Spaces, without: str) -> None:
    done = tunnel_with([name for name in CAPABILITIES if name != without], spaces)
    assert done.returncode != 0
    assert "CAP_NET_ADMIN and CAP_SYS_ADMIN" in done.stderr or "setns: Operation not permitted" in done.stderr


def _get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize(("service", "capabilities"), [("relay", []), ("adaptor", CAPABILITIES)])
def test_a_service_becomes_ready_with_its_capabilities(tmp_path: Path, service: str, capabilities: list[str]) -> None:
    port = free_port()
    flags = {"http": f"127.0.0.1:{port}", "pods-dir": f"{tmp_path}/pods"}
    if service == "relay":
        flags |= {"control": f"{tmp_path}/relay.sock"}
    else:
        flags |= {
            "provider": "memory", "kubernetes": "off", "socket": f"{tmp_path}/h.sock", "admin": f"{tmp_path}/a.sock",
            "state-dir": f"{tmp_path}/state", "relay": f"{tmp_path}/relay.sock",
        }  # fmt: skip
    words = [f"--{name}={value}" for name, value in flags.items()]
    twistd = str(Path(sys.executable).parent / "twistd")
    environ = {**os.environ, "PYTHONPATH": f"{TOP}/src"}
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            with_only(capabilities, twistd, "-n", "--pidfile=", service, *words),
            cwd=TOP, env=environ, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while _get(f"http://127.0.0.1:{port}/readyz") != 200:
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        status = Path(f"/proc/{child.pid}/status").read_text()
        effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
        bits = {"NET_ADMIN": 12, "SYS_ADMIN": 21}
        assert int(effective, 16) == sum(1 << bits[name] for name in capabilities)
    finally:
        child.terminate()
        child.wait(20)
