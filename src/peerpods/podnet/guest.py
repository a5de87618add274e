"""The VM's end: the pod's namespace with the pod's own interface, which is a tunnel to the worker.

Runs in a forked child, which ends when it is done: what it loads and where it moves is not the forwarder's.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from peerpods.errors import GuestError
from peerpods.model import PodNetwork

DEADLINE = 180.0  # seconds; longest wait for the VM's own network (spec upstream 5.3)


def setup_guest(
    network: PodNetwork, *, vni: int, port: int, tunnel: str, namespace_path: str, timeout: float = DEADLINE
) -> None:
    """Build the pod's namespace. Blocks until it is done; idempotent; call it from a process with one thread.

    Args:
        tunnel: "vxlan", or "none": then the namespace is made, with only `lo`.
        namespace_path: where the namespace is, or will be mounted.
        timeout: seconds to wait for an interface that leads to the worker.

    Raises:
        GuestError: what failed; the namespace may be half-built, a second call goes on.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(writing, network, vni, port, tunnel, namespace_path, timeout)
    os.close(writing)
    try:
        told = _read_all(reading)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    if told or status:
        raise GuestError(told or f"the pod's network was not built: the child ended with status {status}")


def _in_child(writing: int, network: PodNetwork, vni: int, port: int, tunnel: str, path: str, timeout: float) -> None:
    """Never returns: what the parent has (buffers, exit handlers) must not run twice."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from peerpods.podnet.building import build

        build(network, vni=vni, port=port, tunnel=tunnel, path=path, deadline=time.monotonic() + timeout)
    except BaseException as error:  # the parent is told, whatever it is
        os.write(writing, f"the pod's network was not built: {error}".encode()[:4000])
        os._exit(1)
    os._exit(0)


def _read_all(fd: int) -> str:
    parts = []
    while part := os.read(fd, 4096):
        parts.append(part)
    return b"".join(parts).decode(errors="replace")
