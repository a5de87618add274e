"""Choice of network ids, many at a time. Blocking; in the calling thread's network namespace.

Only the kernel knows for sure: it refuses a second vxlan device of one VNI and UDP port made in one namespace, also
when the first has moved to a namespace that nobody can see. So each VNI is tried by a device that is removed again.
Making one takes 0.2 ms, removing sleeps about 20 ms in the kernel, for one as for many: all of a choice are removed
together, by their device group, after the callers have their answer.

Between the choice and the tunnel the kernel knows nothing. Two adaptors of one namespace therefore take their VNIs
from different blocks: who uses a block holds an abstract socket of that name, which ends with the process.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections import deque

from peerpods.podnet import plan
from peerpods.podnet.rtnl import Rtnl

RESTING = 4096  # VNIs not given again soon
BLOCK_BITS = 8  # VNIs of one block: 256
PROBES = 0x7070_1071  # device group of the devices that only try a VNI
_ROUNDS = 256  # looks for candidates in one choice
_REMOTES = ("192.0.2.1", "2001:db8::1")  # the kernel counts IPv4 and IPv6 apart; nothing is sent


class Vnis:
    """What was given by one worker. Use from one thread only."""

    def __init__(self) -> None:
        self._last = 0
        self._given: deque[int] = deque(maxlen=RESTING)
        self._held: dict[tuple[int, int], socket.socket] = {}

    def choose(self, wanted: int, used: set[int], minimum: int, port: int) -> list[int]:
        """Up to `wanted` VNIs, fewer when there are no more. Call `clear` afterwards, when nobody waits.

        Raises:
            OSError: the kernel cannot make vxlan devices.
        """
        found: list[int] = []
        with Rtnl() as here:
            taken = used | set(self._given) | {one.vni for one in here.links() if one.kind == "vxlan"}
            for _ in range(_ROUNDS):
                candidates = plan.next_vni(taken, minimum, self._last)
                for vni in candidates:
                    if len(found) == wanted:
                        return found
                    if not self._hold(port, vni >> BLOCK_BITS):
                        taken.update(range(vni >> BLOCK_BITS << BLOCK_BITS, (vni >> BLOCK_BITS) + 1 << BLOCK_BITS))
                        break
                    taken.add(vni)
                    if _free(here, vni, port):
                        self._last = vni
                        self._given.append(vni)
                        found.append(vni)
                if not candidates:
                    break
        return found

    @staticmethod
    def clear() -> None:
        """Remove the devices that tried, and those of a worker that was killed meanwhile. Sleeps about 20 ms."""
        with Rtnl() as here:
            here.remove_group(PROBES)

    def release(self) -> None:
        """Let go of the blocks. Idempotent."""
        held, self._held = self._held, {}
        for one in held.values():
            one.close()

    def _hold(self, port: int, block: int) -> bool:
        """Whether the block is ours, now or before. Where it cannot be held at all, the kernel's word must do."""
        if (port, block) in self._held:
            return True
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            lock.bind(f"\0peerpods/vxlan/{port}/{block}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                lock.close()
                return False
        self._held[port, block] = lock
        return True


def _free(here: Rtnl, vni: int, port: int) -> bool:
    for remote in _REMOTES:
        try:
            here.make_vxlan("pq" + secrets.token_hex(6), vni=vni, port=port, remote=remote, group=PROBES)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            if ":" in remote and error.errno in (errno.EAFNOSUPPORT, errno.EPFNOSUPPORT):
                continue  # a kernel without IPv6
            raise
    return True
