"""The controller as a process: killed in mid deletion it ends clean the next time; started by twistd it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from peerpods.clouds.interface import TAG_CLUSTER, TAG_NODE, TAG_SANDBOX, TAG_TOKEN
from peerpods.kube.objects.resources import NAMESPACES, PEER_PODS, PODS
from tests.kube.cluster_process import free_port
from tests.kube.peerpod.process import FolderCloud
from tests.kube.peerpod.stage import Stage

TOP = Path(__file__).parents[3]
COUNT = 20


class Child:
    """One process; its output is kept."""

    def __init__(self, command: list[str], log: Path) -> None:
        environ = {**os.environ, "PYTHONPATH": f"{TOP}/src:{TOP}"}
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=TOP, env=environ, stdout=out, stderr=out)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def kill(self, how: int) -> None:
        """Send a signal to this process, if it lives."""
        if not self.ended:
            self.process.send_signal(how)


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Processes of the test; none outlives it."""
    started: list[Child] = []
    yield started
    for child in started:
        child.kill(signal.SIGKILL)
        child.process.wait(10)


@pytest_twisted.ensureDeferred
async def test_killed_in_mid_deletion(stage: Stage, tmp_path: Path, children: list[Child]) -> None:
    folder = tmp_path / "cloud"
    folder.mkdir()
    cloud = FolderCloud(folder)
    names = []
    for n in range(COUNT):
        sandbox = f"{n:08x}" + "d" * 56
        tags = {TAG_SANDBOX: sandbox, TAG_CLUSTER: stage.cluster, TAG_NODE: "n", TAG_TOKEN: f"{sandbox}-1"}
        cloud.add(f"i-{n:02}", tags)
        uid = await stage.pod(f"p{n}")
        names.append(await stage.peer_pod(sandbox, uid, pod=f"p{n}", instance=f"i-{n:02}"))
    words = [stage.kubeconfig.kubeconfig, str(folder), stage.namespace, stage.cluster]
    command = [sys.executable, "-m", "tests.kube.peerpod.process", *words]
    for n in range(COUNT):
        await stage.kube.delete(PODS, f"p{n}", stage.namespace, grace=0)
    for left in (15, 8):
        child = Child(command, tmp_path / "log")
        children.append(child)
        await stage.until(lambda left=left: len(cloud.ids()) <= left, 100)  # type: ignore[misc]
        child.kill(signal.SIGKILL)
        await stage.until(lambda child=child: child.ended)  # type: ignore[misc]
        assert cloud.ids(), "it was killed in the middle"
    children.append(Child(command, tmp_path / "log"))

    async def clean() -> bool:
        return not (await stage.kube.list(PEER_PODS, stage.namespace))[0]

    await stage.until(clean)
    assert cloud.ids() == []
    children[-1].kill(signal.SIGTERM)
    await stage.until(lambda: children[-1].ended)
    assert b'"defect"' not in (tmp_path / "log").read_bytes()


def get(url: str) -> tuple[int, str]:
    """Status and text of a local page; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


@pytest_twisted.ensureDeferred
async def test_started_by_twistd(stage: Stage, tmp_path: Path, children: list[Child]) -> None:
    port = free_port()
    flags = {
        "kubeconfig": stage.kubeconfig.kubeconfig,
        "namespace": stage.namespace,
        "http": f"127.0.0.1:{port}",
        "final-timeout": "5",
        "adaptor-grace": "0",
    }
    twistd = str(Path(sys.executable).parent / "twistd")
    words = [f"--{name}={value}" for name, value in flags.items()]
    child = Child([twistd, "-n", "--pidfile=", "peerpod-ctrl", *words], tmp_path / "log")
    children.append(child)
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        status, _ = await deferToThread(get, f"{url}/readyz")
        return bool(status == 200)

    await stage.until(ready)
    unknown = await stage.peer_pod("e" * 64, await stage.pod(), cloudProvider="gcp")
    await stage.kube.delete(PODS, "web", stage.namespace, grace=0)

    async def told() -> bool:
        return "unknown_provider" in child.log.read_text()

    await stage.until(told)
    _, text = await deferToThread(get, f"{url}/metrics")
    assert 'peerpods_ctrl_peerpods{state="' in text and 'peerpods_kube_leader{lease="peerpod-ctrl"} 1.0' in text
    await stage.kube.delete(NAMESPACES, stage.namespace)
    child.kill(signal.SIGTERM)
    await stage.until(lambda: child.ended)
    assert await stage.gone(PEER_PODS, unknown), "let go at our end, with words"
    text = child.log.read_text()
    assert "vm_may_be_left" in text and "end_finished" in text and "Traceback" not in text
