"""The pod's network: what its namespace looks like, and the VXLAN tunnel that carries it to the VM.

`plan` decides and is pure; `worker` acts on the node, `guest` in the VM. pyroute2 is imported when first needed, so
that a process which only forks the guest's set-up never holds it.
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
