"""The certificate from a folder that somebody else writes (cert-manager's Secret, mounted)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from peerpods.errors import ConfigError
from peerpods.obs.log import get_logger

_log = get_logger("webhook")
_MAX = 1 << 20
Found = tuple[str, str]


class CertificateFolder:
    """Looks at tls.crt and tls.key every few seconds and tells of each new pair.

    A mounted Secret changes by a symbolic link that is swung over; the two files are read one after the other, so a
    pair that does not fit may be seen once: the next look, seconds later, sees the right one.
    """

    def __init__(self, reactor: Any, folder: str, poll: float, found: Callable[[str, str], None]) -> None:
        """Args:
        found: gets (certificate, key), PEM text, when they have changed; raises ConfigError for a broken pair.
        """
        self._reactor = reactor
        self._folder = Path(folder)
        self._poll = poll
        self._found = found
        self._last: Found | None = None
        self._trouble = ""
        self._timer: Any = None
        self._running = False

    def start(self) -> None:
        """Look now, and from now on."""
        self._running = True
        self._look()

    def stop(self) -> None:
        """Look no more. Idempotent."""
        self._running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        pool = self._reactor.getThreadPool()
        deferred: Deferred[Found] = deferToThreadPool(self._reactor, pool, _thd_read, self._folder)
        deferred.addCallbacks(self._seen, self._failed)
        deferred.addBoth(self._again)

    def _seen(self, pair: Found) -> None:
        self._complain("")
        if not self._running or pair == self._last:
            return
        self._last = pair
        # Already said by whoever was told; the last good pair stays in use.
        with contextlib.suppress(ConfigError):
            self._found(*pair)

    def _failed(self, failure: Failure) -> None:
        failure.trap(OSError, ValueError)
        self._complain(str(failure.value))

    def _complain(self, text: str) -> None:
        if text and text != self._trouble:
            _log.warning("certificate_not_read", folder=str(self._folder), error=text)
        self._trouble = text

    def _again(self, result: Any) -> Any:
        if self._running:
            self._timer = self._reactor.callLater(self._poll, self._look)
        return result


def _thd_read(folder: Path) -> Found:
    return _thd_file(folder / "tls.crt"), _thd_file(folder / "tls.key")


def _thd_file(path: Path) -> str:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > _MAX:
            raise ValueError(f"{path} is too large")
        return file.read(_MAX).decode()
