"""The link to a VM: one TLS connection that carries frames. The replaceable part: nothing else knows what it is."""

from __future__ import annotations

import ssl
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from peerpods.errors import LinkError, LinkFailure
from peerpods.pki.contexts import check_server_name
from peerpods.tls import connect_tls
from peerpods.ttrpc import Frame, FrameDecoder, Oversize


class LinkOwner(Protocol):
    """What a link tells its pod."""

    def link_frames(self, frames: list[Frame | Oversize]) -> None:
        """Frames came from the VM."""

    def link_lost(self, link: Link, error: LinkError) -> None:
        """The link is gone for good. Told once, and not after `Link.close`."""

    def link_full(self, full: bool) -> None:
        """The VM does not read fast enough: give it nothing more (True), or go on (False)."""


class Link(protocol.Protocol):
    """A TLS connection as a link."""

    transport: Any = None
    takes_views = True

    def __init__(self, owner: LinkOwner) -> None:
        self._owner: LinkOwner | None = owner
        self._decoder = FrameDecoder()

    def send(self, pieces: list[bytes]) -> None:
        """Send pieces of whole frames, in order and at once."""
        self.transport.writeSequence(pieces)

    def pause(self) -> None:
        """Take nothing more from the VM for now."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Go on."""
        self.transport.resumeProducing()

    def close(self) -> None:
        """End it; the owner hears nothing more."""
        self._owner = None
        if self.transport is not None:
            self.transport.abortConnection()

    # -- Twisted's side

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes | memoryview) -> None:
        frames = self._decoder.feed(data)
        if frames and self._owner is not None:
            self._owner.link_frames(frames)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            error = reason.value
            if not isinstance(error, LinkError):
                text = f"the link to the VM was lost: {reason.getErrorMessage()}"
                error = LinkError(text, kind=LinkFailure.CLOSED)
            owner.link_lost(self, error)

    def pauseProducing(self) -> None:
        if self._owner is not None:
            self._owner.link_full(True)

    def resumeProducing(self) -> None:
        if self._owner is not None:
            self._owner.link_full(False)

    def stopProducing(self) -> None:
        """`connectionLost` does what is to be done."""


def connect_link(
    reactor: Any,
    owner: LinkOwner,
    host: str,
    port: int,
    context: ssl.SSLContext,
    server_name: str,
    *,
    timeout: float,
    connect_timeout: float,
) -> Deferred[Link]:
    """One try to make a link. Fails with LinkError; cancelling drops the try."""
    return connect_tls(
        reactor,
        host,
        port,
        context,
        server_name,
        lambda: Link(owner),
        timeout,
        lambda der: check_server_name(der, server_name),
        connect_timeout=connect_timeout,
    )
