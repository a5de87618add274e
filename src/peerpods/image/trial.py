"""A trial boot with QEMU alone: until the forwarder or the agent listens, with the time of each phase."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from peerpods.errors import LocalFailure

_LINE = re.compile(r"peerpods\[(?P<uptime>[0-9.]+)\] (?P<text>[^\r\n]*)")
LISTENING = "forwarder (listening)"
AGENT = "agent (listening)"
MEMORY_MIB = 512


@attrs.frozen
class Phase:
    """A mark on the console: its name, the guest's uptime, our own clock since QEMU's start, and QEMU's processor time
    until then, all in seconds."""

    name: str
    uptime: float
    wall: float
    cpu: float = 0.0


def parse_line(line: str, wall: float, cpu: float = 0.0) -> Phase | str | None:
    """A phase, the reason when the VM says that it stopped, else None. Pure."""
    found = _LINE.search(line)
    if not found:
        return None
    text = found["text"]
    if text.startswith("phase "):
        return Phase(text.removeprefix("phase "), float(found["uptime"]), wall, cpu)
    return text.removeprefix("stopped: ") if text.startswith("stopped: ") else None


def shares(phases: list[Phase]) -> list[tuple[str, float, float]]:
    """(phase, seconds it took, share of the whole) in order; the first is firmware and start of QEMU. Pure."""
    if not phases:
        return []
    whole = phases[-1].wall
    before = phases[0].wall - phases[0].uptime
    rows = [("firmware", before)]
    for phase in phases:
        rows.append((phase.name, phase.wall - before))
        before = phase.wall
    return [(name, seconds, seconds / whole if whole else 0.0) for name, seconds in rows]


def command(image: Path, cidata: Path, *, memory_mib: int = MEMORY_MIB, network: str = "user,restrict=on") -> list[str]:
    """QEMU's command line: TCG, direct boot, the console on standard output."""
    return [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=128", "-machine", "q35", "-cpu", "max", "-smp", "1",
        "-m", str(memory_mib), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", (image / "cmdline").read_text().strip(),
        "-drive", f"if=none,id=root,format=raw,readonly=on,file={image / 'root.img'}",
        "-device", "virtio-blk-pci,drive=root,romfile=",
        "-drive", f"if=none,id=cidata,format=raw,readonly=on,file={cidata}",
        "-device", "virtio-blk-pci,drive=cidata,romfile=",
        "-netdev", f"{network},id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
    ]  # fmt: skip


def boot(qemu: list[str], *, until: str = LISTENING, timeout: float = 120.0) -> tuple[list[Phase], list[str]]:
    """Boot and stop again. Gives the phases up to `until` and all console lines.

    Raises:
        LocalFailure: with the last console lines, when the VM stops before or `timeout` seconds pass.
    """
    began = time.monotonic()
    process = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    phases: list[Phase] = []
    lines: list[str] = []
    reason = f"it did not come to '{until}' within {timeout:.0f} s"
    try:
        for line in _lines(process, began + timeout):
            lines.append(line)
            found = parse_line(line, time.monotonic() - began, _cpu(process.pid))
            if isinstance(found, str):
                reason = f"it stopped: {found}"
                break
            if found is not None:
                phases.append(found)
                if found.name == until:
                    return phases, lines
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()
    raise LocalFailure("the VM is not ready: " + reason + "\n" + "\n".join(lines[-30:]))


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lines(process: subprocess.Popen[bytes], end: float) -> Iterator[str]:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < end:
            if not selector.select(min(1.0, max(0.0, end - time.monotonic()))):
                continue
            data = os.read(pipe, 65536)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
