"""Into another network namespace and back, for the calling thread only. Blocking, standard library only."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

NEWNET = 0x40000000  # CLONE_NEWNET: nothing else may be at a path that is entered


def call(name: str, *arguments: object) -> None:
    """A libc function that gives 0 or sets errno.

    Raises:
        OSError: with that errno.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


@contextmanager
def inside(path: str) -> Iterator[None]:
    """Run in another network namespace and come back.

    Raises:
        OSError: when there is no such namespace.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            call("setns", there, NEWNET)
        finally:
            os.close(there)
        try:
            yield
        finally:
            call("setns", home, NEWNET)
    finally:
        os.close(home)
