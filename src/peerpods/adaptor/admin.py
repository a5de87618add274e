"""Service `peerpods.v1.Admin`: what `peerpods ps`, `inspect` and `console` ask. Root only, on a socket of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from peerpods.adaptor import journal
from peerpods.adaptor.executor import World
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import Sandbox
from peerpods.errors import CloudError, CloudFailure, NotFound, OutOfOrder, Refused
from peerpods.model import Phase, SandboxId
from peerpods.protocols import admin_pb2 as pb
from peerpods.ttrpc import CallContext, Method, Service

FOLLOW_PERIOD = 0.5  # seconds between two looks at a console that is followed
CONSOLE_BYTES = 65536
CHUNK = 32768


def describe(record: Sandbox, now: float, peer_pod: str = "") -> pb.Sandbox:
    """A record as `peerpods ps` shows it.

    Args:
        peer_pod: what the cluster calls it.
    """
    instance = record.instance
    error = "; ".join(part for part in (record.last_error, record.trouble) if part)
    return pb.Sandbox(
        sandbox=record.id,
        pod=record.pod,
        namespace=record.namespace,
        state=record.phase.value,
        provider=record.provider,
        instance=instance.id if instance else "",
        addresses=list(instance.addresses) if instance else [],
        age_s=max(0.0, round(now - record.created_at, 3)),
        last_error=error,
        pod_uid=record.pod_uid,
        peer_pod=peer_pod,
    )


def inspect(record: Sandbox, now: float, peer_pod: str = "") -> pb.InspectResponse:
    """A record as `peerpods inspect` shows it."""
    return pb.InspectResponse(
        sandbox=describe(record, now, peer_pod),
        history=[pb.HistoryEntry(at=e.at, state=e.state, reason=e.reason) for e in record.history],
        vni=record.vni,
        netns=record.netns,
        phases=dict(record.phases),
    )


def read_offline(state_dir: str, now: float) -> list[pb.InspectResponse]:
    """The journal's sandboxes when no adaptor answers; ended ones left out.

    Raises:
        LocalFailure: no journal, or not readable.
    """
    return [inspect(r, now) for r in journal.read_offline(state_dir) if r.phase is not Phase.GONE]


class Admin:
    """Handlers of the service."""

    def __init__(self, reactor: IReactorTime, world: World, runner: Runner) -> None:
        self._reactor = reactor
        self._world = world
        self._runner = runner

    def services(self) -> list[Service]:
        """The service."""
        return [
            Service(
                "peerpods.v1.Admin",
                {
                    "Ps": Method(self.ps, pb.PsRequest, pb.PsResponse),
                    "Inspect": Method(self.inspect, pb.InspectRequest, pb.InspectResponse),
                    "Console": Method(self.console, pb.ConsoleRequest, pb.ConsoleChunk, "server_stream"),
                },
            )
        ]

    async def ps(self, _ctx: CallContext, _request: pb.PsRequest) -> pb.PsResponse:
        """All sandboxes but the ended, oldest first."""
        now = self._world.now()
        records = sorted(self._runner.living(), key=lambda r: r.created_at)
        name_of = self._world.cluster.name_of
        return pb.PsResponse(sandboxes=[describe(record, now, name_of(record)) for record in records])

    async def inspect(self, _ctx: CallContext, request: pb.InspectRequest) -> pb.InspectResponse:
        """One sandbox, ended ones too."""
        record = self.find(request.sandbox)
        return inspect(record, self._world.now(), self._world.cluster.name_of(record))

    def find(self, prefix: str) -> Sandbox:
        """The sandbox with this id, or the only one whose id begins so; one that lives before those that ended.

        Raises:
            Refused: an empty or ambiguous prefix.
            NotFound: no such sandbox.
        """
        if not prefix:
            raise Refused("the sandbox id is empty", remedy="see peerpods ps")
        exact = self._runner.sandboxes.get(SandboxId(prefix))
        if exact is not None:
            return exact
        matching = [r for r in self._runner.sandboxes.values() if r.id.startswith(prefix)]
        alive = [r for r in matching if r.phase is not Phase.GONE]
        chosen = alive or matching
        if not chosen:
            raise NotFound(f"no sandbox begins with {prefix[:80]!r}", remedy="see peerpods ps")
        if len(chosen) > 1:
            raise Refused(f"{len(chosen)} sandboxes begin with {prefix!r}", remedy="give more of the id")
        return chosen[0]

    async def console(
        self, _ctx: CallContext, request: pb.ConsoleRequest, send: Callable[[pb.ConsoleChunk], Awaitable[None]]
    ) -> None:
        """The console's newest bytes; with `follow` what comes after them, until the instance is gone.

        Raises:
            OutOfOrder: the sandbox has no instance, or its provider no consoles.
        """
        record = self.find(request.sandbox)
        if record.instance is None or record.phase is Phase.GONE:
            raise OutOfOrder(f"sandbox {record.id} has no instance (it is {record.phase.value})")
        if not self._world.provider.capabilities().console:
            raise OutOfOrder(f"provider {record.provider} has no consoles")
        shown = b""
        while True:
            try:
                newest = await self._world.provider.console(record.instance.id, CONSOLE_BYTES)
            except CloudError as error:
                if request.follow and error.kind is CloudFailure.NOT_FOUND:
                    return
                raise
            fresh = fresh_part(shown, newest)
            for start in range(0, len(fresh), CHUNK):
                await send(pb.ConsoleChunk(data=fresh[start : start + CHUNK]))
            shown = newest
            if not request.follow or self._ended(record):
                return
            await deferLater(self._reactor, FOLLOW_PERIOD)

    def _ended(self, record: Sandbox) -> bool:
        current = self._runner.sandboxes.get(record.id)
        return current is None or current.phase is Phase.GONE or current.attempt != record.attempt


def fresh_part(shown: bytes, newest: bytes) -> bytes:
    """What of a console's newest bytes has not been shown; both are ends of the same growing text, cut at the front."""
    if newest.startswith(shown):
        return newest[len(shown) :]
    # The front moved on: find where what was shown ends.
    for size in (4096, 256, 16):
        mark = shown[-size:]
        place = newest.rfind(mark) if mark else -1
        if place >= 0:
            return newest[place + len(mark) :]
    return newest
