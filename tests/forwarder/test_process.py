"""`twistd forwarder` as a process: what it says when it cannot start, and a start with a real namespace."""

import os
import signal
import socket
import subprocess
import sys

import attrs
import pytest

from tests.forwarder.test_told import TOLD


def command(*arguments):
    code = "from twisted.scripts.twistd import run; run()"
    return [sys.executable, "-c", code, "-n", "--pidfile=", "forwarder", *arguments]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"client_ca": ""}, "tls-client-ca"), ({"server_key": ""}, "tls-server-key"), (None, "apf.json")],
)
def test_a_forwarder_that_may_not_start_says_one_line_and_ends_with_2(tmp_path, change, word):
    path = tmp_path / "apf.json"
    if change is not None:
        path.write_text(attrs.evolve(TOLD, **change).to_json())
    result = subprocess.run(
        command("--config", str(path), "--listen", "127.0.0.1:0"),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("forwarder:")]
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in result.stderr
    assert TOLD.server_key.splitlines()[1] not in result.stdout + result.stderr


@pytest.mark.root
def test_a_start_with_a_real_namespace_and_no_tunnel(tmp_path):
    """In namespaces of its own: the pod's namespace is there before the forwarder says that it is ready."""
    (tmp_path / "apf.json").write_text(attrs.evolve(TOLD, tunnel="none").to_json())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(60)
        prepare = 'mount -t tmpfs none /run && ip link set lo up && exec "$@"'
        forwarder = command("--config", str(tmp_path / "apf.json"), "--listen", "127.0.0.1:15150")
        process = subprocess.Popen(
            ["unshare", "-mn", "sh", "-c", prepare, "sh", *forwarder],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        try:
            assert b"READY=1" in notify.recv(4096)
            root = f"/proc/{process.pid}/root"
            inside = ["nsenter", "-t", str(process.pid), "-r", "-m", "-n"]
            made = subprocess.run(
                [*inside, "nsenter", "--net=/run/netns/podns", "ip", "-o", "link"],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert made.returncode == 0, made.stderr
            assert " lo:" in made.stdout
            assert os.path.exists(f"{root}/run/netns/podns")
            ports = subprocess.run([*inside, "ss", "-ltn"], capture_output=True, text=True, timeout=30).stdout
            assert ":15150" in ports
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert process.returncode == -signal.SIGTERM, "twistd ends by the signal it was sent, after an orderly stop"
