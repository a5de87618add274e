"""Orders to the relay over its control socket, and its reports: one connection, made again whenever it is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater

from peerpods.adaptor.ports import LinkFacts, RelayAway, RelayForgot, RelayKeys
from peerpods.aio import spawn
from peerpods.errors import LinkError, LinkFailure
from peerpods.model import SandboxId
from peerpods.obs.log import get_logger
from peerpods.protocols import relay_pb2 as pb
from peerpods.ttrpc import Client, Code, ConnectionClosed, StatusError, connect_client

M = TypeVar("M", bound=Message)
log = get_logger("adaptor.relay")

SERVICE = "peerpods.v1.Relay"
CONNECT_TIMEOUT = 2.0  # seconds for one try
RETRY_FIRST, RETRY_MAX = 0.1, 2.0  # seconds between tries to reach a relay that is away
AWAY_MAX = 10.0  # seconds that an order waits for a relay that is away
CALL_TIMEOUT = 10.0  # seconds for an order that needs nothing of the VM
LINK_MARGIN = 2.0  # seconds beyond a link's own bound

Report = Callable[[pb.WatchEvent], None]
Synced = Callable[[list[LinkFacts]], None]


class RelayClient:
    """See `ports.RelayPort`.

    Args:
        path: the relay's control socket.
        on_lost: told when the connection is lost.
        before_sync: told right before a fresh connection's listing is asked for.
        on_sync: told what the relay has, once for each connection, before any of its reports.
        on_report: told each report.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        *,
        before_sync: Callable[[], None] = lambda: None,
        on_sync: Synced = lambda _facts: None,
        on_report: Report = lambda _event: None,
        connect: Callable[[], Deferred[Client]] | None = None,
    ) -> None:
        self.path = path
        self._reactor = reactor
        self._before_sync = before_sync
        self._on_sync = on_sync
        self._on_report = on_report
        self._connect = connect or self._dial
        self._client: Client | None = None
        self._waiting: list[Deferred[Client]] = []
        self._keeper: Deferred[None] | None = None

    def start(self) -> None:
        """Keep a connection from now on."""
        if self._keeper is None:
            self._keeper = spawn(self._keep())
            self._keeper.addErrback(self._died)

    async def stop(self) -> None:
        """Let go of the connection; orders that wait fail."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(self._away("the adaptor is stopping"))
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def connected(self) -> bool:
        """Whether the relay can be given orders now."""
        return self._client is not None and bool(self._client.connected)

    # Orders

    async def open(self, sandbox: SandboxId, keys: RelayKeys) -> str:
        request = pb.OpenRequest(
            sandbox=sandbox,
            server_name=keys.server_name,
            server_ca=keys.server_ca,
            client_cert=keys.client_cert,
            client_key=keys.client_key,
        )
        answer = await self._call("Open", request, pb.OpenResponse, CALL_TIMEOUT, sandbox)
        return answer.agent_socket

    async def link(self, sandbox: SandboxId, host: str, port: int, timeout: float) -> None:
        request = pb.LinkRequest(sandbox=sandbox, host=host, port=port, deadline=int(timeout * 1e9))
        answer = await self._call("Link", request, pb.LinkResponse, timeout + LINK_MARGIN, sandbox)
        if not answer.up:
            name = pb.LinkFailure.Name(answer.failure)
            kind = LinkFailure(name) if name in LinkFailure.__members__ else LinkFailure.CLOSED
            text = answer.message or f"no link to {host} port {port}: {name}"
            raise LinkError(text, kind=kind, sandbox=sandbox)

    async def close(self, sandbox: SandboxId) -> None:
        await self._call("Close", pb.CloseRequest(sandbox=sandbox), pb.CloseResponse, CALL_TIMEOUT, sandbox)

    async def facts(self) -> list[LinkFacts]:
        return _facts(await self._call("List", pb.ListRequest(), pb.ListResponse, CALL_TIMEOUT, None))

    async def _call(self, method: str, request: Message, answer: type[M], timeout: float, sandbox: str | None) -> M:
        client = await self._ready()
        try:
            return await client.call(SERVICE, method, request, answer, timeout=timeout)
        except ConnectionClosed as error:
            raise self._away(f"it closed the connection during {method}") from error
        except StatusError as error:
            code, text = error.status.code, f"the relay refuses {method}: {error.status.message}"
            if code == Code.NOT_FOUND:
                raise RelayForgot(text, kind=LinkFailure.CLOSED, sandbox=sandbox) from error
            if code == Code.DEADLINE_EXCEEDED:
                raise LinkError(
                    f"the relay did not answer {method} within {timeout:g} s",
                    kind=LinkFailure.TIMEOUT,
                    sandbox=sandbox,
                ) from error
            raise LinkError(text, kind=LinkFailure.CLOSED, sandbox=sandbox) from error

    def _ready(self) -> Awaitable[Client]:
        waiter: Deferred[Client] = Deferred()
        if self._client is not None and self._client.connected:
            waiter.callback(self._client)
            return waiter
        self._waiting.append(waiter)

        def late(_result: object, timeout: float) -> Client:
            raise self._away(f"no connection within {timeout:g} s")

        def done(result: Any) -> Any:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            return result

        return waiter.addTimeout(AWAY_MAX, self._reactor, onTimeoutCancel=late).addBoth(done)

    def _away(self, why: str) -> RelayAway:
        return RelayAway(
            f"the relay does not answer on {self.path}: {why}",
            kind=LinkFailure.CLOSED,
            remedy="see that `twistd relay` runs with the same --control",
        )

    # The connection

    def _dial(self) -> Deferred[Client]:
        endpoint = UNIXClientEndpoint(self._reactor, self.path)  # type: ignore[no-untyped-call]
        return connect_client(self._reactor, endpoint, timeout=CONNECT_TIMEOUT)

    async def _keep(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                client = await self._connect()
            except CancelledError:
                raise
            except Exception as error:
                if pause == RETRY_FIRST:
                    log.warning("relay_away", path=self.path, error=str(error))
            else:
                pause = RETRY_FIRST
                try:
                    await self._serve(client)
                finally:
                    self._client = None
                    spawn(client.close()).addErrback(self._died)
                log.warning("relay_lost", path=self.path)
            await deferLater(self._reactor, pause)
            pause = min(RETRY_MAX, pause * 2)

    async def _serve(self, client: Client) -> None:
        """Watch until the connection ends; what happens before the listing is reported after it."""
        try:
            stream = client.stream(SERVICE, "Watch", pb.WatchRequest(), pb.WatchEvent, kind="server_stream")
            # READY comes first: nothing that happens after it goes unseen.
            if await _first(stream.receive(), self._reactor) is None:
                return
            self._before_sync()
            listing = await client.call(SERVICE, "List", pb.ListRequest(), pb.ListResponse, timeout=CALL_TIMEOUT)
            self._client = client
            log.info("relay_connected", path=self.path, sandboxes=len(listing.sandboxes))
            self._on_sync(_facts(listing))
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                if not waiter.called:
                    waiter.callback(client)
            while True:
                event = await stream.receive()
                if event is None:
                    return
                self._on_report(event)
        except StatusError as error:
            log.debug("relay_watch_ended", path=self.path, error=str(error))

    def _died(self, failure: Any) -> None:
        if not isinstance(failure.value, CancelledError):
            log.error("relay_client_died", error=failure.getTraceback())


def _first(waiting: Deferred[Any], reactor: Any) -> Deferred[Any]:
    def late(_result: object, _timeout: float) -> None:
        return None

    return waiting.addTimeout(CALL_TIMEOUT, reactor, onTimeoutCancel=late)


def _facts(listing: pb.ListResponse) -> list[LinkFacts]:
    return [
        LinkFacts(
            sandbox=SandboxId(one.sandbox),
            up=one.up,
            active_connections=one.active_connections,
            was_active=one.was_active,
            idle=one.idle_nano / 1e9,
        )
        for one in listing.sandboxes
    ]
