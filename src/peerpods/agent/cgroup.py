"""Cgroups of the place the agent runs in: v2 in the VM, v1 on some workers (provider netns). Detected."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from peerpods.protocols import agent_pb2

ROOT = Path("/sys/fs/cgroup")
NO_LIMIT = (1 << 63) - 4096  # what cgroup v1 shows for "no limit"
V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "freezer", "devices")


@attrs.frozen(kw_only=True)
class Cgroups:
    """What there is."""

    version: int
    """2, 1, or 0 when cgroups cannot be used: containers then run without limits and figures."""
    controllers: frozenset[str]
    root: Path = ROOT

    def folder(self, controller: str, path: str) -> Path:
        """Folder of a cgroup; the controller matters under v1 only."""
        base = self.root if self.version == 2 else self.root / controller
        return base / path.lstrip("/")


def detect(root: Path = ROOT) -> Cgroups:
    """Look at what is mounted."""
    try:
        if (root / "cgroup.controllers").exists():
            found = set((root / "cgroup.controllers").read_text().split())
            found |= {"blkio"} if "io" in found else set()
            # Under v2 swap is counted wherever the kernel has swap at all.
            found |= {"memsw"} if "memory" in found and Path("/proc/swaps").exists() else set()
            return Cgroups(version=2 if os.access(root, os.W_OK) else 0, controllers=frozenset(found), root=root)
        present = {name for name in V1_CONTROLLERS if (root / name / "cgroup.procs").exists()}
    except OSError:
        present = set()
    if not {"memory", "cpu"} <= present or not os.access(root / "memory", os.W_OK):
        return Cgroups(version=0, controllers=frozenset(), root=root)
    if (root / "memory" / "memory.memsw.limit_in_bytes").exists():
        present.add("memsw")
    return Cgroups(version=1, controllers=frozenset(present), root=root)


COVER = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'


def crun_prefix(root: Path = ROOT) -> list[str]:
    """Words before a crun command that make it work here; usually none.

    crun refuses a host that mounts a v2 tree beside v1 (systemd's hybrid). There each run of it gets a mount
    namespace of its own in which that tree is covered: nobody else notices. The VM is never such a place.
    """
    unified = root / "unified"
    if not (unified / "cgroup.procs").exists():
        return []
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", COVER, str(unified)]


def _number(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    if text == "max":
        return NO_LIMIT
    return int(text) if text.lstrip("-").isdigit() else 0


def _table(file: Path) -> dict[str, int]:
    """A file of `name number` lines."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {p[0]: int(p[1]) for p in pairs if len(p) == 2 and p[1].isdigit()}


def oom_kills(cgroups: Cgroups, path: str) -> int:
    """How many processes of a cgroup the kernel has killed for want of memory; 0 when that cannot be told."""
    file = "memory.events" if cgroups.version == 2 else "memory.oom_control"
    return _table(cgroups.folder("memory", path) / file).get("oom_kill", 0)


def processes(cgroups: Cgroups, path: str) -> list[int]:
    """Process ids in a cgroup."""
    try:
        text = (cgroups.folder("memory", path) / "cgroup.procs").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def stats(cgroups: Cgroups, path: str) -> agent_pb2.CgroupStats:
    """Figures of a container, in the shape of cgroup v1 (spec/wire 3.6); empty without cgroups."""
    if cgroups.version == 2:
        return _stats_v2(cgroups.folder("", path))
    return _stats_v1(cgroups, path) if cgroups.version == 1 else agent_pb2.CgroupStats()


def _stats_v2(folder: Path) -> agent_pb2.CgroupStats:
    result = agent_pb2.CgroupStats()
    cpu = _table(folder / "cpu.stat")
    usage = result.cpu_stats.cpu_usage
    usage.total_usage = cpu.get("usage_usec", 0) * 1000
    usage.usage_in_usermode = cpu.get("user_usec", 0) * 1000
    usage.usage_in_kernelmode = cpu.get("system_usec", 0) * 1000
    throttling = result.cpu_stats.throttling_data
    throttling.periods = cpu.get("nr_periods", 0)
    throttling.throttled_periods = cpu.get("nr_throttled", 0)
    throttling.throttled_time = cpu.get("throttled_usec", 0) * 1000
    table = _table(folder / "memory.stat")
    memory = result.memory_stats
    memory.cache = table.get("file", 0)
    memory.usage.usage = _number(folder / "memory.current")
    memory.usage.max_usage = _number(folder / "memory.peak")
    memory.usage.limit = _number(folder / "memory.max")
    memory.usage.failcnt = _table(folder / "memory.events").get("max", 0)
    memory.swap_usage.usage = _number(folder / "memory.swap.current")
    memory.swap_usage.limit = _number(folder / "memory.swap.max")
    memory.use_hierarchy = True
    memory.stats.update(table)
    result.pids_stats.current = _number(folder / "pids.current")
    limit = _number(folder / "pids.max")
    result.pids_stats.limit = 0 if limit == NO_LIMIT else limit
    _io_v2(result.blkio_stats, folder / "io.stat")
    return result


def _io_v2(blkio: agent_pb2.BlkioStats, file: Path) -> None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for op, size, count in (("Read", "rbytes", "rios"), ("Write", "wbytes", "wios")):
            where = {"major": int(major), "minor": int(minor), "op": op}
            blkio.io_service_bytes_recursive.add(**where, value=int(values.get(size, 0)))
            blkio.io_serviced_recursive.add(**where, value=int(values.get(count, 0)))


def _stats_v1(cgroups: Cgroups, path: str) -> agent_pb2.CgroupStats:
    result = agent_pb2.CgroupStats()
    cpuacct, cpu = cgroups.folder("cpuacct", path), _table(cgroups.folder("cpu", path) / "cpu.stat")
    usage = result.cpu_stats.cpu_usage
    usage.total_usage = _number(cpuacct / "cpuacct.usage")
    usage.usage_in_usermode = _number(cpuacct / "cpuacct.usage_user")
    usage.usage_in_kernelmode = _number(cpuacct / "cpuacct.usage_sys")
    throttling = result.cpu_stats.throttling_data
    throttling.periods = cpu.get("nr_periods", 0)
    throttling.throttled_periods = cpu.get("nr_throttled", 0)
    throttling.throttled_time = cpu.get("throttled_time", 0)
    folder = cgroups.folder("memory", path)
    table = _table(folder / "memory.stat")
    memory = result.memory_stats
    memory.cache = table.get("cache", 0)
    memory.use_hierarchy = _number(folder / "memory.use_hierarchy") == 1
    memory.stats.update(table)
    for part, prefix in (
        (memory.usage, "memory"),
        (memory.swap_usage, "memory.memsw"),
        (memory.kernel_usage, "memory.kmem"),
    ):
        part.usage = _number(folder / f"{prefix}.usage_in_bytes")
        part.max_usage = _number(folder / f"{prefix}.max_usage_in_bytes")
        part.failcnt = _number(folder / f"{prefix}.failcnt")
        part.limit = max(0, _number(folder / f"{prefix}.limit_in_bytes"))
    pids = cgroups.folder("pids", path)
    result.pids_stats.current = _number(pids / "pids.current")
    limit = _number(pids / "pids.max")
    result.pids_stats.limit = 0 if limit == NO_LIMIT else limit
    return result
