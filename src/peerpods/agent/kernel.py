"""The few system calls that Python does not offer: mounts, namespaces of one thread, the subreaper flag.

None of them blocks on the filesystems used here (tmpfs, overlay, bind). All raise OSError with the path.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC = 0x1000, 0x4000  # linux/mount.h
MNT_DETACH = 2
CLONE_NEWUTS, CLONE_NEWIPC = 0x04000000, 0x08000000  # linux/sched.h
CAP_SYS_RESOURCE = 24  # linux/capability.h
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

FLAGS = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
"""Mount options that are flags; `rw`, `suid` and the like are their absence."""
_ABSENT = {"rw", "suid", "dev", "exec", "defaults"}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def split_options(options: list[str]) -> tuple[int, str]:
    """Mount options as (flags, data) for mount(2)."""
    flags = 0
    data = []
    for option in options:
        if option in FLAGS:
            flags |= FLAGS[option]
        elif option and option not in _ABSENT:
            data.append(option)
    return flags, ",".join(data)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, target)


def bind(source: str, target: str) -> None:
    """Bind a file or folder, with what is mounted below it."""
    mount(source, target, "none", MS_BIND | MS_REC)


def unmount(target: str) -> None:
    """Detach what is mounted on a path; silent when nothing is."""
    result = _libc.umount2(target.encode(), MNT_DETACH)
    if result != 0 and ctypes.get_errno() not in (22, 2):  # EINVAL: no mount point; ENOENT
        _check(result, target)


def mounts_below(folder: str) -> list[str]:
    """Mount points in or at a folder, the deepest and latest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == folder or point.startswith(folder.rstrip("/") + "/"):
            found.append(point)
    return found[::-1]


def oom_floor() -> int:
    """Lowest OOM score adjustment that we may set: our own without CAP_SYS_RESOURCE (a worker in a container)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    if effective >> CAP_SYS_RESOURCE & 1:
        return -1000
    return int(Path("/proc/self/oom_score_adj").read_text())


def become_subreaper() -> None:
    """Containers whose starter (crun) has ended become our children, so that we learn their exit status."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def _thd_pin_namespaces(hostname: str, uts: str, ipc: str, failures: list[OSError]) -> None:
    try:
        _check(_libc.unshare(CLONE_NEWUTS | CLONE_NEWIPC), "unshare")
        socket.sethostname(hostname)
        bind("/proc/thread-self/ns/uts", uts)
        bind("/proc/thread-self/ns/ipc", ipc)
    except OSError as error:
        failures.append(error)


def pin_namespaces(hostname: str, uts: str, ipc: str) -> None:
    """Make a UTS namespace with a host name and an IPC namespace, kept alive by two files.

    A thread of its own makes them and ends; the process stays where it is. Takes about a millisecond.
    """
    for path in (uts, ipc):
        Path(path).touch()
    failures: list[OSError] = []
    thread = threading.Thread(target=_thd_pin_namespaces, args=(hostname, uts, ipc, failures))
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
