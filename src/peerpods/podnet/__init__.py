"""The pod's network: what its namespace looks like, and the VXLAN tunnel that carries it to the VM.

`plan` decides and is pure; `worker` acts on the node by pyroute2, which is imported when first needed; `guest` acts in
the VM, without it.
"""

from peerpods.podnet.guest import setup_guest
from peerpods.podnet.plan import tunnel_for
from peerpods.podnet.worker import (
    Worker,
    choose_vni,
    inspect,
    netns_exists,
    setup_tunnel,
    sweep,
    teardown_tunnel,
)

__all__ = [
    "Worker",
    "choose_vni",
    "inspect",
    "netns_exists",
    "setup_guest",
    "setup_tunnel",
    "sweep",
    "teardown_tunnel",
    "tunnel_for",
]
