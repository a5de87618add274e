"""The pod's network as apf.json tells it: read, checked, bounded."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from peerpods.errors import ConfigError
from peerpods.model import Neighbour, PodNetwork, Route

MAX_ENTRIES = 256  # addresses, routes, neighbours: each
_INTERFACE = re.compile(r"[^/\s:]{1,15}")
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_SCOPES = {"global": 0, "universe": 0, "": 0, "site": 200, "link": 253, "host": 254}
_PROTOCOLS = {"": 3, "kernel": 2, "boot": 3, "static": 4, "ra": 9, "dhcp": 16}
_MISSING: Any = object()


class Reader:
    """One JSON object of apf.json, read key by key; a mistake names the key's whole path."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(
                f"{where} is not a JSON object", remedy="the adaptor writes it; look at what wrote this one"
            )
        self._value = value
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def wrong(self, key: str, what: str) -> ConfigError:
        """The error of one key."""
        return ConfigError(f"{self.where}: {key} {what}")

    def _get(self, key: str, kind: type | tuple[type, ...], default: Any, what: str) -> Any:
        value = self._value.get(key)
        if value is None:
            if default is _MISSING:
                raise self.wrong(key, "is missing")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(key, f"is not {what}")
        return value

    def text(self, key: str, default: str = _MISSING) -> str:
        """A string."""
        value: str = self._get(key, str, default, "text")
        return value

    def flag(self, key: str) -> bool:
        """A boolean, false when absent."""
        value: bool = self._get(key, bool, False, "true or false")
        return value

    def number(self, key: str, low: int, high: int, default: int = _MISSING) -> int:
        """A whole number from low to high."""
        value: int = self._get(key, int, default, "a whole number")
        if not low <= value <= high:
            raise self.wrong(key, f"is not between {low} and {high}")
        return value

    def named(self, key: str, names: dict[str, int], default: int) -> int:
        """A number up to 255, or one of the names for it."""
        value: int | str = self._get(key, (int, str), default, "a number or a name")
        if isinstance(value, str):
            if value not in names:
                raise self.wrong(key, f"has no known name: {value[:20]!r}")
            return names[value]
        return self.number(key, 0, 255, default)

    def table(self, key: str, default: Any = _MISSING) -> Reader:
        """An object."""
        return Reader(self._get(key, dict, default, "an object"), f"{self.where}: {key}")

    def tables(self, key: str) -> list[Reader]:
        """A list of objects, empty when absent."""
        return [Reader(item, f"{self.where}: {key}[{at}]") for at, item in enumerate(self.items(key))]

    def items(self, key: str) -> list[Any]:
        """A list of at most MAX_ENTRIES, empty when absent."""
        value: list[Any] = self._get(key, list, [], "a list")
        if len(value) > MAX_ENTRIES:
            raise self.wrong(key, f"has more than {MAX_ENTRIES} entries")
        return value

    def address(self, key: str, default: str = _MISSING) -> str:
        """An address without prefix; "" allowed when a default is given."""
        text = self.text(key, default)
        if not text and default is not _MISSING:
            return ""
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise self.wrong(key, f"is not an address: {text[:60]!r}") from None

    def interface(self, key: str, default: str = _MISSING) -> str:
        """A name of a network device."""
        name = self.text(key, default)
        if not name and default is not _MISSING:
            return ""
        if not _INTERFACE.fullmatch(name) or name in (".", ".."):
            raise self.wrong(key, f"is not an interface name: {name[:40]!r}")
        return name

    def mac(self, key: str) -> str:
        """A hardware address."""
        text = self.text(key)
        if not _MAC.fullmatch(text):
            raise self.wrong(key, f"is not a hardware address: {text[:40]!r}")
        return text.lower()


def read(old: Reader, own: Reader | None) -> PodNetwork:
    """The pod's network out of `pod-network` and, where it is given, `peerpods`."""
    if own is None:
        addresses: tuple[str, ...] = (_cidr(old, "podip", old.text("podip")),)
        routes = tuple(_old_route(entry) for entry in old.tables("routes"))
        neighbours = tuple(_neighbour(entry, "hw-addr") for entry in old.tables("neighbors"))
        underlay_mtu = 1500
    else:
        addresses = tuple(_cidr(own, "addresses", entry) for entry in own.items("addresses"))
        routes = tuple(_own_route(entry) for entry in own.tables("routes"))
        neighbours = tuple(_neighbour(entry, "mac") for entry in own.tables("neighbours"))
        underlay_mtu = own.number("underlay-mtu", 68, 65535, 1500)
    if not addresses:
        raise ConfigError("apf.json: the pod has no address")
    return PodNetwork(
        interface=old.interface("interface"),
        mac=old.mac("pod-hw-addr"),
        mtu=old.number("mtu", 68, 65535, 1500),
        addresses=addresses,
        routes=routes,
        neighbours=neighbours,
        node_address=_cidr(old, "worker-node-ip", old.text("worker-node-ip")).partition("/")[0],
        underlay_mtu=underlay_mtu,
    )


def _cidr(where: Reader, key: str, text: Any) -> str:
    try:
        return str(ipaddress.ip_interface(text)) if isinstance(text, str) else _fail()
    except ValueError:
        raise where.wrong(key, f"is not an address with its prefix: {str(text)[:60]!r}") from None


def _fail() -> str:
    raise ValueError


def _destination(entry: Reader, gateway: str) -> str:
    text = entry.text("dst", "")
    if text in ("", "default"):
        return "::/0" if ":" in gateway else "0.0.0.0/0"
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise entry.wrong("dst", f"is not a network: {text[:60]!r}") from None


def _old_route(entry: Reader) -> Route:
    gateway = entry.address("gw", "")
    return Route(
        dst=_destination(entry, gateway),
        gateway=gateway,
        dev=entry.interface("dev", ""),
        protocol=entry.named("protocol", _PROTOCOLS, 3) or 3,
        scope=entry.named("scope", _SCOPES, 0),
    )


def _own_route(entry: Reader) -> Route:
    gateway = entry.address("gateway", "")
    return Route(
        dst=_destination(entry, gateway),
        gateway=gateway,
        dev=entry.interface("dev", ""),
        src=entry.address("src", ""),
        metric=entry.number("metric", 0, 2**32 - 1, 0),
        mtu=entry.number("mtu", 0, 2**32 - 1, 0),
        onlink=entry.flag("onlink"),
        scope=entry.named("scope", _SCOPES, 0),
        protocol=entry.named("protocol", _PROTOCOLS, 3),
    )


def _neighbour(entry: Reader, mac_key: str) -> Neighbour:
    return Neighbour(ip=entry.address("ip"), mac=entry.mac(mac_key), dev=entry.interface("dev", ""))
