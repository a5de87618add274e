"""`peerpods.v1.Relay`: the adaptor's orders. Every call is idempotent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from peerpods.errors import AlreadyExists, LinkError, NotFound, PeerPodError, Refused
from peerpods.model import agent_socket_path, parse_sandbox_id
from peerpods.obs.log import get_logger
from peerpods.protocols import relay_pb2
from peerpods.relay import dial
from peerpods.relay.mux import Name
from peerpods.relay.pod import Facts, Pod
from peerpods.relay.shim import remove_agent_socket
from peerpods.relay.watch import Watchers
from peerpods.ttrpc import CallContext, Method, Service, Status, default_map_error

SERVICE = "peerpods.v1.Relay"
MAX_PODS = 4096
_log = get_logger("relay")


def map_error(error: BaseException) -> Status:
    """Our errors carry their own code; the rest as ttrpc sees fit."""
    if isinstance(error, PeerPodError):
        return Status(error.code, str(error))
    return default_map_error(error)


class Control:
    """The open pods, and the service that opens and closes them.

    Args:
        pods_dir: absolute path; one folder per sandbox is made below.
        dial_timeout: seconds for one try to reach a VM.
        observe: told of each event too (metrics), with the number of links the sandbox had so far.
        count: told of each call that a VM answered: (service, method) and status code.
    """

    def __init__(
        self,
        reactor: Any,
        pods_dir: str,
        dial_timeout: float,
        observe: Callable[[relay_pb2.WatchEvent, int], None] | None = None,
        count: Callable[[Name, int], None] | None = None,
    ) -> None:
        self.pods: dict[str, Pod] = {}
        self.watchers = Watchers()
        self._reactor = reactor
        self._pods_dir = pods_dir
        self._dial_timeout = dial_timeout
        self._observe = observe
        self._count = count

    def service(self) -> Service:
        """For a ttrpc Server."""
        pb = relay_pb2
        return Service(
            SERVICE,
            {
                "Open": Method(self.open, pb.OpenRequest, pb.OpenResponse),
                "Link": Method(self.link, pb.LinkRequest, pb.LinkResponse),
                "Close": Method(self.close, pb.CloseRequest, pb.CloseResponse),
                "List": Method(self.list, pb.ListRequest, pb.ListResponse),
                "Watch": Method(self.watch, pb.WatchRequest, pb.WatchEvent, kind="server_stream"),
            },
        )

    async def open(self, ctx: CallContext, request: relay_pb2.OpenRequest) -> relay_pb2.OpenResponse:
        """Listen on the sandbox's agent socket. Equal facts again: the same answer.

        Raises:
            Refused: a bad id or a socket path that is too long.
            AlreadyExists: the sandbox is open with other facts.
            ConfigError, LocalFailure: bad certificates; the socket cannot be made.
        """
        sandbox = parse_sandbox_id(request.sandbox)
        facts = Facts(
            server_name=request.server_name,
            server_ca=request.server_ca,
            client_cert=request.client_cert,
            client_key=request.client_key,
        )
        pod = self.pods.get(sandbox)
        if pod is None:
            if not facts.server_name:
                raise Refused("Open needs a server_name", sandbox=sandbox)
            if len(self.pods) >= MAX_PODS:
                raise Refused(f"the relay serves {MAX_PODS} sandboxes at most", sandbox=sandbox)
            path = agent_socket_path(self._pods_dir, sandbox)
            pod = Pod(
                self._reactor,
                sandbox,
                path,
                facts,
                dial_timeout=self._dial_timeout,
                publish=self._publish,
                count=self._count,
            )
            pod.open()
            self.pods[sandbox] = pod
            pod.log.info("pod_opened", server_name=facts.server_name)
        elif pod.facts_digest != facts.digest():
            raise AlreadyExists(
                f"sandbox {sandbox} is open with another name or other keys",
                sandbox=sandbox,
                remedy="close it first",
            )
        return relay_pb2.OpenResponse(agent_socket=pod.path)

    async def link(self, ctx: CallContext, request: relay_pb2.LinkRequest) -> relay_pb2.LinkResponse:
        """Bring the link up, within the deadline given and the call's own. While up to the same address: up.

        Raises:
            NotFound: the sandbox is not open.
            Refused: no host or no port.
        """
        sandbox = parse_sandbox_id(request.sandbox)
        pod = self.pods.get(sandbox)
        if pod is None:
            raise NotFound(f"sandbox {sandbox} is not open", sandbox=sandbox, remedy="call Open first")
        if not request.host or not 0 < request.port < 65536:
            raise Refused("Link needs a host and a port from 1 to 65535", sandbox=sandbox)
        seconds = dial.bound(request.deadline)
        remaining = ctx.remaining()
        if remaining is not None:
            # The answer must still find its way back.
            seconds = min(seconds, max(0.001, remaining * 0.98))
        try:
            await pod.link(request.host, request.port, seconds)
        except LinkError as error:
            return relay_pb2.LinkResponse(up=False, failure=error.kind.value, message=str(error))
        return relay_pb2.LinkResponse(up=True)

    async def close(self, ctx: CallContext, request: relay_pb2.CloseRequest) -> relay_pb2.CloseResponse:
        """End a sandbox: link, shim connections, socket, folder. Unknown ones too: what is left of them goes."""
        sandbox = parse_sandbox_id(request.sandbox)
        pod = self.pods.pop(sandbox, None)
        if pod is not None:
            pod.close()
            pod.log.info("pod_closed")
        else:
            remove_agent_socket(agent_socket_path(self._pods_dir, sandbox), None)
        return relay_pb2.CloseResponse()

    async def list(self, ctx: CallContext, request: relay_pb2.ListRequest) -> relay_pb2.ListResponse:
        """All open sandboxes."""
        return relay_pb2.ListResponse(sandboxes=[pod.describe() for pod in self.pods.values()])

    async def watch(
        self,
        ctx: CallContext,
        request: relay_pb2.WatchRequest,
        send: Callable[[relay_pb2.WatchEvent], Awaitable[None]],
    ) -> None:
        """READY, then every event from here on."""
        await self.watchers.serve(send)

    def close_all(self) -> Deferred[None]:
        """End every sandbox; fires when the sockets had a turn to flush."""
        while self.pods:
            self.pods.popitem()[1].close()
        done: Deferred[None] = Deferred()
        self._reactor.callLater(0, done.callback, None)
        return done

    def _publish(self, event: relay_pb2.WatchEvent) -> None:
        if self._observe is not None:
            pod = self.pods.get(event.sandbox)
            self._observe(event, pod.links if pod is not None else 0)
        self.watchers.publish(event)
