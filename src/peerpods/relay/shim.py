"""The shim's side of a pod: its socket and the connections on it."""

from __future__ import annotations

import errno
import itertools
import socket
from pathlib import Path
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.python.failure import Failure

from peerpods.errors import LocalFailure
from peerpods.relay.mux import Caller
from peerpods.tls.pump import Pump
from peerpods.ttrpc import Frame, FrameDecoder, Oversize
from peerpods.ttrpc.unix import bind_unix

_ids = itertools.count(1)


class ShimOwner(Protocol):
    """What a shim connection tells its pod."""

    def shim_frames(self, shim: Shim, frames: list[Frame | Oversize]) -> None:
        """Frames came from the shim."""

    def shim_gone(self, shim: Shim) -> None:
        """The connection has closed. Told once."""

    def shim_full(self, shim: Shim, full: bool) -> None:
        """The shim does not read fast enough (True), or does again (False)."""


class Shim(protocol.Protocol):
    """One connection of a shim."""

    transport: Any = None
    takes_views = True

    def __init__(self, owner: ShimOwner) -> None:
        self.caller = Caller(next(_ids))
        self.by_relay = False
        """Closed by the relay itself."""
        self._owner = owner
        self._decoder = FrameDecoder()

    @property
    def id(self) -> int:
        """Number of the connection, unique in this process."""
        return self.caller.id

    def close(self) -> None:
        """End it after what is already written; the shim then sees "ttrpc: closed" for its pending calls."""
        self.by_relay = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # -- Twisted's side

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes | memoryview) -> None:
        frames = self._decoder.feed(data)
        if frames:
            self._owner.shim_frames(self, frames)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self._owner.shim_gone(self)

    def pauseProducing(self) -> None:
        self._owner.shim_full(self, True)

    def resumeProducing(self) -> None:
        self._owner.shim_full(self, False)

    def stopProducing(self) -> None:
        """`connectionLost` does what is to be done."""


def start_shim(reactor: Any, sock: socket.socket, owner: ShimOwner) -> Shim:
    """A shim connection on an accepted socket."""
    shim = Shim(owner)
    Pump(reactor, sock).begin(shim)
    return shim


def bind_agent_socket(path: str, sandbox: str) -> socket.socket:
    """A listening socket of mode 0600 in a folder of mode 0700 that is made when missing.

    Raises:
        LocalFailure: in use by a living process, or the machine refuses.
    """
    folder = Path(path).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        return bind_unix(path)
    except OSError as error:
        raise LocalFailure(f"cannot listen on {path}: {error.strerror or error}", sandbox=sandbox) from error


def remove_agent_socket(path: str, sock: socket.socket | None) -> None:
    """Remove the socket file and its folder, when they are ours or nobody's. Idempotent."""
    if sock is None:
        # A leftover of an earlier process: only when nobody listens there.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) in (0, errno.EAGAIN):
                return
    try:
        Path(path).unlink(missing_ok=True)
        Path(path).parent.rmdir()
    except OSError:
        # Gone already, or the folder holds what is not ours.
        return
