"""What is written down of each instance: one folder with `instance.json`, from before it is started until it is gone.

So a provider that was killed finds its instances again. Blocking file access: call it off the reactor.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import attrs

from peerpods.model import Instance, InstanceState

MAX_INSTANCES = 4096


@attrs.frozen(kw_only=True)
class Record:
    """One instance."""

    id: str
    name: str
    token: str
    address: str
    tags: tuple[tuple[str, str], ...]
    pid: int = 0
    """Of its first process, in the provider's pid namespace; 0: not started."""
    started: int = 0
    """That process's start time in clock ticks since boot: with the pid it names one process for good."""

    @property
    def device(self) -> str:
        """The node's end of its veth."""
        return "ppv" + self.id.removeprefix("ns-")[:12]

    def alive(self) -> bool:
        """Whether its first process runs."""
        return bool(self.pid) and started_at(self.pid) == self.started

    def instance(self) -> Instance:
        """As the adaptor knows it."""
        state = InstanceState.RUNNING if self.alive() else InstanceState.STOPPED
        return Instance(
            id=self.id, name=self.name, token=self.token, state=state, addresses=(self.address,), tags=self.tags
        )


def identity(token: str) -> str:
    """An instance's id: the same for an equal token."""
    return "ns-" + hashlib.sha256(token.encode()).hexdigest()[:12]


def started_at(pid: int) -> int:
    """When a process started, in ticks since boot; 0 when there is none, or only what is left of one."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if words[0] in "ZX" else int(words[19])


def choose_address(subnet: str, token: str, taken: set[str]) -> str:
    """An address of the subnet for a new instance: spread by token, so that one is not used again at once.

    Raises:
        LookupError: when all are taken.
    """
    net = ipaddress.IPv4Network(subnet)
    count = net.num_addresses - 3  # network, node, broadcast
    first = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8], "big")
    for step in range(min(count, MAX_INSTANCES + 1)):
        address = str(net.network_address + 2 + (first + step) % count)
        if address not in taken:
            return address
    raise LookupError(subnet)


def node_address(subnet: str) -> str:
    """The node's address in the subnet."""
    return str(ipaddress.IPv4Network(subnet).network_address + 1)


@attrs.frozen
class Store:
    """The folder of all instances."""

    root: Path

    def folder(self, instance_id: str) -> Path:
        """An instance's folder, whether it exists or not."""
        return self.root / instance_id

    def read(self, instance_id: str) -> Record | None:
        """An instance's record; None for an unknown or malformed id."""
        if not instance_id.startswith("ns-") or "/" in instance_id:
            return None
        try:
            facts = json.loads((self.folder(instance_id) / "instance.json").read_text())
        except (OSError, ValueError):
            return None
        facts["tags"] = tuple((key, value) for key, value in facts["tags"])
        return Record(**facts)

    def all(self) -> list[Record]:
        """Every instance, in order of id."""
        try:
            names = sorted(one.name for one in self.root.iterdir())
        except FileNotFoundError:
            return []
        return [one for one in map(self.read, names[:MAX_INSTANCES]) if one is not None]

    def write(self, record: Record) -> None:
        """Write it whole; survives the writer's death at any moment."""
        folder = self.folder(record.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = folder / "instance.new"
        draft.write_text(json.dumps(attrs.asdict(record)))
        draft.replace(folder / "instance.json")

    def write_user_data(self, instance_id: str, data: bytes) -> None:
        """For the launcher, which removes it."""
        path = self.folder(instance_id) / "user-data"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)

    def remove(self, instance_id: str) -> None:
        """Forget it."""
        shutil.rmtree(self.folder(instance_id), ignore_errors=True)


def carries(record: Record, tags: Mapping[str, str]) -> bool:
    """Whether it has all of these tags."""
    return dict(record.tags).items() >= dict(tags).items()
