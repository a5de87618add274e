"""From the tree to what is booted: dracut initrd, erofs with dm-verity, UKI, partitioned disk, other disk formats."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import attrs

from peerpods.errors import LocalFailure
from peerpods.image import inputs
from peerpods.image.system.base import SystemBase
from peerpods.image.system.tools import Tools
from peerpods.image.variant import Variant

SEED = str(inputs.DATA["identifiers"]["disk_seed"])
ESP_MIB = 64
MIB = 1 << 20
_ROOT = """[Partition]
Type=root
Format=erofs
CopyFiles=/work/root:/
Verity=data
VerityMatchKey=root
VerityDataBlockSizeBytes=4096
VerityHashBlockSizeBytes=4096
Minimize=best
Compression=lz4hc
CompressionLevel=9
"""
_VERITY = """[Partition]
Type=root-verity
Verity=hash
VerityMatchKey=root
VerityDataBlockSizeBytes=4096
VerityHashBlockSizeBytes=4096
Minimize=best
"""
_ESP = f"""[Partition]
Type=esp
Format=vfat
CopyFiles=/work/esp:/
SizeMinBytes={ESP_MIB}M
SizeMaxBytes={ESP_MIB}M
"""


@attrs.frozen
class Partition:
    """One partition that repart made."""

    offset: int
    size: int
    uuid: str
    roothash: str


def _repart(tools: Tools, work: Path, definitions: dict[str, str], target: str) -> list[Partition]:
    folder = work / f"{target}.d"
    folder.mkdir()
    for name, text in definitions.items():
        (folder / f"{name}.conf").write_text(text)
    out = tools.run(
        work, "systemd-repart", "--sector-size=512", "--offline=yes", f"--seed={SEED}", "--empty=create", "--size=auto",
        f"--definitions=/work/{folder.name}", "--dry-run=no", "--json=short", "--no-pager", f"/work/{target}",
    )  # fmt: skip
    rows = json.loads(out[out.index("[") :])
    return [Partition(row["offset"], row["raw_size"], row["uuid"], row.get("roothash", "")) for row in rows]


def root_partitions(tools: Tools, work: Path, arch: str = "") -> tuple[str, list[Partition]]:
    """work/stage1.raw with work/root as a verity root; its root hash and the two partitions.

    Args:
        arch: systemd's name of the architecture that the partition types name, where it is not the tools' own.
    """
    kind = f"Type=root-{arch}" if arch else "Type=root"
    definitions = {"20-root": _ROOT, "30-verity": _VERITY}
    named = {name: text.replace("Type=root", kind) for name, text in definitions.items()}
    found = _repart(tools, work, named, "stage1.raw")
    if not found[0].roothash:
        raise LocalFailure("systemd-repart gave no root hash")
    return found[0].roothash, found


def unified_kernel(base: SystemBase, variant: Variant, tools: Tools, work: Path, roothash: str) -> str:
    """work/podvm.efi: stub, kernel, initrd and command line in one file; the command line."""
    line = variant.command_line(f"roothash={roothash}")
    (work / "cmdline").write_text(line)
    shutil.copyfile(base.vmlinuz, work / "vmlinuz")
    shutil.copyfile(work / "root/etc/os-release", work / "os-release")
    tools.run(
        work, "ukify", "build", "--linux=/work/vmlinuz", "--initrd=/work/initrd.img", "--cmdline=@/work/cmdline",
        "--os-release=@/work/os-release", f"--uname={base.release}", "--output=/work/podvm.efi",
    )  # fmt: skip
    return line


def disk(tools: Tools, work: Path, parts: list[Partition]) -> None:
    """work/podvm.raw: the UKI as the only program of the EFI partition, and the two partitions of stage1.raw."""
    boot = work / "esp/EFI/BOOT"
    boot.mkdir(parents=True)
    shutil.copyfile(work / "podvm.efi", boot / "BOOTX64.EFI")
    for path in (boot / "BOOTX64.EFI", boot, boot.parent, work / "esp"):
        os.utime(path, (inputs.EPOCH, inputs.EPOCH))
    definitions = {"10-esp": _ESP}
    for name, kind, part in (("20-root", "root", parts[0]), ("30-verity", "root-verity", parts[1])):
        with (work / "stage1.raw").open("rb") as source:
            source.seek(part.offset)
            (work / f"{name}.part").write_bytes(source.read(part.size))
        definitions[name] = f"[Partition]\nType={kind}\nUUID={part.uuid}\nCopyBlocks=/work/{name}.part\n"
    _repart(tools, work, definitions, "podvm.raw")


def formats(tools: Tools, work: Path) -> None:
    """work/podvm.qcow2 and work/podvm.vhd (fixed, whole MiB) from the raw disk."""
    tools.run(work, "qemu-img", "convert", "-O", "qcow2", "-c", "/work/podvm.raw", "/work/podvm.qcow2")
    size = -(-(work / "podvm.raw").stat().st_size // MIB) * MIB
    shutil.copyfile(work / "podvm.raw", work / "padded.raw")
    os.truncate(work / "padded.raw", size)
    options = "subformat=fixed,force_size=on"
    tools.run(work, "qemu-img", "convert", "-O", "vpc", "-o", options, "/work/padded.raw", "/work/podvm.vhd")
    (work / "padded.raw").unlink()
    _fix_vhd(work / "podvm.vhd")


def _fix_vhd(file: Path) -> None:
    """The footer's time stamp, unique id and checksum, made from the epoch and seed instead of from now.

    Layout: Virtual Hard Disk image format specification, hard disk footer: time stamp at 24 (seconds since 2000),
    checksum at 64 (complement of the sum of all other bytes), unique id at 68.
    """
    import hashlib

    with file.open("r+b") as stream:
        stream.seek(-512, os.SEEK_END)
        footer = bytearray(stream.read(512))
        if footer[:8] != b"conectix":
            raise LocalFailure("qemu-img made a VHD without a footer")
        footer[24:28] = (inputs.EPOCH - 946684800).to_bytes(4, "big")
        footer[64:68] = bytes(4)
        footer[68:84] = hashlib.sha256(SEED.encode()).digest()[:16]
        footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
        stream.seek(-512, os.SEEK_END)
        stream.write(footer)
