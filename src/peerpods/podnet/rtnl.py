"""The few netlink calls of the VM's end, without pyroute2: importing that costs a VM without KVM seconds of its start.

Messages: include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h. Blocking; acts in the namespace in which it was
made. Errors of the kernel are OSError.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Self

from peerpods.model import Neighbour, Route
from peerpods.podnet.facts import MAIN_TABLE, Link

_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _GETROUTE, _NEWNEIGH = 16, 17, 18, 20, 24, 26, 28
_NODAD, _NOPREFIXROUTE = 0x2, 0x200  # IFA_F_*
_ONLINK, _PERMANENT = 4, 0x80  # RTNH_F_ONLINK, NUD_PERMANENT
_UP, _LOOPBACK = 0x1, 0x8  # IFF_*
_NO_WAY = (101, 113, 13)  # ENETUNREACH, EHOSTUNREACH, EACCES
_TIMEOUT = 10.0  # seconds for the kernel's answer
_MAX_DATAGRAMS = 4096


class Rtnl:
    """One netlink socket."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """All devices."""
        return [_link(body) for body in self._ask(_GETLINK, _DUMP, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0))]

    def by_name(self, name: str) -> Link | None:
        """The device of that name."""
        return next((one for one in self.links() if one.name == name), None)

    def remove(self, index: int) -> None:
        """Remove a device."""
        self._ask(_DELLINK, _ACK, _ifinfo(index))

    def remove_group(self, group: int) -> None:
        """Remove all devices of a group, in one wait of the kernel. Idempotent."""
        try:
            self._ask(_DELLINK, _ACK, _ifinfo(0) + _u32(27, group))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def change(self, index: int, *, mac: str = "", mtu: int = 0, up: bool = False) -> None:
        """Set what is given."""
        body = _ifinfo(index, _UP if up else 0)
        body += _attr(1, bytes.fromhex(mac.replace(":", ""))) if mac else b""
        body += _u32(4, mtu) if mtu else b""
        self._ask(_NEWLINK, _ACK, body)

    def move(self, index: int, path: str, name: str) -> None:
        """Into another namespace, under a new name, in one step."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._ask(_NEWLINK, _ACK, _ifinfo(index) + _text(3, name) + _u32(28, fd))
        finally:
            os.close(fd)

    def make_vxlan(self, name: str, *, vni: int, port: int, remote: str, group: int = 0) -> None:
        """A point-to-point vxlan device: one remote, no learning."""
        address = ipaddress.ip_address(remote)
        data = _u32(1, vni) + _attr(2 if address.version == 4 else 16, address.packed)
        data += _attr(7, b"\0") + _attr(15, struct.pack("!H", port))
        info = _attr(18, _text(1, "vxlan") + _attr(2, data))
        info += _u32(27, group) if group else b""
        self._ask(_NEWLINK, _ACK | _CREATE | _EXCL, _ifinfo(0) + _text(3, name) + info)

    def add_address(self, index: int, cidr: str) -> None:
        """An address without a route of its own and, for IPv6, without waiting for others to object. Idempotent."""
        face = ipaddress.ip_interface(cidr)
        flags = _NOPREFIXROUTE | (_NODAD if face.version == 6 else 0)
        body = struct.pack("=BBBBI", _family(face.version), face.network.prefixlen, 0, 0, index)
        body += _attr(2, face.ip.packed) + _attr(1, face.ip.packed) + _u32(8, flags)
        self._ask(_NEWADDR, _ACK | _CREATE | _REPLACE, body)

    def add_route(self, index: int, route: Route) -> None:
        """A route as the plan has it. Idempotent."""
        net = ipaddress.ip_network(route.dst, strict=False)
        scope = route.scope if net.version == 4 else 0
        flags = _ONLINK if route.onlink else 0
        head = (_family(net.version), net.prefixlen, 0, 0, MAIN_TABLE, route.protocol, scope, 1, flags)
        body = struct.pack("=BBBBBBBBI", *head) + _attr(1, net.network_address.packed) + _u32(4, index)
        if route.gateway:
            gateway = ipaddress.ip_address(route.gateway)
            same = gateway.version == net.version
            via = struct.pack("=H", _family(gateway.version)) + gateway.packed
            body += _attr(5, gateway.packed) if same else _attr(18, via)
        body += _u32(6, route.metric) if route.metric else b""
        body += _attr(7, ipaddress.ip_address(route.src).packed) if route.src else b""
        body += _attr(8, _u32(2, route.mtu)) if route.mtu else b""
        self._ask(_NEWROUTE, _ACK | _CREATE | _REPLACE, body)

    def add_neighbour(self, index: int, one: Neighbour) -> None:
        """A permanent neighbour. Idempotent."""
        address = ipaddress.ip_address(one.ip)
        body = struct.pack("=BBHiHBB", _family(address.version), 0, 0, index, _PERMANENT, 0, 0)
        body += _attr(1, address.packed) + _attr(2, bytes.fromhex(one.mac.replace(":", "")))
        self._ask(_NEWNEIGH, _ACK | _CREATE | _REPLACE, body)

    def route_to(self, address: str) -> int:
        """Index of the device by which an address is reached, once that has an address itself; else 0."""
        wanted = ipaddress.ip_address(address)
        head = (_family(wanted.version), wanted.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        try:
            bodies = self._ask(_GETROUTE, 0, struct.pack("=BBBBBBBBI", *head) + _attr(1, wanted.packed))
        except OSError as error:
            if error.errno in _NO_WAY:
                return 0
            raise
        facts = dict(_attributes(bodies[0][12:])) if bodies else {}
        return int.from_bytes(facts[4], sys.byteorder) if 4 in facts and 7 in facts else 0

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        self._socket.send(struct.pack("=IHHII", len(body) + 16, kind, _REQUEST | flags, 0, 0) + body)
        bodies: list[bytes] = []
        for _ in range(_MAX_DATAGRAMS):
            data = self._socket.recv(1 << 17)
            at = 0
            while at + 16 <= len(data):
                size, answer = struct.unpack_from("=IH", data, at)
                part = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if answer in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                    code = -struct.unpack_from("=i", part)[0] if len(part) >= 4 else 0
                    if code:
                        raise OSError(code, os.strerror(code))
                    return bodies
                bodies.append(part)
            if not flags & (_ACK | _DUMP) and bodies:
                return bodies
        raise TimeoutError("the kernel's answer has no end")


def _link(body: bytes) -> Link:
    _, _, _, index, flags, _ = struct.unpack_from("=BBHiII", body)
    facts = dict(_attributes(body[16:]))
    info = dict(_attributes(facts.get(18, b"")))
    kind = info.get(1, b"").rstrip(b"\0").decode()
    data = dict(_attributes(info.get(2, b""))) if kind == "vxlan" else {}
    return Link(
        index=index,
        name=facts.get(3, b"").rstrip(b"\0").decode(errors="replace"),
        kind=kind,
        mac=facts.get(1, b"").hex(":"),
        mtu=int.from_bytes(facts.get(4, b""), sys.byteorder),
        up=bool(flags & _UP),
        loopback=bool(flags & _LOOPBACK),
        vni=int.from_bytes(data.get(1, b""), sys.byteorder),
        port=int.from_bytes(data.get(15, b""), "big"),
    )


def _ifinfo(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, flags)


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + bytes(-len(data) % 4)


def _u32(kind: int, number: int) -> bytes:
    return _attr(kind, struct.pack("=I", number))


def _text(kind: int, text: str) -> bytes:
    return _attr(kind, text.encode() + b"\0")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3
