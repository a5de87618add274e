"""A memory instance's inside: it reads the user data as a VM would and answers agent calls over TLS.

There is no guard and no pod network here: that is the forwarder's work, tried with the provider `netns`. Calls
are answered by a script; `generic_agent` is the default, `replay.RecordedAgent` gives recorded answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred

from peerpods.clouds.memory.agent import AgentServices, GenericAgent
from peerpods.errors import GuestError

APF_PATH = "/run/peerpod/apf.json"


@attrs.frozen(kw_only=True)
class GuestView:
    """What a script may know of the instance it speaks for."""

    instance_id: str
    files: dict[str, bytes] = attrs.field(repr=False)
    """Path to content: the user data as the reader in a VM would have written it."""
    say: Callable[[str], None]
    """Write a line to the instance's console."""
    soon: Callable[[Callable[[], None]], object]
    """Call something on the next turn of the reactor."""


AgentScript = Callable[[GuestView], AgentServices]
"""Makes the services of one instance; called once, when it boots."""


def generic_agent(view: GuestView) -> AgentServices:
    """Health, and containers whose programs are the few that `peerpods.clouds.memory.agent` plays."""
    return GenericAgent(view.instance_id, view.say).services()


async def _never(*_: Any) -> Any:
    await Deferred()


@attrs.define
class Guest:
    """A running instance: a port on loopback."""

    port: int
    _listening: Any
    _server: Any

    async def close(self) -> None:
        """Close the port and every connection. Idempotent."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
            await self._server.close(0.0)


class Guests:
    """Boots instances on one reactor."""

    def __init__(self, reactor: Any, agent: AgentScript) -> None:
        self._reactor = reactor
        self._agent = agent

    async def boot(self, instance_id: str, user_data: bytes, *, silent: bool, say: Callable[[str], None]) -> Guest:
        """Listen on a free loopback port with the keys of the user data.

        Args:
            silent: take connections and calls, and never answer a call.

        Raises:
            GuestError: when the user data has no usable apf.json.
        """
        from peerpods.pki.contexts import server_context
        from peerpods.tls import listen_tls
        from peerpods.ttrpc import Server
        from peerpods.userdata import parse
        from peerpods.userdata.apf import parse_apf

        try:
            files = parse(user_data)
            apf = parse_apf(files[APF_PATH].decode())
        except KeyError:
            raise GuestError(f"the user data of {instance_id} has no {APF_PATH}") from None
        if not apf.client_ca:
            raise GuestError(f"the user data of {instance_id} names no client certificate to expect")
        view = GuestView(
            instance_id=instance_id,
            files=files,
            say=say,
            soon=lambda function: self._reactor.callLater(0, function),
        )
        made = AgentServices(services=(), fallback=_never) if silent else self._agent(view)
        server = Server(self._reactor, made.services, fallback=made.fallback)
        listening = await _listen(
            listen_tls(
                self._reactor,
                "127.0.0.1",
                0,
                server_context(apf.server_cert, apf.server_key, apf.client_ca),
                server,
                max_connections=16,
                handshake_timeout=10.0,
            )
        )
        return Guest(port=listening.getHost().port, listening=listening, server=server)


async def _listen(port: Any) -> Any:
    return await port if isinstance(port, Deferred) else port
