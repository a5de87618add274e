"""The demo as a user runs it, with real VMs: two at once, and one that is interrupted."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerpods.demo import proof
from tests.e2e.boxed import MARKER, ROOT

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(600)]
DEMO_SECONDS = 480.0
INTERRUPT_SECONDS = 60.0
PROMISES = [
    "the container's own output arrived",
    "its exit code 7 is that of peerpods run",
    "standard input reaches the container",
    "IPv4: the pod fetched http://198.18.0.10:8000/",
    "IPv4: the gateway fetched http://10.120.7.41:8081/ from the pod",
    "IPv6: the pod fetched http://[fd99::10]:8000/",
    "IPv6: the gateway fetched http://[fd78::29]:8081/ from the pod",
    "all that went through the tunnel: ",
    "peerpods ps shows the pod running",
    "without an adaptor the output goes on",
    "after its restart peerpods ps shows the same sandbox ",
    "and the output goes on",
    "it ends with its input, exit code 0",
    "no sandbox",
    "no libvirt domain",
    "no volume in the pool",
    "no tunnel in pod-hello",
    "no tunnel in pod-talk",
    "no agent socket or pod folder",
    "no domain, namespace, device, process, socket or mount is left",
    "all of it held",
]
PHASES = ["create_vm", "start_vm", "agent_check", "create_sandbox", "pull_and_create", "start", "run", "stop"]
AS_BEFORE = "the host is as before"


@pytest.fixture(scope="module")
def image() -> Path:
    """The local pod VM image; `make image` builds it, as `make test` does before the tests."""
    words = [sys.executable, "-m", "peerpods.image", "path"]
    folder = Path(subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip())
    if not folder.is_dir():
        pytest.fail(f"there is no image at {folder}: run `make image`")
    return folder


@contextlib.contextmanager
def demo(image: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running demo and the marker of its processes; ended when it is still there afterwards."""
    token = secrets.token_hex(8)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "peerpods.demo", "--image-dir", str(image)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=ROOT,
            env={**os.environ, MARKER: token},
            start_new_session=True,
            # a shell's job in the background, as a CI run may be, ignores SIGINT and hands that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        yield process, f"{MARKER}={token}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(INTERRUPT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def held(text: str) -> list[str]:
    """What the demo says it has shown, in order."""
    return [line.split("] ok ", 1)[1] for line in text.splitlines() if "] ok " in line]


@pytest.fixture(scope="module")
def two_demos(image, tmp_path_factory):
    """Two demos at once, each to its end: (exit code, output, its processes that are left)."""
    folder = tmp_path_factory.mktemp("demos")
    logs = [folder / "one", folder / "two"]
    with demo(image, logs[0]) as (first, mark_one), demo(image, logs[1]) as (second, mark_two):
        codes = [process.wait(DEMO_SECONDS) for process in (first, second)]
        left = [sorted(proof.processes_with(mark)) for mark in (mark_one, mark_two)]
    texts = [log.read_text(errors="replace") for log in logs]
    return list(zip(codes, texts, left, strict=True))


@pytest.mark.parametrize("number", [0, 1])
def test_the_demo_holds_all_that_it_promises_also_beside_another(two_demos, number):
    code, text, left = two_demos[number]
    assert code == 0, text[-3000:]
    shown = iter(held(text))
    missing = [promise for promise in PROMISES if not any(line.startswith(promise) for line in shown)]
    assert missing == [], text[-3000:]
    assert AS_BEFORE in text.splitlines()[-1]
    assert left == []


@pytest.mark.parametrize("number", [0, 1])
def test_the_demo_shows_each_phase_and_the_containers_output(two_demos, number):
    _, text, _ = two_demos[number]
    phases = [line.split()[-3] for line in text.splitlines() if line.endswith(" ms")]
    assert phases == PHASES * 2
    heard = [line.strip().removeprefix("| ") for line in text.splitlines() if line.startswith("    | ")]
    assert any(line.startswith("hello from pod-hello, kernel ") for line in heard)
    for line in ("ready", "got still there", "got and now", "bye"):
        assert line in heard


def test_an_interrupt_when_a_vm_runs_removes_everything(image, tmp_path):
    log = tmp_path / "demo"
    with demo(image, log) as (process, marker):
        until = time.monotonic() + 240
        while b" start_vm " not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        code = process.wait(INTERRUPT_SECONDS)
        left = sorted(proof.processes_with(marker))
    text = log.read_text()
    assert code == 130, text
    assert left == []
    assert "interrupted; everything was removed" in text
    assert "Traceback" not in text
    assert AS_BEFORE in text.splitlines()[-1]
