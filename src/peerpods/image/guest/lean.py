"""Keeps away what Twisted imports at its start and a pod VM never uses: a third of all imports, a second without KVM.

boot.py alone calls this; the commands `twistd` and `peerpods-userdata` in the VM run with everything.
"""

from __future__ import annotations

import sys
from types import CoroutineType, ModuleType


class Absent:
    """In place of a class that nothing in the VM makes an instance of."""


def stand_in(name: str, **facts: object) -> None:
    """Let `name` be imported as a module with only these facts in it."""
    if name not in sys.modules:
        module = ModuleType(name)
        module.__dict__.update(facts)
        sys.modules[name] = module


def install() -> None:
    """Put the stand-ins; before anything of Twisted is imported. Idempotent.

    twisted.internet.defer wants three names of asyncio (the reactor here is epoll's), twisted.python.compat a name of
    http.cookiejar (with it come http.client, email, tempfile), twisted.application.service an interface of
    twisted.plugin (with it comes zipfile). The node's side of podnet has a thread pool.
    """
    from zope.interface import Interface

    stand_in("asyncio", AbstractEventLoop=Absent, Future=Absent, iscoroutine=lambda it: isinstance(it, CoroutineType))
    stand_in("concurrent.futures", ThreadPoolExecutor=Absent)
    stand_in("http.cookiejar")
    stand_in("twisted.plugin", IPlugin=Interface)
