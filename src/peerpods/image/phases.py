"""What a VM's console tells of its start: marks with the guest's uptime, and what each phase took. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

_LINE = re.compile(r"peerpods\[(?P<uptime>[0-9.]+)\] (?P<text>[^\r\n]*)")
NAMES = ("kernel", "initrd", "python", "user-data", "import", "forwarder (listening)", "agent (listening)")
"""The phases of a start with the development agent, in order; each mark is the end of its phase."""
LISTENING = NAMES[-2]
AGENT = NAMES[-1]


@attrs.frozen
class Phase:
    """A mark on the console: its name, the guest's uptime, our own clock and QEMU's processor time until then.

    All in seconds; `wall` counts from the call that made the instance.
    """

    name: str
    uptime: float
    wall: float
    cpu: float = 0.0


@attrs.frozen
class Row:
    """One line of the table: seconds by the clock, share of the whole, seconds of processor time."""

    name: str
    seconds: float
    share: float
    cpu: float


def parse_line(line: str, wall: float, cpu: float = 0.0) -> Phase | str | None:
    """A phase, the reason when the VM says that it stopped, else None."""
    found = _LINE.search(line)
    if not found:
        return None
    text = found["text"]
    if text.startswith("phase "):
        return Phase(text.removeprefix("phase "), float(found["uptime"]), wall, cpu)
    return text.removeprefix("stopped: ") if text.startswith("stopped: ") else None


def rows(phases: Sequence[Phase], created: float) -> list[Row]:
    """What each phase took.

    The first two come before the guest's clock: the provider's create call, then firmware and the kernel's unpacking,
    which end where the guest's uptime begins.

    Args:
        phases: in order.
        created: seconds that the create call took.
    """
    if not phases:
        return []
    whole = phases[-1].wall
    born = max(created, phases[0].wall - phases[0].uptime)
    found = [Row("create (libvirt)", created, created / whole, 0.0), Row("firmware", born - created, 0.0, 0.0)]
    before, cpu = born, 0.0
    for phase in phases:
        found.append(Row(phase.name, phase.wall - before, 0.0, phase.cpu - cpu))
        before, cpu = phase.wall, phase.cpu
    return [attrs.evolve(row, share=row.seconds / whole if whole else 0.0) for row in found]


def table(found: Sequence[Row]) -> str:
    """The rows as text, with a sum at the end of the forwarder's phase."""
    lines = [f"{'phase':24} {'seconds':>8} {'share':>6} {'cpu s':>7}"]
    spent = 0.0
    for row in found:
        spent += row.seconds
        lines.append(f"{row.name:24} {row.seconds:8.2f} {row.share:6.0%} {row.cpu:7.2f}")
        if row.name in (LISTENING, AGENT):
            lines.append(f"{'= ' + row.name.split()[0] + ' ready':24} {spent:8.2f}")
    return "\n".join(lines)
