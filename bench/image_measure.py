"""All reference values of an image for SNP and for TDX by `peerpods image measure`, beside sev-snp-measure.

The image is prod-test, given the firmware of each TEE; a command's whole time is taken, its start included.
sev-snp-measure computes a few shapes in this process, and its time for all is reckoned from those.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from peerpods.image import firmware  # noqa: E402
from peerpods.image.progress import Progress  # noqa: E402
from peerpods.image.publish import folder as names  # noqa: E402
from tests.images import built  # noqa: E402

TARGET = 10.0  # seconds
SAMPLE = 4  # shapes


def as_image_for(tee: str, image: Path, target: Path) -> Path:
    """The same files with another TEE's firmware, as a folder of an image for it."""
    shutil.copytree(image, target, copy_function=lambda source, to: Path(to).symlink_to(source))
    shutil.rmtree(target / "firmware")
    (target / "firmware").mkdir()
    for name, file in firmware.get(tee, built.CACHE, Progress()).items():
        (target / "firmware" / name).symlink_to(file)
    manifest = json.loads((image / names.MANIFEST).read_text())
    manifest["variant"]["tee"] = tee
    (target / names.MANIFEST).unlink()
    (target / names.MANIFEST).write_text(json.dumps(manifest))
    return target


def measure(place: Path) -> tuple[float, list[str], dict[str, Any]]:
    """Seconds of the command, the progress that it told, and what it found."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "peerpods.cli.main", "image", "measure", "--json", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stderr.splitlines(), json.loads(done.stdout)


def other_tool(place: Path, values: list[dict[str, Any]]) -> float:
    """Seconds a shape of sev-snp-measure; ends when a digest is another than ours."""
    from sevsnpmeasure.guest import snp_calc_launch_digest
    from sevsnpmeasure.vcpu_types import CPU_SIGS
    from sevsnpmeasure.vmm_types import VMMType

    rows = [row for row in values if row["boot"] == "uki"]
    rows = rows[:: len(rows) // SAMPLE][:SAMPLE]
    began = time.perf_counter()
    for row in rows:
        digest = snp_calc_launch_digest(
            row["vcpus"], CPU_SIGS[row["cpu"]], str(place / names.SNP_FIRMWARE), str(place / names.UKI), "", "",
            row["features"], "", VMMType.QEMU,
        )  # fmt: skip
        if digest.hex() != row["digest"]:
            sys.exit(f"sev-snp-measure has another digest for {row}")
    return (time.perf_counter() - began) / len(rows)


def main() -> None:
    """Measure and print; JSON where --json says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    image = built.image("prod-test")
    with tempfile.TemporaryDirectory(prefix="ppmeasure") as scratch:
        snp = as_image_for("snp", image, Path(scratch) / "snp")
        snp_seconds, told, found = measure(snp)
        values = found["snp"]["values"]
        each = other_tool(snp, values)
        tdx_seconds, told_tdx, found_tdx = measure(as_image_for("tdx", image, Path(scratch) / "tdx"))
    mrtds = sum(len(one["mrtd"]) for one in found_tdx["tdx"]["firmware"].values())
    for line in [*told, *told_tdx]:
        print(f"  {line}")
    print(f"SNP: {len(values)} launch digests in {snp_seconds:.1f} s; sev-snp-measure {each * len(values):.0f} s")
    print(f"TDX: {mrtds} MRTDs, {len(found_tdx['tdx']['boots'])} boots by event in {tdx_seconds:.1f} s")
    print(f"both: {snp_seconds + tdx_seconds:.1f} s (target {TARGET:.0f} s)")
    if options.json:
        facts = {
            "snp_s": snp_seconds, "snp_values": len(values), "tdx_s": tdx_seconds,
            "sev_snp_measure_s_a_value": each,
        }  # fmt: skip
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
