"""First process inside the demo's own namespaces: private mounts, loopback, and an init that reaps what is orphaned.

`python -m peerpods.demo.inside MODULE [ARG…]` runs `python -m MODULE ARG…` as its child and gives its exit code. When
this process ends, the kernel ends every process of the pid namespace: nothing can be left, even after a kill -9.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target}: {os.strerror(number)}")


def private_mounts() -> None:
    """A private copy of the mount tree with an empty /run and a /proc and /sys of these namespaces."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", 0)
    _mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    # The first named network namespace would make this mount, and nobody would unmount it.
    Path("/run/netns").mkdir(mode=0o755)
    _mount("/run/netns", "/run/netns", "", _MS_BIND)
    _mount("none", "/run/netns", "", _MS_REC | _MS_SHARED)
    cgroups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_DIRECTORY)
    _mount("sysfs", "/sys", "sysfs", 0)
    # sysfs shows the network devices of the namespace that mounts it; the cgroup tree is put back on top.
    _mount(f"/proc/self/fd/{cgroups}", "/sys/fs/cgroup", "", _MS_BIND | _MS_REC)
    os.close(cgroups)


def loopback_up() -> None:
    """Bring up lo of this network namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")


def run_and_reap(command: list[str]) -> int:
    """Run a child to its end, reaping every orphan meanwhile; SIGINT and SIGTERM are passed on to it."""
    child = os.fork()
    if child == 0:
        os.execv(command[0], command)  # noqa: S606
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _frame: os.kill(child, got))
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Entry point; expects to be pid 1 of new network, mount and pid namespaces."""
    private_mounts()
    loopback_up()
    code = run_and_reap([sys.executable, "-m", *sys.argv[1:]])
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
