"""/metrics, /healthz and /readyz as somebody from outside sees them."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from peerpods.cli.children import twistd
from peerpods.errors import LocalFailure
from peerpods.obs.http import make_http_service


def get(port, path):
    """(status, body)."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answer_of(port):
    """What /readyz says, or None while nobody listens."""
    try:
        return get(port, "readyz")
    except OSError:
        return None


@pytest_twisted.ensureDeferred
async def test_health_readiness_and_metrics_are_served():
    from twisted.internet import reactor

    state = [False]
    service = make_http_service(reactor, "127.0.0.1:0", lambda: state[0])
    await service.startService()
    try:
        port = service.port.getHost().port
        assert await deferToThread(get, port, "healthz") == (200, "ok\n")
        assert (await deferToThread(get, port, "readyz"))[0] == 503
        state[0] = True
        assert await deferToThread(get, port, "readyz") == (200, "ready\n")
        status, body = await deferToThread(get, port, "metrics")
        assert status == 200
        assert "# TYPE peerpods_sandboxes gauge" in body
    finally:
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_is_told_in_words():
    from twisted.internet import reactor

    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = make_http_service(reactor, f"127.0.0.1:{taken.getsockname()[1]}", lambda: True)
        with pytest.raises(LocalFailure, match="--http"):
            await service.startService()


def test_a_started_relay_says_that_it_is_ready(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = [f"--control={tmp_path}/r.sock", f"--pods-dir={tmp_path}/pods", f"--http=127.0.0.1:{port}"]
    process = subprocess.Popen(twistd("relay", *flags), stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while answer_of(port) != (200, "ready\n"):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        assert "peerpods_link_reconnects_total 0.0" in get(port, "metrics")[1]
    finally:
        process.terminate()
        process.wait(20)
