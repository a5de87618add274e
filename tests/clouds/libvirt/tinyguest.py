"""The smallest guest for the libvirt tests: Debian's cloud kernel and a busybox that takes an address and idles.

Made once and kept in the cache folder of the build; an image folder as the provider wants it.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SAYS = "tiny guest is up"
CMDLINE = "console=ttyS0 quiet panic=1 cryptomgr.notests rcupdate.rcu_expedited=1"
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
NET_MODULES = ("failover", "net_failover", "virtio_net")
INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in $(cat /modules); do insmod /lib/$m.ko; done
ifconfig eth0 up
udhcpc -i eth0 -q -t 20 -T 1 -s /bin/true
dd if=/dev/vdb bs=2048 skip=16 count=1 2>/dev/null | dd bs=1 skip=40 count=6 2>/dev/null; echo
echo "{SAYS}"
while :; do sleep 3600; done
"""


def image_dir() -> Path:
    """The folder with vmlinuz, initrd.img, root.img and cmdline; made if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "peerpods" / "tiny-guest-2"
    if (cache / "cmdline").exists():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
        made = _make(Path(scratch))
        try:
            made.rename(cache)
        except OSError:
            assert (cache / "cmdline").exists()  # somebody else was quicker
    return cache


def _make(scratch: Path) -> Path:
    root = _kernel(scratch)
    vmlinuz = next((root / "boot").glob("vmlinuz-*"))
    modules = next(root.glob("**/lib/modules/*"))
    tree = scratch / "initrd"
    for name in ("bin", "lib", "proc", "sys", "dev"):
        (tree / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    kept = []
    for name in (*MODULES, *NET_MODULES):
        for found in modules.glob(f"**/{name}.ko*"):
            _unpack(found, tree / "lib" / f"{name}.ko")
            kept.append(name)
    (tree / "modules").write_text("\n".join(kept) + "\n")
    out = scratch / "image"
    out.mkdir()
    shutil.copy(vmlinuz, out / "vmlinuz")
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=tree, check=True, capture_output=True
    )
    (out / "initrd.img").write_bytes(gzip.compress(packed.stdout))
    (out / "root.img").write_bytes(bytes(1 << 20))
    (out / "cmdline").write_text(CMDLINE + "\n")
    return out


def _kernel(scratch: Path) -> Path:
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], check=True, capture_output=True, text=True
    ).stdout
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends:" in line)
    subprocess.run(["apt-get", "download", "-q", package], cwd=scratch, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), "kernel"], cwd=scratch, check=True)
    return scratch / "kernel"


def _unpack(source: Path, target: Path) -> None:
    if source.suffix == ".xz":
        target.write_bytes(subprocess.run(["xz", "-dc", str(source)], check=True, capture_output=True).stdout)
    else:
        shutil.copy(source, target)
