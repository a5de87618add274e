"""What surrounds the demo's pods: a gateway with a server behind it, and one network namespace a pod.

```
  gateway namespace                      pod namespace
  lo 198.18.0.10, fd99::10 (the server)
  br0 10.120.7.1/24, fd78::1/64 ======== eth0 10.120.7.N/24, fd78::N/64, default routes via br0
```
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
from pyroute2 import NetNS, netns

from peerpods.cli.children import Child

GATEWAY = "gateway"
SERVER_V4, SERVER_V6, SERVER_PORT = "198.18.0.10", "fd99::10", 8000
GATEWAY_V4, GATEWAY_V6 = "10.120.7.1", "fd78::1"
PAGE = "the page behind the gateway"
_NODAD = 0x02


@attrs.frozen
class PodPlace:
    """A pod's namespace and addresses."""

    name: str
    number: int

    @property
    def path(self) -> str:
        """Path of the namespace."""
        return f"/run/netns/{self.name}"

    @property
    def v4(self) -> str:
        """The pod's IPv4 address."""
        return f"10.120.7.{self.number}"

    @property
    def v6(self) -> str:
        """The pod's IPv6 address."""
        return f"fd78::{self.number:x}"


def in_namespace(name: str, *command: str) -> list[str]:
    """Command line that runs a command in a named network namespace."""
    return ["nsenter", f"--net=/run/netns/{name}", *command]


def make_gateway() -> None:
    """The gateway namespace with its bridge and the server's addresses."""
    netns.create(GATEWAY)
    with NetNS(GATEWAY) as gateway:
        lo = gateway.link_lookup(ifname="lo")[0]
        gateway.link("set", index=lo, state="up")
        gateway.addr("add", index=lo, address=SERVER_V4, prefixlen=32)
        gateway.addr("add", index=lo, address=SERVER_V6, prefixlen=128, flags=_NODAD)
        gateway.link("add", ifname="br0", kind="bridge")
        bridge = gateway.link_lookup(ifname="br0")[0]
        gateway.addr("add", index=bridge, address=GATEWAY_V4, prefixlen=24)
        gateway.addr("add", index=bridge, address=GATEWAY_V6, prefixlen=64, flags=_NODAD)
        gateway.link("set", index=bridge, state="up")


def make_pod(place: PodPlace) -> None:
    """A pod's namespace as a CNI leaves it."""
    netns.create(place.name)
    with NetNS(GATEWAY) as gateway, NetNS(place.name) as pod:
        port = f"p{place.number}"
        gateway.link("add", ifname=port, kind="veth", peer={"ifname": "eth0", "net_ns_fd": place.name})
        index = gateway.link_lookup(ifname=port)[0]
        gateway.link("set", index=index, master=gateway.link_lookup(ifname="br0")[0], state="up")
        inner = pod.link_lookup(ifname="eth0")[0]
        pod.link("set", index=pod.link_lookup(ifname="lo")[0], state="up")
        pod.addr("add", index=inner, address=place.v4, prefixlen=24)
        pod.addr("add", index=inner, address=place.v6, prefixlen=64, flags=_NODAD)
        pod.link("set", index=inner, state="up")
        pod.route("add", dst="default", gateway=GATEWAY_V4)
        pod.route("add", dst="default", gateway=GATEWAY_V6, family=10)


def remove_namespaces(places: list[PodPlace]) -> None:
    """Remove what `make_gateway` and `make_pod` made. Idempotent."""
    for name in [place.name for place in places] + [GATEWAY]:
        with contextlib.suppress(FileNotFoundError, OSError):
            netns.remove(name)


def tunnel_counters(place: PodPlace) -> tuple[int, int]:
    """Bytes (received, sent) of the VXLAN device in the pod's namespace; (0, 0) when there is none."""
    with NetNS(place.name) as pod:
        for link in pod.get_links():
            info = link.get_attr("IFLA_LINKINFO")
            if info is not None and info.get_attr("IFLA_INFO_KIND") == "vxlan":
                stats = link.get_attr("IFLA_STATS64")
                return int(stats["rx_bytes"]), int(stats["tx_bytes"])
    return 0, 0


_SERVE = """
import http.server, socket, sys
page = (sys.argv[1] + "\\n").encode()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", str(len(page))); self.end_headers()
        self.wfile.write(page)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("::", int(sys.argv[2])), Handler).serve_forever()
"""


def start_server(folder: Path) -> Child:
    """The web server behind the gateway, on both families."""
    command = in_namespace(GATEWAY, sys.executable, "-c", _SERVE, PAGE, str(SERVER_PORT))
    child = Child.start("server", command, folder)
    child.wait_until(lambda: fetch_from_gateway(f"http://{SERVER_V4}:{SERVER_PORT}/") == PAGE, 10, "its page")
    return child


def fetch_from_gateway(url: str) -> str:
    """Fetch a page from inside the gateway namespace; "" when it cannot be had within 5 s."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())"
    done = subprocess.run(
        in_namespace(GATEWAY, sys.executable, "-c", code, url), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def wait_for(check: Callable[[], bool], seconds: float) -> bool:
    """Poll a check every 0.1 s for at most so long."""
    import time

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if check():
            return True
        time.sleep(0.1)
    return check()
