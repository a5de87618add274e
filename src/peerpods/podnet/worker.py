"""The worker's end of tunnels. Everything blocking runs in one thread of its own, in order.

One thread, because netlink calls inside another namespace need a thread that may move there, because removing a
vxlan device sleeps about 20 ms in the kernel, and because in order means that set-up and tear-down never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from peerpods.model import PodNetwork, SandboxId, Tunnel

if TYPE_CHECKING:
    from peerpods.podnet.acting import Acting

T = TypeVar("T")


def netns_exists(path: str) -> bool:
    """Whether a network namespace is at that path: a file left behind without its mount is none."""
    try:
        here = Path(path).stat()
        root = Path("/proc/self/ns/net").stat()
    except OSError:
        return False
    return here.st_dev == root.st_dev


class Worker:
    """Tunnels made from one network namespace.

    Args:
        netns: path of the worker's namespace; empty: that of the process.
        reactor: whose thread gets the answers; the installed one if none is given.
        named: folder of the named namespaces that a sweep looks into.
    """

    def __init__(self, netns: str = "", reactor: Any = None, *, named: str = "/run/netns") -> None:
        self._netns = netns
        self._named = named
        self._reactor = reactor
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="podnet")
        self._acting: Acting | None = None

    async def inspect(self, netns_path: str, *, host_interface: str = "") -> PodNetwork:
        """What a pod's namespace looks like, and which of this node's addresses its tunnel will have.

        Raises:
            Refused: no such namespace, no address, no interface; with a remedy.
        """
        return await self._run(lambda acting: acting.inspect(netns_path, host_interface))

    async def choose_vni(self, used: Collection[int], minimum: int, *, port: int = 4789) -> int:
        """A VNI that nobody uses: none of `used`, and none of a living device, wherever that has moved.

        The caller writes it down; the last few thousand given are not given again soon.

        Raises:
            LocalFailure: when there is none, or the kernel cannot make vxlan devices.
        """
        taken = set(used)
        return await self._run(lambda acting: acting.choose_vni(taken, minimum, port))

    async def setup_tunnel(self, tunnel: Tunnel) -> None:
        """Make the tunnel, or finish a half-made one. Idempotent.

        Raises:
            Refused: the pod's namespace or interface is gone.
            LocalFailure: the kernel refused; the message has its words.
        """
        await self._run(lambda acting: acting.setup(tunnel))

    async def teardown_tunnel(self, tunnel: Tunnel) -> None:
        """Remove the tunnel and put the pod's interface back as it was. Idempotent; the namespace may be gone."""
        await self._run(lambda acting: acting.teardown(tunnel))

    async def sweep(self, keep: Collection[SandboxId]) -> list[str]:
        """Remove what tunnels of other sandboxes left in this node's namespace and the named ones; says what."""
        kept = set(keep)
        return await self._run(lambda acting: acting.sweep(kept))

    def close(self) -> None:
        """End the thread once its work is done. Idempotent."""
        self._pool.shutdown(wait=False)

    def _run(self, action: Callable[[Acting], T]) -> Deferred[T]:
        reactor = self._reactor
        if reactor is None:
            from twisted.internet import reactor  # the installed one: nobody gave another
        answer: Deferred[T] = Deferred(lambda _: None)  # the thread finishes; its answer is dropped

        def arrived(result: Any) -> None:
            if not answer.called:
                answer.callback(result)

        def _thd_act() -> None:
            try:
                result: Any = action(self._thd_acting())
            except BaseException:  # the Deferred carries it, whatever it is
                result = Failure()  # type: ignore[no-untyped-call]
            reactor.callFromThread(arrived, result)

        self._pool.submit(_thd_act)
        return answer

    def _thd_acting(self) -> Acting:
        if self._acting is None:
            from peerpods.podnet.acting import Acting

            self._acting = Acting(self._netns, self._named)
        return self._acting


_default: list[Worker] = []


def _here() -> Worker:
    if not _default:
        _default.append(Worker())
    return _default[0]


async def inspect(netns_path: str, *, host_interface: str = "") -> PodNetwork:
    """`Worker.inspect` in this process's namespace."""
    return await _here().inspect(netns_path, host_interface=host_interface)


async def choose_vni(used: Collection[int], minimum: int, *, port: int = 4789) -> int:
    """`Worker.choose_vni` in this process's namespace."""
    return await _here().choose_vni(used, minimum, port=port)


async def setup_tunnel(tunnel: Tunnel) -> None:
    """`Worker.setup_tunnel` in this process's namespace."""
    await _here().setup_tunnel(tunnel)


async def teardown_tunnel(tunnel: Tunnel) -> None:
    """`Worker.teardown_tunnel` in this process's namespace."""
    await _here().teardown_tunnel(tunnel)


async def sweep(keep: Collection[SandboxId]) -> list[str]:
    """`Worker.sweep` in this process's namespace."""
    return await _here().sweep(keep)
