"""`peerpods image`: reference values of an image, its checks, and what changed between two. Works without network."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from peerpods.errors import ConfigError, PeerPodError
from peerpods.image.publish.folder import MEASUREMENTS, ImageFolder

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def image() -> None:
    """Reference values of a pod VM image, computed offline; checks; differences."""


def _worded(function: Callable[..., None]) -> Callable[..., None]:
    """Errors become one line: exit code 2 for what the user gave, 1 for what the image is."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except PeerPodError as error:
            print(f"peerpods: {' '.join(str(error).splitlines())}", file=sys.stderr)
            sys.exit(2 if isinstance(error, ConfigError) else 1)

    return run


class _Steps:
    """Says on standard error what is computed; nothing with --json or --quiet on a pipe's other end is disturbed."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"image: {time.monotonic() - self._since:5.1f} s  {text}", file=sys.stderr, flush=True)


@image.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--vcpus", type=click.IntRange(1, 512), multiple=True, help="SNP: this number of vCPUs; 1 to 64 if not given."
)
@click.option("--cpu", multiple=True, help="SNP: this CPU model of QEMU; all known ones if not given.")
@click.option("--features", multiple=True, help="SNP: these guest features, such as 0x1; all known ones if not given.")
@click.option("--vmm", type=click.Choice(["qemu", "ec2", "gce"]), multiple=True, help="SNP: this VMM.  [qemu]")
@click.option("--json", "as_json", is_flag=True, help="The whole of measurements.json.")
@_worded
def measure(
    folder: Path,
    vcpus: tuple[int, ...],
    cpu: tuple[str, ...],
    features: tuple[str, ...],
    vmm: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compute every reference value of the image in FOLDER from its files."""
    from peerpods.image.measure.snp import Vmm
    from peerpods.image.publish.measurements import Shapes, measure

    defaults = Shapes()
    shapes = Shapes(
        vcpus=vcpus or defaults.vcpus,
        cpus=cpu or defaults.cpus,
        features=[_number(text) for text in features] or defaults.features,
        vmms=[Vmm(name) for name in vmm] or defaults.vmms,
    )
    found = measure(ImageFolder(folder), shapes, _Steps())
    print(json.dumps(found, indent=1, sort_keys=True) if as_json else table(found))


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 64:
        raise ConfigError(f"--features {text}: no number", setting="features", remedy="give one such as 0x1 or 0x21")
    return value


def table(found: dict[str, Any]) -> str:
    """Measurements for people: a line a value; SNP's many shapes as their number, first and last."""
    about = found["image"]
    kind = "release" if about["release"] else "no release"
    lines = [f"image       {about['name']} ({about['image_id']}, {about['agent']} agent, {kind})"]
    if "roothash" in found:
        lines.append(f"root hash   {found['roothash']}")
    for algorithm, bank in found.get("vtpm", {}).items():
        lines.append(f"vTPM        {algorithm}")
        lines += [f"  {register:9} {bank[register]}" for register in ("pcr4", "pcr9", "pcr11")]
        lines += [f"  pcr7      {value}  ({when})" for when, value in bank["pcr7"].items()]
    lines += _snp_lines(found.get("snp", {}))
    for name, firmware in found.get("tdx", {}).get("firmware", {}).items():
        lines += [f"TDX         {name}"] + [
            f"  MRTD      {value}  ({order})" for order, value in firmware["mrtd"].items()
        ]
    for boot, registers in found.get("tdx", {}).get("boots", {}).items():
        lines += [f"  RTMR{index}     {value}  ({boot})" for index, value in registers["rtmr"].items()]
    if "se" in found:
        lines += [f"SE          tag {found['se']['tag']}"]
        lines += [f"  {name:9} {value}" for name, value in found["se"]["plaintext"].items()]
    return "\n".join(lines)


def _snp_lines(snp: dict[str, Any]) -> list[str]:
    lines = []
    for boot, text in snp.get("boots", {}).items():
        values = [value for value in snp["values"] if value["boot"] == boot]
        lines.append(f"SNP         {len(values)} shapes, {boot}: {text}")
        shown = values if len(values) <= 8 else [values[0], values[-1]]
        for value in shown:
            shape = f"{value['cpu']} x{value['vcpus']} features {value['features']:#x} {value['vmm']}"
            lines.append(f"  {value['digest']}  {shape}")
        if len(values) > len(shown):
            lines.append(f"  … {len(values) - len(shown)} more with --json, or name shapes with --vcpus and --cpu")
    return lines


@image.command()
@click.argument("folder", type=FOLDER)
@click.option("--key", type=FILE, help="The publisher's public key (PEM, ed25519).")
@click.option("--release", is_flag=True, help="Also refuse what may not be published.")
@click.option("--json", "as_json", is_flag=True)
@_worded
def verify(folder: Path, key: Path | None, release: bool, as_json: bool) -> None:
    """Check digests, signature, bills of materials and measurements of the image in FOLDER.

    The exit code is 1 if a check fails.
    """
    from peerpods.image.publish import signing
    from peerpods.image.publish.verify import verify

    trusted = signing.load_public(key) if key else None
    findings = verify(ImageFolder(folder), trusted, release=release, say=_Steps())
    if as_json:
        rows = [{"check": one.check, "holds": one.holds, "text": one.text} for one in findings]
        print(json.dumps({"holds": all(one.holds for one in findings), "checks": rows}, indent=1))
    else:
        for one in findings:
            print(f"{'ok    ' if one.holds else 'FAILED'} {one.check:19} {one.text}")
    sys.exit(0 if all(one.holds for one in findings) else 1)


@image.command()
@click.argument("old", type=FOLDER)
@click.argument("new", type=FOLDER)
@click.option("--json", "as_json", is_flag=True)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write here what differs inside of the files, by diffoscope: HTML, or text if it ends in .txt.",
)
@_worded
def diff(old: Path, new: Path, as_json: bool, report: Path | None) -> None:
    """Say what changed from the image in OLD to that in NEW. Exit code 1 if anything did."""
    from peerpods.image.build import default_cache
    from peerpods.image.publish import report as reports
    from peerpods.image.publish.diff import diff

    programs = reports.find(default_cache()) if report else None
    changes = diff(ImageFolder(old), ImageFolder(new))
    if as_json:
        print(json.dumps(changes, indent=1))
    else:
        print("\n".join(changes) or "the two images are equal")
    if changes and report and programs:
        _Steps()("diffoscope: it takes some seconds, or minutes")
        reports.write(old, new, report, programs)
        print(f"image: what differs inside of the files: {report}", file=sys.stderr)
    elif changes and not as_json:
        print("image: --report FILE says what differs inside of the files", file=sys.stderr)
    sys.exit(1 if changes else 0)


@image.command()
@click.argument("folder", type=FOLDER)
@click.option("--values", is_flag=True, help="The plain map of names to values instead of the message.")
@_worded
def rvps(folder: Path, values: bool) -> None:
    """Print what the reference value service (RVPS) takes for the image in FOLDER."""
    from peerpods.image.publish.rvps import message
    from peerpods.image.publish.verify import check_schema

    measured = ImageFolder(folder).json(MEASUREMENTS)
    check_schema(measured)
    found = message(measured)
    print(json.dumps(found["values" if values else "message"], indent=1))


@image.command()
@click.argument("folder", type=FOLDER)
@click.argument("log", type=FILE)
@click.option("--kind", type=click.Choice(["ccel", "tpm"]), help="Whose log it is.  [what it looks like]")
@click.option("--boot", default="", help="How the VM was booted: disk, uki, kernel.  [what fits best]")
@click.option("--json", "as_json", is_flag=True)
@_worded
def replay(folder: Path, log: Path, kind: str | None, boot: str, as_json: bool) -> None:
    """Compare a VM's event LOG, event by event, with what the image in FOLDER predicts.

    LOG is a copy of /sys/firmware/acpi/tables/data/CCEL of a TD, or of a vTPM's binary_bios_measurements. It counts
    only if the registers printed here are those of the VM's quote. The exit code is 1 if an event is not as predicted.
    """
    from peerpods.image.measure import eventlog
    from peerpods.image.publish.replay import replay
    from peerpods.image.publish.verify import check_schema

    measured = ImageFolder(folder).json(MEASUREMENTS)
    check_schema(measured)
    found = replay(measured, eventlog.parse(log.read_bytes(), str(log)), kind=kind or "", boot=boot)
    if as_json:
        rows = [{"register": r.register, "digest": r.digest, "text": r.text, "holds": r.holds} for r in found.rows]
        whole = {"boot": found.boot, "holds": found.holds, "events": rows, "registers": dict(found.registers)}
        print(json.dumps(whole, indent=1))
    else:
        words = {True: "ok", False: "FAILED", None: "-"}
        lines = [f"{words[r.holds]:6} {r.register:6} {r.digest[:16]}…  {r.text}" for r in found.rows]
        lines += [f"{name:13} {value}" for name, value in found.registers.items()]
        print("\n".join([f"boot          {found.boot}", *lines]))
    sys.exit(0 if found.holds else 1)
