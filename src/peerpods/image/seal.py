"""From the tree to what is booted: erofs with a hash tree behind it, the initrd, the kernel command line."""

from __future__ import annotations

import re
from pathlib import Path

from peerpods.errors import LocalFailure
from peerpods.image import cpio, elf, inputs, modules
from peerpods.image.base import LIBRARIES, Base
from peerpods.image.tree import GUEST, library, module_infos

BLOCK = 4096


def root_image(base: Base, root: Path, target: Path) -> str:
    """Write root.img: erofs, then the verity tree. Gives the value of `peerpods.verity=`: root hash, salt, number of
    data blocks, first block of the hash tree.

    SHA-512, since a 64-bit machine without instructions for SHA needs a third less time for it than for SHA-256; lz4
    halves what must be hashed. Without hardware virtualisation both save 2 s of 11 up to a listening forwarder.
    """
    target.unlink(missing_ok=True)
    base.tool(
        "mkfs.erofs",
        "--quiet",
        "-zlz4hc,9",
        "-C16384",
        "--all-root",
        "-x-1",
        "-T",
        str(inputs.EPOCH),
        "-U",
        inputs.UUID,
        target,
        root,
    )
    size = target.stat().st_size
    blocks = -(-size // BLOCK)
    with open(target, "ab") as file:
        file.truncate(blocks * BLOCK)
    out = base.tool(
        "veritysetup", "format", target, target, f"--hash-offset={blocks * BLOCK}", f"--data-blocks={blocks}",
        "--hash=sha512", f"--salt={inputs.SALT}", f"--uuid={inputs.UUID}",
        f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}",
    )  # fmt: skip
    found = re.search(r"Root hash:\s*([0-9a-f]{128})", out)
    if not found:
        raise LocalFailure("veritysetup printed no root hash")
    return f"{found.group(1)},{inputs.SALT},{blocks},{blocks + 1}"  # one block of superblock before the tree


def verify(base: Base, image: Path, verity: str) -> None:
    """Check every block of root.img against its root hash."""
    roothash, _, blocks, _ = verity.split(",")
    base.tool("veritysetup", "verify", image, image, roothash, f"--hash-offset={int(blocks) * BLOCK}")


def initrd(base: Base, scratch: Path, target: Path) -> None:
    """Write initrd.img: busybox, dmsetup with its libraries, and the modules up to the root disk; lz4."""
    entries = [
        cpio.file("init", (GUEST / "initrd.sh").read_bytes(), 0o755),
        cpio.file("bin/busybox", (base.root / "usr/bin/busybox").read_bytes(), 0o755),
        cpio.Entry("dev/console", 0o020600, device=(5, 1)),
        *(cpio.folder(name) for name in ("proc", "sys", "root", "run")),
        cpio.symlink("lib64", "lib"),
    ]
    program = (base.root / "usr/sbin/dmsetup").read_bytes()
    entries.append(cpio.file("bin/dmsetup", program, 0o755))
    for name in _libraries(base, program):
        entries.append(cpio.file(f"lib/{name}", library(base, name).read_bytes(), 0o755))
    infos = module_infos(base, inputs.INITRD_MODULES)
    place = f"lib/modules/{base.release}"
    entries.append(cpio.file("etc/modules", (" ".join(map(modules.canonical, inputs.INITRD_MODULES)) + "\n").encode()))
    entries.append(cpio.file("etc/fstab", (GUEST / "fstab").read_bytes()))
    entries.append(cpio.file(f"{place}/modules.dep", modules.dependency_table(infos).encode()))
    entries += [cpio.file(f"{place}/{name}.ko", (base.modules / f"{name}.ko").read_bytes()) for name in infos]
    plain = scratch / "initrd.cpio"
    plain.write_bytes(cpio.write(entries, inputs.EPOCH))
    base.tool("lz4", "-q", "-f", "-l", "-9", plain, target)
    plain.unlink()


def _libraries(base: Base, program: bytes) -> list[str]:
    found: list[str] = []
    queue = elf.needed(program)
    while queue:
        name = queue.pop()
        if name not in found:
            found.append(name)
            queue += elf.needed((base.root / LIBRARIES / name).read_bytes())
    return sorted({*found, "ld-linux-x86-64.so.2"})


def cmdline(verity: str) -> str:
    """The kernel command line: whoever measures it measures the whole root by its hash."""
    return f"{inputs.CMDLINE} peerpods.verity={verity}"
