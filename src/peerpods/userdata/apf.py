"""apf.json: what a forwarder is told. The names of the existing system stay filled, so that each project's forwarder
can serve the other's adaptor; what those names cannot say stands under the key `peerpods`.

| key                                                    | content                                            |
|--------------------------------------------------------|----------------------------------------------------|
| pod-name, pod-namespace                                | names for logs                                     |
| tls-server-key, tls-server-cert, tls-client-ca         | PEM                                                |
| tls-min-version                                        | VersionTLS13                                       |
| pod-network                                            | first address, routes and neighbours of its family |
| peerpods.addresses, .routes, .neighbours, .underlay-mtu | all of them, with metric, src, mtu and onlink      |

Facts: upstream.md 3.2. Everything read here comes from outside the VM, so everything is checked.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from peerpods.errors import ConfigError
from peerpods.model import Neighbour, PodNetwork, Route
from peerpods.userdata import apf_network
from peerpods.userdata.apf_network import Reader

MAX_APF = 256 * 1024  # bytes
TLS_MIN_VERSION = "VersionTLS13"
TUNNELS = ("vxlan", "none")
_PERMANENT = 128  # NUD_PERMANENT


@attrs.frozen(kw_only=True)
class ApfConfig:
    """What one VM's forwarder is told."""

    pod_name: str
    pod_namespace: str
    server_key: str = attrs.field(repr=False)
    """PEM."""
    server_cert: str
    """PEM."""
    client_ca: str
    """PEM of the only client that may connect."""
    network: PodNetwork
    vxlan_port: int = 4789
    vxlan_id: int = 0
    tunnel: str = "vxlan"
    """One of TUNNELS; with "none" the pod's packets need no tunnel."""

    def to_json(self) -> str:
        """The text of apf.json; equal values give equal text."""
        value = {
            "pod-network": _old_network(self),
            "pod-namespace": self.pod_namespace,
            "pod-name": self.pod_name,
            "tls-server-key": self.server_key,
            "tls-server-cert": self.server_cert,
            "tls-client-ca": self.client_ca,
            "tls-min-version": TLS_MIN_VERSION,
            "peerpods": {
                "addresses": list(self.network.addresses),
                "routes": [_own_route(route) for route in self.network.routes],
                "neighbours": [
                    {"ip": one.ip, "mac": one.mac, "dev": one.dev or self.network.interface}
                    for one in self.network.neighbours
                ],
                "underlay-mtu": self.network.underlay_mtu,
            },
        }
        return json.dumps(value, indent=1) + "\n"


def parse_apf(text: str | bytes) -> ApfConfig:
    """Read apf.json of this project or of the existing one.

    Raises:
        ConfigError: naming the key that is missing or wrong; never its value where that is a key or certificate.
    """
    if len(text) > MAX_APF:
        raise ConfigError(f"apf.json has more than {MAX_APF} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("apf.json is not JSON") from None
    top = Reader(value, "apf.json")
    old = top.table("pod-network")
    own = top.table("peerpods", {}) if "peerpods" in top else None
    network = apf_network.read(old, own)
    minimum = top.text("tls-min-version", TLS_MIN_VERSION)
    if minimum not in ("VersionTLS12", TLS_MIN_VERSION):
        raise ConfigError(f"apf.json: tls-min-version {minimum[:40]!r} is not known")
    tunnel = old.text("tunnel-type", "vxlan") or "vxlan"
    if tunnel not in TUNNELS:
        raise ConfigError(f"apf.json: tunnel-type {tunnel[:40]!r} is not one of {', '.join(TUNNELS)}")
    if old.flag("dedicated"):
        raise ConfigError("apf.json: a tunnel on a second interface (dedicated) is not supported")
    if old.flag("external-net-via-pod-vm"):
        raise ConfigError("apf.json: external-net-via-pod-vm is not supported")
    return ApfConfig(
        pod_name=top.text("pod-name", ""),
        pod_namespace=top.text("pod-namespace", ""),
        server_key=top.text("tls-server-key", ""),
        server_cert=top.text("tls-server-cert", ""),
        client_ca=top.text("tls-client-ca", ""),
        network=network,
        vxlan_port=old.number("vxlan-port", 1, 65535, 4789) if tunnel == "vxlan" else 4789,
        vxlan_id=old.number("vxlan-id", 1, 16777215) if tunnel == "vxlan" else 0,
        tunnel=tunnel,
    )


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _old_network(config: ApfConfig) -> dict[str, Any]:
    network = config.network
    family = _family(network.addresses[0])
    node_bits = 128 if _family(network.node_address) == 6 else 32
    return {
        "podip": network.addresses[0],
        "pod-hw-addr": network.mac,
        "interface": network.interface,
        "worker-node-ip": f"{network.node_address}/{node_bits}",
        "tunnel-type": config.tunnel,
        "routes": [_old_route(route, network) for route in network.routes if _family(route.dst) == family],
        "neighbors": [_old_neighbour(one, network) for one in network.neighbours if _family(one.ip) == family],
        "mtu": network.mtu,
        "index": 0,
        "vxlan-port": config.vxlan_port,
        "vxlan-id": config.vxlan_id,
        "dedicated": False,
        "external-net-via-pod-vm": False,
    }


def _old_route(route: Route, network: PodNetwork) -> dict[str, Any]:
    value = {
        "dst": route.dst,
        "gw": route.gateway,
        "dev": route.dev or network.interface,
        "protocol": route.protocol,
        "scope": route.scope,
    }
    return {key: entry for key, entry in value.items() if entry not in ("", 0)}


def _old_neighbour(one: Neighbour, network: PodNetwork) -> dict[str, Any]:
    return {"ip": one.ip, "hw-addr": one.mac, "dev": one.dev or network.interface, "state": _PERMANENT}


def _own_route(route: Route) -> dict[str, Any]:
    value = attrs.asdict(route)
    return {key: entry for key, entry in value.items() if entry or key == "protocol"}
