"""The pod's network, begun by process 1 while the forwarder is still being imported.

The VM's own address is waited for meanwhile, and a young process is cheap to fork. The forwarder waits for the end of
it before it listens, so that nothing is promised too early.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONFIG = "/run/peerpod/apf.json"
DONE = b"done"
MODULES = ("vxlan", "nf_tables", "nft_ct")
"""Loaded at one blow: the kernel would ask for each alias by a process of its own."""
DEADLINE = 180.0  # seconds for the VM's own network to lead to the worker


class PodNetwork:
    """The work of a child. Make it in process 1; `wait` is called in a later child."""

    def __init__(self, namespace: str) -> None:
        # here and not in the child, which would import again what the forwarder needs as well
        from peerpods.podnet.building import build
        from peerpods.userdata.apf import parse_apf

        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        try:
            os.close(self._reading)
            with open(CONFIG, "rb") as file:
                apf = parse_apf(file.read())
            os.spawnv(os.P_WAIT, "/usr/bin/busybox", ["modprobe", "-a", *MODULES])  # noqa: S606  (no shell is meant)
            deadline = time.monotonic() + DEADLINE
            build(
                apf.network, vni=apf.vxlan_id, port=apf.vxlan_port, tunnel=apf.tunnel, path=namespace, deadline=deadline
            )
            os.write(writing, DONE)
        except BaseException as error:  # whatever it is: the forwarder tells it and ends
            os.write(writing, f"the pod's network was not built: {error}".encode()[:4000])
        finally:
            os._exit(0)

    def close(self) -> None:
        """In process 1, once the child that waits is there."""
        os.close(self._reading)

    def wait(self, _apf: Any, _namespace: str) -> None:
        """In the forwarder's process, in place of building it there.

        Raises:
            GuestError: what failed.
        """
        from peerpods.errors import GuestError

        told = b""
        while part := os.read(self._reading, 4096):
            told += part
        self.close()
        if told != DONE:
            raise GuestError(told.decode(errors="replace") or "the pod's network was not built: its process was ended")
