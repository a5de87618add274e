"""Keeps the guard's state in a file, so that a forwarder that is started again guards on where the first one ended."""

from __future__ import annotations

import json
import os

from peerpods.forwarder.guard import Guard
from peerpods.obs.log import get_logger

MAX_STATE = 1 << 20
_log = get_logger("forwarder")


class Keeper:
    """The file at `path` (on a memory file system: it ends with the VM)."""

    def __init__(self, guard: Guard, path: str) -> None:
        self._guard = guard
        self._path = path
        self._kept = guard.changes

    def load(self) -> None:
        """Restore what a former process kept. A file that cannot be read is an incident, and is left out."""
        try:
            with open(self._path, "rb") as file:
                self._guard.restore(json.loads(file.read(MAX_STATE)))
            _log.info("state_restored", stage=self._guard.stage.value)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("state_unreadable", reason=type(error).__name__)

    def save(self) -> None:
        """Write the state if it has changed since."""
        if self._guard.changes == self._kept:
            return
        self._kept = self._guard.changes
        draft = f"{self._path}.new"
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(self._guard.snapshot(), file)
            os.replace(draft, self._path)
        except OSError as error:
            _log.error("state_not_kept", reason=error.strerror)
