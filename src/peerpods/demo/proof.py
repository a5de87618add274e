"""What a machine looks like from outside: links, namespaces, mounts, sockets, processes; proof that nothing is left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Snapshot:
    """What may be left behind, as sets that can be compared."""

    links: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    sockets: frozenset[str] = frozenset()
    """Unix sockets that somebody listens on, by path."""
    ports: frozenset[str] = frozenset()
    """TCP and UDP sockets that somebody listens on."""
    processes: frozenset[str] = frozenset()
    """`pid command` of processes that belong to this run."""


def left_over(before: Snapshot, after: Snapshot) -> list[str]:
    """What `after` has that `before` had not, as words; empty when nothing is left."""
    words = {
        "links": "network device",
        "namespaces": "network namespace",
        "mounts": "mount",
        "sockets": "unix socket",
        "ports": "listening port",
        "processes": "process",
    }
    found = []
    for name, word in words.items():
        found += [f"{word} {item}" for item in sorted(getattr(after, name) - getattr(before, name))]
    return found


_OURS = re.compile(r"^(ppbr0|pod-hello|pod-talk|gateway|vxlan\d*)$|peerpods-demo-")


def ours(snapshot: Snapshot) -> Snapshot:
    """Only what bears a name that the demo gives: on a host, others make devices and mounts at any time.

    Sockets and ports belong to network namespaces; the demo's are in its own, where `left_over` sees them all.
    """
    named = {
        name: frozenset(item for item in getattr(snapshot, name) if _OURS.search(item))
        for name in ("links", "namespaces", "mounts")
    }
    return Snapshot(**named, processes=snapshot.processes)


def listening_unix(table: str) -> frozenset[str]:
    """Paths of listening unix sockets in the text of /proc/net/unix (flag 0x10000: accepts connections)."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & 0x10000:
            found.add(fields[7])
    return frozenset(found)


def listening_ports(kind: str, table: str) -> frozenset[str]:
    """`tcp 0100007F:1F90`-like entries in state LISTEN (0A), or bound UDP sockets (07), of /proc/net/{tcp,udp}."""
    state = "0A" if kind.startswith("tcp") else "07"
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == state:
            found.add(f"{kind} {fields[1]}")
    return frozenset(found)


def mount_points(table: str) -> frozenset[str]:
    """Mount points of /proc/self/mountinfo's text."""
    return frozenset(line.split()[4] for line in table.splitlines() if line)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def processes_with(marker: str) -> frozenset[str]:
    """Living processes other than this one whose environment has this marker text."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if marker.encode() in (entry / "environ").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.add(f"{entry.name} {command[:120].strip()}")
        except OSError:
            continue  # it ended meanwhile
    return frozenset(found)


def take(marker: str = "") -> Snapshot:
    """The state of this process's namespaces now. `marker` selects processes by their environment."""
    ports: set[str] = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        ports |= listening_ports(kind, _read(f"/proc/net/{kind}"))
    names: Iterable[Path] = Path("/run/netns").iterdir() if Path("/run/netns").is_dir() else ()
    return Snapshot(
        links=frozenset(entry.name for entry in Path("/sys/class/net").iterdir()),
        namespaces=frozenset(entry.name for entry in names),
        mounts=mount_points(_read("/proc/self/mountinfo")),
        sockets=listening_unix(_read("/proc/net/unix")),
        ports=frozenset(ports),
        processes=processes_with(marker) if marker else frozenset(),
    )
