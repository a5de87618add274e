"""The worker's end of tunnels. Everything blocking runs in one thread of its own, in order.

One thread, because netlink calls inside another namespace need a thread that may move there, because removing a
vxlan device sleeps about 20 ms in the kernel, and because in order means that set-up and tear-down never meet.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from peerpods.errors import LocalFailure
from peerpods.model import PodNetwork, SandboxId, Tunnel

if TYPE_CHECKING:
    from peerpods.podnet.acting import Acting

T = TypeVar("T")
BATCH = 64
"""Most choices of a VNI that are served together."""


def _answer() -> Deferred[Any]:
    return Deferred(lambda _: None)  # cancelled: the thread finishes, its answer is dropped


@attrs.define(eq=False)
class _Choice:
    """A VNI that is waited for."""

    facts: tuple[int, int]
    """The lowest VNI, and the UDP port."""
    used: set[int]
    answer: Deferred[Any] = attrs.field(factory=_answer)


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
        self._choices: deque[_Choice] = deque()
        self._closed = False

    async def inspect(self, netns_path: str, *, host_interface: str = "") -> PodNetwork:
        """What a pod's namespace looks like, and which of this node's addresses its tunnel will have.

        Raises:
            Refused: no such namespace, no address, no interface; with a remedy.
        """
        asked = time.monotonic()
        return await self._run(lambda acting: acting.inspect(netns_path, host_interface, asked))

    async def choose_vni(self, used: Collection[int], minimum: int, *, port: int = 4789) -> int:
        """A VNI that nobody uses: none of `used`, and none of a living device, wherever that has moved.

        The caller writes it down; the last few thousand given are not given again soon.

        Raises:
            LocalFailure: when there is none, or the kernel cannot make vxlan devices.
        """
        choice = _Choice((minimum, port), set(used))
        self._choices.append(choice)
        self._submit(self._thd_choose)
        vni: int | None = await choice.answer
        if vni is None:
            raise LocalFailure(f"no free VNI from {minimum} on UDP port {port}", remedy="remove unused tunnels")
        return vni

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
        if not self._closed:
            self._closed = True
            self._pool.submit(self._thd_close)
            self._pool.shutdown(wait=False)

    def _run(self, action: Callable[[Acting], T]) -> Deferred[T]:
        answer = _answer()

        def _thd_act() -> None:
            try:
                result: Any = action(self._thd_acting())
            except BaseException:  # the Deferred carries it, whatever it is
                result = Failure()  # type: ignore[no-untyped-call]
            self._thd_tell(answer, result)

        self._submit(_thd_act)
        return answer

    def _submit(self, action: Callable[[], None]) -> None:
        if self._reactor is None:
            from twisted.internet import reactor  # the installed one: nobody gave another

            self._reactor = reactor
        self._pool.submit(action)

    def _thd_tell(self, answer: Deferred[Any], result: Any) -> None:
        def arrived() -> None:
            if not answer.called:
                answer.callback(result)

        self._reactor.callFromThread(arrived)

    def _thd_choose(self) -> None:
        """Serve all choices that wait, those with the first one's settings: one removal of devices for all."""
        batch: list[_Choice] = []
        while self._choices and len(batch) < BATCH and (not batch or self._choices[0].facts == batch[0].facts):
            batch.append(self._choices.popleft())
        if not batch:
            return  # an earlier turn served them
        try:
            acting = self._thd_acting()
            found: list[Any] = [*acting.choose_vnis(len(batch), set().union(*(c.used for c in batch)), *batch[0].facts)]
        except BaseException:  # the Deferreds carry it, whatever it is
            found = [Failure()] * len(batch)  # type: ignore[no-untyped-call]
        found += [None] * (len(batch) - len(found))
        for choice, result in zip(batch, found, strict=True):
            self._thd_tell(choice.answer, result)
        if self._acting is not None:
            self._acting.clear_vnis()

    def _thd_close(self) -> None:
        if self._acting is not None:
            self._acting.vnis.release()

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
