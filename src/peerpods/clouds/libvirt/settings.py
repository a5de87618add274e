"""Settings of the provider `libvirt`."""

from __future__ import annotations

import attrs

from peerpods.config import fields as f

_NAME = r"[^/\s<>'\"&]+"


@attrs.frozen(kw_only=True)
class LibvirtSettings:
    """Table [provider.libvirt]."""

    uri: str = f.option(
        "uri",
        f.text("a libvirt connection URI", r"[a-z0-9+]+://\S*"),
        "qemu:///system",
        "the libvirt daemon",
        env="LIBVIRT_URI",
    )
    pool_name: str = f.option(
        "pool-name",
        f.text("the name of a storage pool", _NAME),
        "default",
        "the pool for the instances' disks; a folder pool",
        env="LIBVIRT_POOL",
    )
    network_name: str = f.option(
        "network-name",
        f.text("the name of a network", _NAME),
        "default",
        "the network of the instances, which carries the tunnels",
        env="LIBVIRT_NET",
    )
    vol_name: str = f.option(
        "vol-name",
        f.text("the name of a volume", _NAME),
        "podvm-base.qcow2",
        "the image in the pool that instances start from, when image-dir is not set",
        env="LIBVIRT_VOL_NAME",
    )
    image_dir: str = f.option(
        "image-dir",
        f.optional_path(),
        "",
        "folder with vmlinuz, initrd.img, root.img, cmdline: booted directly, without a base volume",
    )
    cpu: int = f.option("cpu", f.integer(1, 512), 1, "virtual CPUs of a pod that asks for none", env="LIBVIRT_CPU")
    memory: int = f.option(
        "memory", f.integer(128, 1 << 24), 512, "MiB of a pod that asks for none", env="LIBVIRT_MEMORY"
    )
    min_memory: int = f.option(
        "min-memory",
        f.integer(64, 1 << 24),
        256,
        "least MiB of a VM, whatever its pod asks for: below it the guest does not boot",
        env="LIBVIRT_MIN_MEMORY",
    )
    cpuset: str = f.option(
        "cpuset",
        f.text("a list of CPUs such as 0-3,^2", r"[0-9,^-]*"),
        "",
        "host CPUs that instances run on; all if unset",
        env="LIBVIRT_CPUSET",
    )
    root_disk_size: int = f.option(
        "root-disk-size",
        f.integer(1, 65536),
        10,
        "least size in GiB of the root disk over a base volume",
        env="LIBVIRT_ROOT_DISK_SIZE",
    )
    firmware: str = f.option(
        "firmware",
        f.optional_path(),
        "",
        "UEFI code image for disk boot, such as /usr/share/OVMF/OVMF_CODE_4M.fd; BIOS if unset",
        env="LIBVIRT_EFI_FIRMWARE",
    )
    vtpm: str = f.option(
        "vtpm",
        f.choice("off", "on"),
        "off",
        "on: instances that boot from disk have a vTPM (libvirt needs swtpm), as images of profile prod demand",
    )
    accel: str = f.option(
        "accel",
        f.choice("auto", "kvm", "tcg"),
        "auto",
        "kvm, tcg (slow, works everywhere), or auto: kvm where the local CPU truly has it",
    )
