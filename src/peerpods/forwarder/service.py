"""The forwarder as a service: checks what it was told, builds the pod's network, then listens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from peerpods.config.settings import ForwarderSettings
from peerpods.errors import ConfigError, GuestError, LocalFailure
from peerpods.forwarder import told
from peerpods.forwarder.guard import Guard
from peerpods.forwarder.keeper import Keeper
from peerpods.forwarder.link import Link
from peerpods.obs import ready
from peerpods.obs.log import get_logger
from peerpods.tls.transport import listen_tls
from peerpods.userdata.apf import ApfConfig

MAX_CONNECTIONS = 2  # one, and its successor while a relay reconnects; security.md 6, duty 3
HANDSHAKE_TIME = 10.0  # seconds
STATE_FILE = "forwarder.state"
NAME = "forwarder"
_log = get_logger("forwarder")


def build_network(apf: ApfConfig, namespace_path: str) -> None:
    """Make the pod's namespace as apf.json says. Idempotent; blocks.

    The work is done in a child process that ends with it: netlink code would double the forwarder's memory.

    Raises:
        GuestError: with what went wrong.
    """
    from peerpods.podnet.guest import setup_guest

    setup_guest(apf.network, vni=apf.vxlan_id, port=apf.vxlan_port, tunnel=apf.tunnel, namespace_path=namespace_path)


def expect_network(_apf: ApfConfig, namespace_path: str) -> None:
    """In place of building: the namespace that another unit made must be there, and must be no empty file.

    Raises:
        GuestError: when it is not.
    """
    kind = "none"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            head, _, tail = line.partition(" - ")
            if head.split()[4] == namespace_path:
                kind = tail.split()[0]
    if kind != "nsfs":
        raise GuestError(
            f"there is no network namespace at {namespace_path}",
            remedy="--pod-network built needs a unit that makes it first; --pod-network build does it here",
        )


class ForwarderService(Service):
    """Serves one VM. `port` is the listening port once it is started.

    Args:
        build_network: makes the pod's network, or raises GuestError.
        root: where the VM's files are, for tests.
        os_release: file that tells the image's kind.
    """

    def __init__(
        self,
        settings: ForwarderSettings,
        reactor: Any,
        *,
        build_network: Callable[[ApfConfig, str], None] = build_network,
        root: str = "/",
        os_release: str = told.OS_RELEASE,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._build_network = build_network
        self._root = root
        self._os_release = os_release
        self._links: set[Link] = set()
        self.port: IListeningPort | None = None

    def startService(self) -> None:
        """Start; blocks while the pod's network is made, which is before anybody is served.

        Raises:
            ConfigError, GuestError, LocalFailure: it does not start.
        """
        settings = self._settings
        apf = told.read_apf(settings.config)
        context = told.tls_context(apf)
        folder = os.path.dirname(settings.config)
        self.guard = Guard(settings.pod_namespace, told.policy_refusal(folder, self._os_release))
        self._keeper = Keeper(self.guard, os.path.join(folder, STATE_FILE))
        self._keeper.load()
        host, number = _address(settings.listen)
        self._build_network(apf, settings.pod_namespace)
        try:
            self.port = listen_tls(
                self._reactor,
                host,
                number,
                context,
                self._link,
                max_connections=MAX_CONNECTIONS,
                handshake_timeout=HANDSHAKE_TIME,
            )
        except OSError as error:
            raise LocalFailure(
                f"cannot listen on {settings.listen}: {error.strerror or error}", remedy="choose another --listen"
            ) from None
        super().startService()  # type: ignore[no-untyped-call]
        ready.mark(NAME)
        _log.info("ready", pod=apf.pod_name, namespace=apf.pod_namespace, listen=settings.listen, tunnel=apf.tunnel)

    def stopService(self) -> Deferred[Any]:
        """Close the port and all links."""
        super().stopService()  # type: ignore[no-untyped-call]
        ready.unmark(NAME)
        for link in list(self._links):
            link.close()
        port, self.port = self.port, None
        return maybeDeferred(port.stopListening) if port is not None else maybeDeferred(lambda: None)

    def _link(self) -> Link:
        link = Link(
            self._reactor,
            self.guard,
            self._settings.kata_agent_socket,
            changed=self._keeper.save,
            ended=self._links.discard,
            root=self._root,
        )
        self._links.add(link)
        return link


def make_service(settings: ForwarderSettings, reactor: Any) -> ForwarderService:
    """The forwarder's service; nothing is touched before `startService`."""
    network = expect_network if settings.pod_network == "built" else build_network
    return ForwarderService(settings, reactor, build_network=network)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"listen: {text!r} is not address:port", setting="listen")
    return host.strip("[]") or "0.0.0.0", int(port)
