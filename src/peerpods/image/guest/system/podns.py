"""Unit peerpods-network: the pod's network namespace and its tunnel, before the forwarder drops all its rights."""

import sys
import time

sys.path[:0] = ["/usr/lib/python3/dist-packages", "/usr/lib/peerpods"]

import lean  # noqa: E402

# Not the package's own __init__: with it come the node's half and Twisted.
lean.stand_in("peerpods.podnet", __path__=["/usr/lib/python3/dist-packages/peerpods/podnet"])

from peerpods.errors import PeerPodError  # noqa: E402
from peerpods.podnet.building import build  # noqa: E402
from peerpods.userdata.apf import parse_apf  # noqa: E402

CONFIG = "/run/peerpod/apf.json"
NAMESPACE = "/run/netns/podns"
SECONDS = 180.0  # for the VM's own network to lead to the worker

try:
    with open(CONFIG, "rb") as file:
        apf = parse_apf(file.read())
    build(
        apf.network,
        vni=apf.vxlan_id,
        port=apf.vxlan_port,
        tunnel=apf.tunnel,
        path=NAMESPACE,
        deadline=time.monotonic() + SECONDS,
    )
except (PeerPodError, OSError) as error:
    print(f"peerpods stopped: the pod's network was not built: {error}", file=sys.stderr, flush=True)
    sys.exit(1)
