"""Unix server sockets that are never open wider than they should be, and never taken from a living process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

MAX_PATH = 107  # bytes that fit a socket address
_LOCK_TRIES, _LOCK_PAUSE = 50, 0.02  # others hold the lock only while they bind


class SocketInUse(OSError):
    """A living process listens on the path, or something that is no socket is there."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(errno.EADDRINUSE, text, path)
        self.text = text

    def __str__(self) -> str:
        return self.text


class _Port(unix.Port):
    """A listening socket that removes its file at the end only if it is still its own."""

    path = ""
    mine: tuple[int, int] | None = None

    def connectionLost(self, reason: Any) -> None:
        if self.mine is not None and _identity(self.path) == self.mine:
            Path(self.path).unlink()
        tcp.Port.connectionLost(self, reason)  # type: ignore[no-untyped-call]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _clear(path: str) -> None:
    """Remove a socket file that nobody listens on; SocketInUse when that cannot be said of it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUse(path, f"{path} exists and is not a socket: remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # EAGAIN: it listens, and its queue is full. Anything else is no proof that it is dead.
            text = f"{path} is in use ({error.strerror}): stop the process that listens there"
            raise SocketInUse(path, text) from error
    raise SocketInUse(path, f"{path} is in use: another process listens there, stop it first")


def _bind(path: str, mode: int, backlog: int) -> socket.socket:
    """A listening socket at the path, with the mode from the first instant."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        # Linux gives the new file the mode of the socket, less the umask: never more than asked for.
        os.fchmod(listening.fileno(), mode)
        listening.bind(path)
        Path(path).chmod(mode)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def bind_unix(path: str, mode: int = 0o600, backlog: int = 128) -> socket.socket:
    """A listening socket for who accepts by itself, in a folder where nobody else starts. Errors as `listen_unix`."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, f"a socket path may have {MAX_PATH} bytes", path)
    _clear(path)
    return _bind(path, mode, backlog)


async def _listen(reactor: Any, path: str, factory: Factory, mode: int, backlog: int) -> IListeningPort:
    if len(os.fsencode(path)) > MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, f"a socket path may have {MAX_PATH} bytes", path)
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Two starters must not both find the file dead and take it from each other.
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_TRIES - 1:
                    raise SocketInUse(path, f"{path}: another process is making a socket here") from None
                await deferLater(reactor, _LOCK_PAUSE)
        _clear(path)
        with _bind(path, mode, backlog) as listening:
            port = _Port._fromListeningDescriptor(  # type: ignore[no-untyped-call]
                reactor, listening.fileno(), factory
            )
            port.mode = mode  # Twisted sets it once more
            port.path = path
            port.mine = _identity(path)
            port.startListening()
    finally:
        os.close(folder)
    return port  # type: ignore[no-any-return]


def listen_unix(
    reactor: Any, path: str, factory: Factory, mode: int = 0o600, backlog: int = 128
) -> Deferred[IListeningPort]:
    """Listen on a unix socket.

    A dead socket file is taken over. The file has `mode` from the first instant, whatever the umask. Stopping the
    port removes the file, unless somebody else has put another in its place.

    Fails with SocketInUse when a living process listens there or the path is no socket, and with OSError (no such
    folder, no permission, path over MAX_PATH bytes).
    """
    return Deferred.fromCoroutine(_listen(reactor, path, factory, mode, backlog))
