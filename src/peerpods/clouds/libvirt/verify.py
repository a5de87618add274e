"""The check of the provider's settings against a real daemon. Each mistake names its setting and the remedy."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import libvirt

from peerpods.clouds import kvm
from peerpods.clouds.libvirt import storage
from peerpods.clouds.libvirt.settings import LibvirtSettings
from peerpods.errors import ConfigError

IMAGE_FILES = ("vmlinuz", "initrd.img", "root.img", "cmdline")
FOLDER_POOLS = ("dir", "fs", "netfs")


def is_local(uri: str) -> bool:
    """Whether the daemon runs on this machine: its files are ours to read, its CPU is ours to judge."""
    scheme, _, rest = uri.partition("://")
    transport = scheme.partition("+")[2]
    return transport in ("", "unix") and rest.startswith("/")


def uses_kvm(settings: LibvirtSettings) -> bool:
    """Whether instances get KVM. `auto` on a remote host means no: nobody can look at its CPU from here."""
    if settings.accel == "auto":
        return is_local(settings.uri) and kvm.probe().usable
    return settings.accel == "kvm"


def check_local(settings: LibvirtSettings) -> None:
    """What can be checked without the daemon.

    Raises:
        ConfigError: naming the setting.
    """
    if settings.accel == "kvm" and is_local(settings.uri):
        verdict = kvm.probe()
        if not verdict.usable:
            raise ConfigError(
                f"accel is kvm, but {verdict.reason}",
                setting="accel",
                remedy="set accel to tcg or auto, or use a machine with hardware virtualisation",
            )
    if settings.image_dir and is_local(settings.uri):
        for name in IMAGE_FILES:
            path = Path(settings.image_dir) / name
            if not path.is_file() or not os.access(path, os.R_OK):
                raise ConfigError(
                    f"image-dir {settings.image_dir} has no readable file {name}",
                    setting="image-dir",
                    remedy="build the image with `make image`, or name the folder that holds it",
                )
    if settings.image_dir and not is_local(settings.uri):
        raise ConfigError(
            f"image-dir needs a libvirt daemon on this machine, and {settings.uri} is another one",
            setting="image-dir",
            remedy="upload an image to the pool and set vol-name",
        )


def _thd_verify(conn: Any, settings: LibvirtSettings) -> None:
    """Check pool, network and base volume.

    Raises:
        ConfigError: naming the setting.
    """
    pool = _thd_pool(conn, settings)
    _thd_network(conn, settings)
    if not settings.image_dir and storage._thd_base(pool, settings.vol_name) is None:
        raise ConfigError(
            f"the pool {settings.pool_name} has no volume {settings.vol_name}",
            setting="vol-name",
            remedy=f"virsh vol-upload an image as {settings.vol_name}, or set image-dir for direct boot",
        )


def _thd_pool(conn: Any, settings: LibvirtSettings) -> Any:
    name = settings.pool_name
    try:
        pool = conn.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        raise ConfigError(
            f"libvirt has no storage pool {name!r}",
            setting="pool-name",
            remedy=f"virsh pool-define-as {name} dir --target FOLDER && virsh pool-start {name}",
        ) from error
    if not pool.isActive():
        raise ConfigError(
            f"the storage pool {name} is not active", setting="pool-name", remedy=f"virsh pool-start {name}"
        )
    kind = ET.fromstring(pool.XMLDesc(0)).get("type", "")  # noqa: S314  (from libvirt itself)
    if kind not in FOLDER_POOLS:
        raise ConfigError(
            f"the storage pool {name} is of type {kind}; qcow2 disks and console files need a folder",
            setting="pool-name",
            remedy="name a pool of type dir",
        )
    return pool


def _thd_network(conn: Any, settings: LibvirtSettings) -> None:
    name = settings.network_name
    try:
        network = conn.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
            raise
        raise ConfigError(
            f"libvirt has no network {name!r}",
            setting="network-name",
            remedy="virsh net-define FILE, or name another network",
        ) from error
    if not network.isActive():
        raise ConfigError(f"the network {name} is not active", setting="network-name", remedy=f"virsh net-start {name}")
