"""A pod's network namespace for `peerpods run` without `--netns`: veth, addresses, default routes.

Runs as a process of its own (`python -m peerpods.cli.podns add|remove NAME`): pyroute2's blocking netlink calls do not
go together with a running asyncio reactor.
"""

from __future__ import annotations

import hashlib
import sys

from pyroute2 import IPRoute, NetNS, netns
from pyroute2.netlink.exceptions import NetlinkError

MTU = 1500


def plan(name: str) -> tuple[str, str, str]:
    """(device on this side, IPv4 /30 network prefix "10.119.x.y", IPv6 prefix) for a namespace's name."""
    digest = hashlib.sha256(name.encode()).digest()
    third, fourth = digest[0], digest[1] & 0xFC
    return (
        f"pp{digest[2:6].hex()}",
        f"10.119.{third}.{fourth}",
        f"fd70:{digest[:2].hex()}:{digest[2:4].hex()}::",
    )


def _v4(network: str, host: int) -> str:
    head, _, last = network.rpartition(".")
    return f"{head}.{int(last) + host}"


def add(name: str) -> str:
    """Make the namespace; gives its path. An older one of that name is removed first."""
    remove(name)
    device, v4, v6 = plan(name)
    netns.create(name)
    with IPRoute() as here, NetNS(name) as pod:
        here.link("add", ifname=device, kind="veth", peer={"ifname": "eth0", "net_ns_fd": name})
        index = here.link_lookup(ifname=device)[0]
        here.link("set", index=index, state="up", mtu=MTU)
        here.addr("add", index=index, address=_v4(v4, 1), prefixlen=30)
        here.addr("add", index=index, address=v6 + "1", prefixlen=126, flags=0x02)  # nodad
        inner = pod.link_lookup(ifname="eth0")[0]
        pod.link("set", index=pod.link_lookup(ifname="lo")[0], state="up")
        pod.link("set", index=inner, state="up", mtu=MTU)
        pod.addr("add", index=inner, address=_v4(v4, 2), prefixlen=30)
        pod.addr("add", index=inner, address=v6 + "2", prefixlen=126, flags=0x02)
        pod.route("add", dst="default", gateway=_v4(v4, 1))
        pod.route("add", dst="default", gateway=v6 + "1", family=10)
    return f"/run/netns/{name}"


def remove(name: str) -> None:
    """Remove the namespace and its device; nothing there is fine."""
    device, _, _ = plan(name)
    with IPRoute() as here:
        for index in here.link_lookup(ifname=device):
            try:
                here.link("del", index=index)
            except NetlinkError as error:
                if error.code != 19:  # ENODEV: it went with its namespace
                    raise
    if name in netns.listnetns():
        netns.remove(name)


if __name__ == "__main__":
    if sys.argv[1] == "add":
        print(add(sys.argv[2]))
    else:
        remove(sys.argv[2])
