"""A thread with a libvirt connection of its own, and the event loop thread that libvirt needs.

Functions that run in such a thread are called `_thd_…`; they take the connection first, and plain values. A lost
connection is opened again by the next call; a call that finds it lost is tried once more, since all of ours are
idempotent.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import libvirt
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from peerpods.clouds.libvirt.failures import connection_lost, to_cloud_error
from peerpods.errors import CloudError, CloudFailure
from peerpods.obs.log import get_logger

log = get_logger("clouds.libvirt")
P = ParamSpec("P")
T = TypeVar("T")
KEEPALIVE = (5, 3)  # seconds between probes, probes without answer until a connection counts as dead
_once = threading.Lock()
_running = False


def start_event_loop() -> None:
    """Run libvirt's default event loop in a daemon thread, once a process. Before the first connection."""
    global _running
    with _once:
        if _running:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised; no copy on stderr
        libvirt.virEventRegisterDefaultImpl()
        libvirt.virEventAddTimeout(1000, lambda *_: None, None)  # lets the loop see what other threads add
        threading.Thread(target=_loop, name="libvirt-events", daemon=True).start()
        _running = True


def _loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Lane:
    """One thread, one connection, calls in order.

    Args:
        on_open: called in the thread with every new connection: the place to register callbacks.
    """

    def __init__(self, reactor: Any, uri: str, name: str, on_open: Callable[[Any], None] | None = None) -> None:
        self._reactor = reactor
        self._uri = uri
        self._on_open = on_open
        self._name = f"libvirt-{name}"
        self._pool: Any = None
        self._conn: Any = None

    def start(self) -> None:
        """Start the thread; again after a stop too."""
        start_event_loop()
        if self._pool is None:
            self._pool = ThreadPool(1, 1, name=self._name)
            self._pool.start()

    def run(
        self, doing: str, function: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Call `function(connection, …)` in the thread.

        The Deferred must not be cancelled: the thread cannot be stopped. It fails with CloudError for libvirt's
        errors; others pass through.

        Args:
            doing: the start of an error's sentence.
        """

        def attempt() -> T:
            return function(self._thd_connection(), *args, **kwargs)

        def call() -> T:
            try:
                try:
                    return attempt()
                except libvirt.libvirtError as error:
                    if not connection_lost(error):
                        raise
                    self._thd_drop()
                    return attempt()
            except libvirt.libvirtError as error:
                if connection_lost(error):
                    self._thd_drop()
                raise to_cloud_error(error, doing) from error

        if self._pool is None:
            text = f"{doing}: the provider is not running"
            return fail(CloudError(text, kind=CloudFailure.RETRYABLE))
        return deferToThreadPool(self._reactor, self._pool, call)

    async def stop(self) -> None:
        """Close the connection and end the thread; waits for a call that runs."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await deferToThreadPool(self._reactor, pool, self._thd_drop)
            pool.stop()

    def _thd_connection(self) -> Any:
        if self._conn is not None and not self._conn.isAlive():
            self._thd_drop()
        if self._conn is None:
            conn = libvirt.open(self._uri)
            with contextlib.suppress(libvirt.libvirtError):  # drivers without a daemon have no keep-alive
                conn.setKeepAlive(*KEEPALIVE)
            self._conn = conn
            if self._on_open is not None:
                self._on_open(conn)
        return self._conn

    def _thd_drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()
