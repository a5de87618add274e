"""The table `inet peerpods`: tunnel packets that connection tracking leaves alone.

One table a namespace with one set a family; an element is (VM's address, UDP port) and its comment the sandbox. Four
rules look the sets up: what leaves for a VM, and what comes from one. The messages are nf_tables netlink
(include/uapi/linux/netfilter/nf_tables.h); pyroute2 has no concatenated sets. Without nf_tables in the kernel the
functions raise `Unsupported`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

import attrs

TABLE = "peerpods"
_NETLINK_NETFILTER = 12
_INET = 1  # NFPROTO_INET
_SUBSYS = 10  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET = 0, 2, 3, 6, 9
_NEWELEM, _GETELEM, _DELELEM = 12, 13, 14
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_NESTED = 0x8000
_RAW_PRIORITY = -300  # NF_IP_PRI_RAW: before connection tracking
_HOOKS = {"prerouting": 0, "output": 3}
_SETS = {4: ("vms4", (7 << 6) | 13, 8), 6: ("vms6", (8 << 6) | 13, 20)}  # name, nft type (addr . inet_service), bytes
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT)
_TIMEOUT = 5.0  # seconds for the kernel's answer
_MAX_DATAGRAMS = 4096


class Unsupported(Exception):
    """The kernel has no nf_tables, or not the expressions we need."""


@attrs.frozen
class Element:
    """One tunnel."""

    address: str
    port: int
    comment: str

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version

    @property
    def key(self) -> bytes:
        """As the set holds it: address, then the port padded to four bytes."""
        return ipaddress.ip_address(self.address).packed + struct.pack("!HH", self.port, 0)


def add(element: Element) -> None:
    """Leave a tunnel's packets alone; the table is made when missing. Idempotent; takes over another's element."""
    present = elements()
    if element in present:
        return
    batch = [] if _exists() else _table_messages()
    if any(one.key == element.key for one in present):
        batch.append(_element_message(_DELELEM, element, 0))
    batch.append(_element_message(_NEWELEM, element, _CREATE))
    _transact(batch)


def remove(comments: set[str]) -> list[Element]:
    """Remove the elements of these sandboxes, and the table with the last of all. Gives what it removed."""
    present = elements()
    gone = [one for one in present if one.comment in comments]
    if len(gone) == len(present) and _exists():
        _transact([_message(_DELTABLE, 0, _text(1, TABLE))], missing_ok=True)
    elif gone:
        _transact([_element_message(_DELELEM, one, 0) for one in gone], missing_ok=True)
    return gone


def elements() -> list[Element]:
    """All tunnels in the table; none when there is no table."""
    return [one for version in _SETS for one in _dump(version)]


def _exists() -> bool:
    try:
        _ask(_message(1, _ACK, _text(1, TABLE)))  # NFT_MSG_GETTABLE
    except FileNotFoundError:
        return False
    return True


def _table_messages() -> list[bytes]:
    messages = [_message(_NEWTABLE, _CREATE, _text(1, TABLE) + _be32(2, 0))]
    for number, (name, kind, length) in enumerate(_SETS.values(), 1):
        facts = _text(1, TABLE) + _text(2, name) + _be32(3, 0) + _be32(4, kind) + _be32(5, length) + _be32(10, number)
        messages.append(_message(_NEWSET, _CREATE, facts))
    for chain, hook in _HOOKS.items():
        place = _nest(4, _be32(1, hook) + _attr(2, struct.pack("!i", _RAW_PRIORITY)))
        facts = _text(1, TABLE) + _text(3, chain) + place + _be32(5, 1) + _text(7, "filter")
        messages.append(_message(_NEWCHAIN, _CREATE, facts))
        for version in _SETS:
            facts = _text(1, TABLE) + _text(2, chain) + _nest(4, _rule(chain, version))
            messages.append(_message(_NEWRULE, _CREATE | 0x800, facts))  # NLM_F_APPEND
    return messages


def _rule(chain: str, version: int) -> bytes:
    """meta nfproto V; meta l4proto udp; load address and destination port; look up; notrack."""
    name, _, _ = _SETS[version]
    size = 4 if version == 4 else 16
    source, destination = (12, 16) if version == 4 else (8, 24)  # offsets in the IP header
    offset = destination if chain == "output" else source
    family = b"\x02" if version == 4 else b"\x0a"
    port_register = 8 + size // 4  # NFT_REG32_00 is 8
    return b"".join(
        (
            _expr("meta", _be32(2, 15) + _be32(1, 1)),  # NFT_META_NFPROTO to register 1
            _expr("cmp", _be32(1, 1) + _be32(2, 0) + _nest(3, _attr(1, family))),
            _expr("meta", _be32(2, 16) + _be32(1, 1)),  # NFT_META_L4PROTO
            _expr("cmp", _be32(1, 1) + _be32(2, 0) + _nest(3, _attr(1, b"\x11"))),
            _expr("payload", _be32(1, 8) + _be32(2, 1) + _be32(3, offset) + _be32(4, size)),
            _expr("payload", _be32(1, port_register) + _be32(2, 2) + _be32(3, 2) + _be32(4, 2)),
            _expr("lookup", _text(1, name) + _be32(2, 8)),
            _expr("notrack", b""),
        )
    )


def _element_message(kind: int, element: Element, flags: int) -> bytes:
    comment = element.comment.encode()[:120] + b"\0"
    content = _nest(1, _attr(1, element.key))
    if kind == _NEWELEM:
        content += _attr(6, bytes((0, len(comment))) + comment)  # NFTNL_UDATA_SET_ELEM_COMMENT
    listed = _nest(3, _nest(1, content))
    return _message(kind, flags, _text(1, TABLE) + _text(2, _SETS[element.version][0]) + listed)


def _dump(version: int) -> list[Element]:
    name, _, length = _SETS[version]
    found = []
    try:
        bodies = _ask(_message(_GETELEM, _DUMP, _text(1, TABLE) + _text(2, name)))
    except FileNotFoundError:
        return []
    for body in bodies:
        for kind, listed in _attributes(body[4:]):
            if kind != 3:
                continue
            for _, raw in _attributes(listed):
                facts = dict(_attributes(raw))
                key = dict(_attributes(facts.get(1, b""))).get(1, b"")
                if len(key) == length:
                    address = str(ipaddress.ip_address(key[: length - 4]))
                    comment = facts.get(6, b"\0\0")[2:].rstrip(b"\0").decode(errors="replace")
                    found.append(Element(address, int.from_bytes(key[-4:-2], "big"), comment))
    return found


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + bytes(-len(data) % 4)


def _nest(kind: int, data: bytes) -> bytes:
    return _attr(kind | _NESTED, data)


def _text(kind: int, text: str) -> bytes:
    return _attr(kind, text.encode() + b"\0")


def _be32(kind: int, number: int) -> bytes:
    return _attr(kind, struct.pack("!I", number))


def _expr(name: str, data: bytes) -> bytes:
    return _nest(1, _text(1, name) + (_nest(2, data) if data else b""))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _message(kind: int, flags: int, data: bytes) -> bytes:
    body = struct.pack("!BBH", _INET, 0, 0) + data
    return struct.pack("=IHHII", len(body) + 16, _SUBSYS << 8 | kind, _REQUEST | flags, 0, 0) + body


def _transact(messages: list[bytes], *, missing_ok: bool = False) -> None:
    """All or nothing, as nf_tables does it: the messages between a begin and an end."""
    edge = struct.pack("!BBH", 0, 0, _SUBSYS)
    begin = struct.pack("=IHHII", 20, 0x10, _REQUEST, 0, 0) + edge
    end = struct.pack("=IHHII", 20, 0x11, _REQUEST, 0, 0) + edge
    last = bytearray(messages[-1])
    struct.pack_into("=H", last, 6, struct.unpack_from("=H", last, 6)[0] | _ACK)
    try:
        _ask(b"".join((begin, *messages[:-1], bytes(last), end)))
    except FileNotFoundError:
        if not missing_ok:
            raise


def _ask(request: bytes) -> list[bytes]:
    """Send, and collect the answers until the acknowledgement, the end of the dump or an error."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise _told(error.errno or errno.EPROTONOSUPPORT) from error
    bodies: list[bytes] = []
    with sock:
        sock.settimeout(_TIMEOUT)
        sock.bind((0, 0))
        sock.send(request)
        for _ in range(_MAX_DATAGRAMS):
            data = sock.recv(1 << 17)
            at = 0
            while at + 16 <= len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                body = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if kind in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code:
                        raise _told(-code)
                    return bodies
                bodies.append(body)
    raise TimeoutError("the kernel's answer about nftables has no end")


def _told(code: int) -> Exception:
    if code in _UNSUPPORTED:
        return Unsupported(os.strerror(code))
    return OSError(code, f"nftables: {os.strerror(code)}")
