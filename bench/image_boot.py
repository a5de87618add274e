"""From the start of the machine to a forwarder that listens: the image prod-test without KVM, by phases.

The image prod-test tells the whole; the image debug is the same but for a talkative systemd, and tells the phases'
shares. What KVM would take is estimated: the same import of the forwarder is timed here on the bare machine and in the
VM; their quotient is what translation costs, and the CPU time of every phase after the firmware is divided by it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tests.images import built  # noqa: E402
from tests.images.vmbox import Told, VmBox  # noqa: E402

LISTENING = '"room": "forwarder"'
SECONDS = 600.0
TARGET = 2.0  # seconds with KVM
MARKS = (
    ("firmware", "BdsDxe: starting"),
    ("stub, kernel", "Created slice"),
    ("initrd", "Welcome to"),
    ("systemd until our units", "Starting peerpods-prepare.service"),
    ("prepare", "Finished peerpods-prepare.service"),
    ("network", "Finished peerpods-network.service"),
    ("forwarder", LISTENING),
)
"""Phase to the console line that ends it."""
IMPORT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import lean; lean.install();"
    "import peerpods.cli.services.forwarder, peerpods.forwarder.service, twisted.internet.epollreactor"
)


def phases(lines: Sequence[tuple[float, str]]) -> list[tuple[str, float]]:
    """Seconds of each phase, by the console. Pure.

    Raises:
        ValueError: a phase's end is not there.
    """
    found, at, before = [], 0, 0.0
    for name, words in MARKS:
        hit = next((n for n, (_, text) in enumerate(lines[at:], at) if words in text), None)
        if hit is None:
            raise ValueError(f"the console does not tell the end of {name!r}: {words}")
        at = hit
        found.append((name, lines[hit][0] - before))
        before = lines[hit][0]
    return found


def factor(seconds_in_vm: float, seconds_here: float) -> float:
    """How many times longer the same work takes under translation. Pure."""
    return seconds_in_vm / max(seconds_here, 1e-3)


def import_seconds() -> float:
    """CPU seconds of the forwarder's import on this machine: the least of three."""
    guest = Path(built.__file__).resolve().parents[2] / "src/peerpods/image/guest"
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-s", "-B", "-c", IMPORT, str(guest)], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def boot(image: Path) -> dict[str, Any]:
    """One boot of an image's folder: wall and CPU seconds until the forwarder listens, and the console."""
    with tempfile.TemporaryDirectory(prefix="ppvm") as folder:
        machine = built.machine()
        with VmBox(Path(folder) / "box", machine, image / "podvm.raw", told=Told(), code=machine.plain) as box:
            wall = box.wait_for(LISTENING, SECONDS)
            return {"wall": wall, "cpu": box.cpu_seconds(), "lines": list(box.lines)}


def main() -> None:
    """Measure and print; JSON where --json says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beside", type=Path, help="folder of another image, booted in the same run to compare with")
    options = parser.parse_args()
    whole = boot(built.image("prod-test"))
    beside = boot(options.beside) if options.beside else None
    told = boot(built.image("debug"))
    shares = phases(told["lines"])
    total = sum(seconds for _, seconds in shares)
    share = dict(shares)
    here = import_seconds()
    times = factor(share["forwarder"] * told["cpu"] / told["wall"], here)
    firmware = share["firmware"] / total
    estimate = whole["cpu"] * (1 - firmware) / times
    print("without KVM, one virtual CPU, to the forwarder's ready line")
    print(f"prod-test: {whole['wall']:.1f} s, {whole['cpu']:.1f} s of CPU")
    if beside:
        print(
            f"beside: {beside['wall']:.1f} s, {beside['cpu']:.1f} s of CPU: prod-test takes"
            f" {whole['wall'] / beside['wall']:.2f} of its time, {whole['cpu'] / beside['cpu']:.2f} of its CPU"
        )
    print(f"debug (talkative): {told['wall']:.1f} s, {told['cpu']:.1f} s of CPU")
    for name, seconds in shares:
        print(f"  {name:24} {seconds:6.1f} s  {100 * seconds / total:3.0f} %")
    print(f"the forwarder's import: {here:.2f} s of CPU here, {times:.0f} times that in the VM")
    print(f"with KVM, estimated: {estimate:.1f} s after the firmware (target {TARGET:.0f} s)")
    if options.json:
        facts = {
            "prod_test_wall_s": whole["wall"], "prod_test_cpu_s": whole["cpu"], "phases_s": share,
            "translation_factor": times, "kvm_estimate_s": estimate,
            "beside_wall_s": beside and beside["wall"], "beside_cpu_s": beside and beside["cpu"],
        }  # fmt: skip
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
