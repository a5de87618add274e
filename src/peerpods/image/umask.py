"""The builder's umask must not show in an image: files get their usual modes while one is built."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

USUAL = 0o022


@contextmanager
def usual_umask() -> Iterator[None]:
    """Of this process and of the programs that it runs meanwhile; also a decorator."""
    own = os.umask(USUAL)
    try:
        yield
    finally:
        os.umask(own)
