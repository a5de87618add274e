"""Build the pod's network in a child process.

netlink code is large; a child that ends gives its memory back, and the forwarder stays small.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from peerpods.errors import GuestError
from peerpods.userdata.apf import ApfConfig

TIME_LIMIT = 30.0  # seconds
_MAX_REASON = 2000


def build(apf: ApfConfig, namespace_path: str) -> None:
    """Make the pod's namespace as apf.json says. Idempotent; blocks, at most TIME_LIMIT.

    Raises:
        GuestError: with what went wrong.
    """

    def work() -> None:
        from peerpods.podnet import setup_guest

        setup_guest(
            apf.network, vni=apf.vxlan_id, port=apf.vxlan_port, tunnel=apf.tunnel, namespace_path=namespace_path
        )

    reason = in_child(work)
    if reason is not None:
        raise GuestError(f"the pod's network could not be made: {reason}")


def in_child(work: Callable[[], None], limit: float = TIME_LIMIT) -> str | None:
    """Run `work` in a fork of this process; None when it returned, else why not, in one line."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(work, writer)
    os.close(writer)
    try:
        said, ended = _collect(reader, time.monotonic() + limit)
    finally:
        os.close(reader)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not ended:
        return f"it took longer than {limit:g} s"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    return " ".join(said.decode("utf-8", "replace").split()) or f"the child ended with status {code}"


def _child(work: Callable[[], None], writer: int) -> None:
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # nothing may unwind into the parent's stack
        text = f"{error}" or type(error).__name__
        os.write(writer, text.encode("utf-8", "replace")[:_MAX_REASON])
    finally:
        os._exit(code)


def _collect(fd: int, until: float) -> tuple[bytes, bool]:
    """What the child says until it ends; False when it did not in time."""
    said = b""
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return said, False
        piece = os.read(fd, _MAX_REASON)
        if not piece:
            return said, True
        said += piece
