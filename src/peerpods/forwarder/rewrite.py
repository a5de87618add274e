"""The few edits to calls, on encoded bytes: what is not edited stays byte for byte as it came.

| call            | edit                                                                    |
|-----------------|-------------------------------------------------------------------------|
| CreateContainer | the network namespace of the container becomes the pod's                |
| CreateSandbox   | the list of name servers is emptied: the VM keeps its own resolver      |

Both take a message that `strict.check` has passed. Rules: wire.md 5.5, 8 (19, 20, 23).
"""

from __future__ import annotations

from collections.abc import Callable

from peerpods.errors import Refused
from peerpods.ttrpc.fields import BYTES, field_bytes, fields

# Field number << 3 | BYTES.
_OCI, _LINUX, _MOUNTS = 0x32, 0x42, 0x2A
_NAMESPACES, _TYPE, _PATH = 0x32, 0x0A, 0x12
_SOURCE, _MOUNT_TYPE = 0x12, 0x1A
_DNS = 0x12


def set_network_namespace(request: bytes, path: str) -> bytes:
    """A CreateContainerRequest whose container joins the network namespace at `path`.

    A network entry that is there is replaced, further ones are dropped; else one is added after the last namespace.

    Raises:
        Refused: when the request has no OCI spec, or the spec no Linux part.
    """
    entry = field_bytes(_NAMESPACES, field_bytes(_TYPE, b"network") + field_bytes(_PATH, path.encode()))
    return _replace(
        request,
        _OCI,
        lambda spec: _replace(spec, _LINUX, lambda linux: _with_namespace(linux, entry), "Linux part in its OCI spec"),
        "OCI spec",
    )


def _replace(data: bytes, tag: int, edit: Callable[[bytes], bytes], what: str) -> bytes:
    """`data` with the value of its one field `tag` edited."""
    for found, start, pos, stop in fields(data):
        if found == tag:
            return data[:start] + field_bytes(tag, edit(data[pos:stop])) + data[stop:]
    raise Refused(f"CreateContainer has no {what}", remedy="the runtime must send one")


def _with_namespace(linux: bytes, entry: bytes) -> bytes:
    parts: list[bytes] = []
    place = 0
    replaced = False
    for tag, start, pos, stop in fields(linux):
        if tag != _NAMESPACES:
            parts.append(linux[start:stop])
            continue
        if _text(linux[pos:stop], _TYPE) == b"network":
            if not replaced:
                parts.append(entry)
            replaced = True
        else:
            parts.append(linux[start:stop])
        place = len(parts)
    if not replaced:
        parts.insert(place or len(parts), entry)
    return b"".join(parts)


def clear_dns(request: bytes) -> bytes:
    """A CreateSandboxRequest without name servers."""
    return b"".join(request[start:stop] for tag, start, _, stop in fields(request) if tag != _DNS)


def bind_sources(request: bytes) -> list[str]:
    """The sources of the bind mounts of a CreateContainerRequest, in order, each once."""
    found: dict[str, None] = {}
    for spec in _values(request, _OCI):
        for mount in _values(spec, _MOUNTS):
            if _text(mount, _MOUNT_TYPE) == b"bind":
                found[_text(mount, _SOURCE).decode()] = None
    return [source for source in found if source]


def _values(data: bytes, tag: int) -> list[bytes]:
    return [data[pos:stop] for found, _, pos, stop in fields(data) if found == tag]


def _text(data: bytes, tag: int) -> bytes:
    values = _values(data, tag)
    return values[-1] if values else b""


def container_id(request: bytes) -> str:
    """Field 1 of a request as every decoder reads it: the last one wins, one of another wire type does not count.

    Raises:
        ValueError: when the request cannot be read.
    """
    return _text(request, 1 << 3 | BYTES).decode()
